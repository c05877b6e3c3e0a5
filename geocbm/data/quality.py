"""What is odd about a table without being an error: shared placeholders, black frames, singletons, twins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.data.table import image_files
from geocbm.geodesy import EARTH_RADIUS_KM, latlng_to_cartesian
from geocbm.metrics.country_names import country_name
from geocbm.metrics.places import country_of

BLACK_LUMINANCE = 12.0
DARK_LUMINANCE = 40.0
CONSTANT_SPREAD = 4.0
TWIN_KM = 0.05
EXAMPLES = 5
SIDE = 96
"""Shorter side in pixels of the copy that is looked at."""
LITTLE = 0.2
"""Part of a picture that a square crop may lose without being named: 5 to 4 loses so much."""


@dataclass(frozen=True)
class Look:
    """What one look at a small copy of a picture tells.

    Attributes:
        mean: mean brightness, 0 to 255; NaN where the picture cannot be read.
        spread: its standard deviation.
        lost: part of the picture outside of its middle square.
        views: number of views that `geocbm predict` would cut from it.
        notes: sentences on how it was read.
    """

    mean: float = float("nan")
    spread: float = float("nan")
    lost: float = 0.0
    views: int = 1
    notes: tuple[str, ...] = ()


def look_at(path: Path) -> Look:
    """Look at a picture file of a table, of whatever kind (`geocbm.data.images.photographs`)."""
    from geocbm.data.images.panoramas import cut_views
    from geocbm.data.images.photographs import read_photograph
    from geocbm.errors import UserError

    try:
        photo = read_photograph(path, least_side=SIDE)
    except UserError:
        return Look()
    width, height = photo.picture.size
    views = len(cut_views(photo.picture, photo.sphere).pictures)
    small = photo.picture.convert("L")
    small.thumbnail((SIDE, SIDE))
    values = np.asarray(small, dtype=np.float64)
    lost = 1 - min(width, height) / max(width, height)
    return Look(float(values.mean()), float(values.std()), lost, views, photo.notes)


def luminance(path: Path) -> tuple[float, float]:
    """Mean and standard deviation of an image's brightness (0..255), measured on a small copy; NaN if unreadable."""
    seen = look_at(path)
    return seen.mean, seen.spread


def looks(table: pd.DataFrame, workers: int | None = None) -> list[Look]:
    """Look at every row's image; each file is read once."""
    files = image_files(table)
    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        known = dict(zip(distinct, pool.map(look_at, distinct), strict=True))
    return [known[path] for path in files]


def quality_report(table: pd.DataFrame, check_images: bool = True, workers: int | None = None) -> pd.DataFrame:
    """Count oddities that are legal but that a reader of results should know.

    Args:
        table: as `load_table` gives it.
        check_images: look at brightness too (reads every image).
        workers: threads that read images.

    Returns:
        A row per check: `check`, `rows` (how many rows are concerned), `share` of all rows, `groups` (how many distinct
        things, such as metas or shared images), `examples` and `why` it matters.
    """
    ids = table["pano_id"].to_numpy()
    found: list[dict[str, object]] = []

    def note(check: str, rows: np.ndarray, groups: int, examples: Sequence[str], why: str) -> None:
        shown = ", ".join(str(example) for example in list(examples)[:EXAMPLES])
        found.append({
            "check": check, "rows": len(rows), "share": len(rows) / max(1, len(table)), "groups": groups,
            "examples": shown, "why": why,
        })  # fmt: skip

    digest = table["image_sha256"].where(table["image_sha256"] != "")
    sharing = table.groupby(digest)["pano_id"].nunique()
    sharing = sharing[sharing > 1].sort_values(ascending=False, kind="stable")
    rows = np.flatnonzero(digest.isin(sharing.index))
    first = [f"{ids[np.flatnonzero(digest == value)[0]]} (x{count})" for value, count in sharing.items()]
    note("identical images", rows, len(sharing), first,
         "Several panoramas show the same bytes: often a placeholder, which says nothing of the place.")  # fmt: skip
    rows = np.flatnonzero(table["pano_id"].duplicated(keep=False))
    repeated = list(dict.fromkeys(ids[rows]))
    note("repeated pano_id", rows, len(repeated), repeated, "One panorama has several rows; they stay in one split.")
    rows = np.flatnonzero(table.duplicated(subset=["pano_id", "meta_name", "image_path"], keep=False))
    note("repeated rows", rows, len(set(ids[rows])), list(ids[rows]), "The same sample counts more than once.")

    if check_images:
        seen = looks(table, workers)
        mean, spread, lost = (np.array([getattr(one, name) for one in seen]) for name in ("mean", "spread", "lost"))
        black = np.flatnonzero(mean < BLACK_LUMINANCE)
        note("nearly black images", black, len(set(table["image_sha256"].iloc[black])), list(ids[black]),
             f"Mean brightness below {BLACK_LUMINANCE:g} of 255: nothing can be seen.")  # fmt: skip
        dark = np.flatnonzero(mean < DARK_LUMINANCE)
        why = f"Mean brightness below {DARK_LUMINANCE:g} of 255, the nearly black ones included: little can be seen."
        note("very dark images", dark, len(set(table["image_sha256"].iloc[dark])), list(ids[dark]), why)
        flat = np.flatnonzero(spread < CONSTANT_SPREAD)
        note("nearly constant images", flat, len(set(table["image_sha256"].iloc[flat])), list(ids[flat]),
             f"Brightness varies by less than {CONSTANT_SPREAD:g} of 255: an empty or failed frame.")  # fmt: skip
        panorama = np.array([one.views > 1 for one in seen], dtype=bool)
        for check, chosen, why in (
            ("wider or higher than a square", ~panorama & (lost > LITTLE),
             "An encoder that crops to the middle square does not see the rest in training."),
            ("panoramas", panorama,
             "Training sees their middle square only, whereas geocbm predict cuts views from all of a panorama: cut "
             "them into pictures of their own before the table is made."),
        ):  # fmt: skip
            rows = np.flatnonzero(chosen)
            share = f"On average {lost[rows].mean():.0%} of these lies outside. " if len(rows) else ""
            note(check, rows, len(set(table["image_sha256"].iloc[rows])), list(ids[rows]), share + why)
        for remark in sorted({_kind(one) for of_row in seen for one in of_row.notes}):
            rows = np.flatnonzero([any(_kind(one) == remark for one in of_row.notes) for of_row in seen])
            note(f"read with a remark: {remark}", rows, len(set(table["image_sha256"].iloc[rows])), list(ids[rows]),
                 "The pictures are used; this is how they were read.")  # fmt: skip

    for column, thing in (("meta_name", "metas"), ("country", "countries")):
        counts = table[column].value_counts().sort_index()
        for limit, words in ((1, "one sample"), (2, "two samples")):
            names = counts.index[counts == limit]
            why = (
                "It goes to train only." if limit == 1 and column == "meta_name" else "Too few for a figure of its own."
            )
            note(f"{thing} with {words}", np.flatnonzero(table[column].isin(names)), len(names), list(names), why)
        folded = counts.index.to_series().str.casefold()
        alike = sorted(folded.index[folded.duplicated(keep=False)])
        note(f"{thing} that differ in case only", np.flatnonzero(table[column].isin(alike)), len(alike), alike,
             "Probably one name spelt in two ways.")  # fmt: skip

    near = _twins(table)
    why = "Near-duplicate cameras leak from train to test in a stratified split; a spatial split keeps blocks together."
    note("places less than 50 m apart", near, len(set(ids[near])), list(ids[near]), why)
    lat, lng = table["lat"].to_numpy(), table["lng"].to_numpy()
    whole = np.flatnonzero((lat == np.round(lat)) & (lng == np.round(lng)))
    note(
        "whole degrees", whole, len(set(ids[whole])), list(ids[whole]), "Rounded coordinates are wrong by up to 79 km."
    )
    null = np.flatnonzero((lat == 0) & (lng == 0))
    note("at 0, 0", null, len(set(ids[null])), list(ids[null]), "Usually a missing position, in the Gulf of Guinea.")
    held = country_of(lat, lng)
    said = table["country"].to_numpy(dtype=object)
    apart = np.flatnonzero((held != said) & [country_name(name) is not None for name in said])
    note("in another country than the table says", apart, len(set(ids[apart])),
         [f"{ids[row]} ({said[row]}, lies in {held[row] or 'no country'})" for row in apart],
         "By country polygons drawn to about a kilometre. A few beside borders and coasts are nothing; many are "
         "coordinates that are wrong or exchanged.")  # fmt: skip
    empty = np.flatnonzero(table["note"] == "")
    note("empty notes", empty, len(empty), list(ids[empty]), "No text describes these samples.")
    return pd.DataFrame(found)


def _kind(note: str) -> str:
    """A remark without its numbers, so that pictures with the same one are counted together."""
    return re.sub(r"\d[\d,.]*", "N", note)


def _twins(table: pd.DataFrame) -> np.ndarray:
    """Rows that have a row of another panorama within `TWIN_KM`."""
    from scipy.spatial import cKDTree

    pano = pd.factorize(table["pano_id"])[0]
    _, first, of_row = np.unique(pano, return_index=True, return_inverse=True)
    points = latlng_to_cartesian(table["lat"].to_numpy()[first], table["lng"].to_numpy()[first])  # (panoramas, 3)
    if len(points) < 2:
        return np.zeros(0, dtype=np.int64)
    chord, _ = cKDTree(points).query(points, k=2)
    return np.flatnonzero((chord[:, 1] * EARTH_RADIUS_KM < TWIN_KM)[of_row])

"""What is odd about a table without being an error: shared placeholders, black frames, singletons, twins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
SIDE = 96  # shorter side in pixels of the copy that is looked at
LITTLE = 0.2  # part of a picture that a square crop may lose without being named: 5 to 4 loses so much


@dataclass(frozen=True)
class Look:
    """What one look at a small copy of a picture tells."""

    mean: float = float("nan")  # brightness, 0 to 255; NaN where the picture cannot be read
    spread: float = float("nan")  # standard deviation of the brightness
    lost: float = 0.0  # part of the picture outside of its middle square
    panorama: bool = False  # whether `geocbm predict` would cut several views from it
    notes: tuple[str, ...] = ()  # how it was read, numbers written as N


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
    panorama = len(cut_views(photo.picture, photo.sphere).pictures) > 1
    small = photo.picture.convert("L")
    small.thumbnail((SIDE, SIDE))
    values = np.asarray(small, dtype=np.float64)
    notes = tuple(re.sub(r"\d[\d,.]*", "N", note) for note in photo.notes)
    return Look(float(values.mean()), float(values.std()), 1 - min(width, height) / max(width, height), panorama, notes)


class _Findings:
    """The report as it grows, a row per check."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        self.rows: list[dict[str, Any]] = []

    def note(
        self, check: str, mask: Any, why: str, names: Sequence[Any] | None = None, distinct: str = "pano_id"
    ) -> None:
        """Note the rows of a mask `[n]`, and the things found in them: `names`, or distinct values of a column."""
        found = self.table[np.asarray(mask, dtype=bool)]
        shown = found["pano_id"] if names is None else names
        self.rows.append(
            {
                "check": check,
                "rows": len(found),
                "share": len(found) / max(1, len(self.table)),
                "groups": found[distinct].nunique() if names is None else len(names),
                "examples": ", ".join(map(str, shown[:EXAMPLES])),
                "why": why,
            }
        )


def quality_report(table: pd.DataFrame) -> pd.DataFrame:
    """Count oddities of a validated table that are legal but that a reader of results should know; images are read.

    Returns:
        A row per check: `check`, `rows` (how many rows are concerned), `share` of all rows, `groups` (how many distinct
        things, such as metas or shared images), `examples` and `why` it matters.
    """
    found = _Findings(table)
    panorama, country = table["pano_id"], table["country"]
    digest = table["image_sha256"].where(table["image_sha256"] != "")
    by_image = panorama.groupby(digest).agg(["nunique", "first"])
    sharing = by_image[by_image["nunique"] > 1].sort_values("nunique", ascending=False, kind="stable")
    first = [f"{pano} (x{count})" for count, pano in sharing.to_numpy()]
    why = "Several panoramas show the same bytes: often a placeholder, which says nothing of the place."
    found.note("identical images", digest.isin(sharing.index), why, first)
    repeated = panorama.duplicated(keep=False)
    why = "One panorama has several rows; they stay in one split."
    found.note("repeated pano_id", repeated, why, panorama[repeated].unique().tolist())
    same = table.duplicated(subset=["pano_id", "meta_name", "image_path"], keep=False)
    found.note("repeated rows", same, "The same sample counts more than once.")
    _note_pictures(found)
    _note_rare_names(found, "meta_name", "metas", "It goes to train only.")
    _note_rare_names(found, "country", "countries", "Too few for a figure of its own.")
    why = "Near-duplicate cameras leak from train to test in a stratified split; a spatial split keeps blocks together."
    found.note("places less than 50 m apart", _twins(table), why)
    whole = (table["lat"] == table["lat"].round()) & (table["lng"] == table["lng"].round())
    found.note("whole degrees", whole, "Rounded coordinates are wrong by up to 79 km.")
    nowhere = (table["lat"] == 0) & (table["lng"] == 0)
    found.note("at 0, 0", nowhere, "Usually a missing position, in the Gulf of Guinea.")
    held = pd.Series(country_of(table["lat"], table["lng"]), table.index)
    apart = (held != country) & country.map(lambda name: country_name(name) is not None)
    odd = zip(panorama[apart], country[apart], held[apart], strict=True)
    there = {pano: f"{pano} ({name}, lies in {place or 'no country'})" for pano, name, place in odd}
    why = (
        "By country polygons drawn to about a kilometre. A few beside borders and coasts are nothing; many are "
        "coordinates that are wrong or exchanged."
    )
    found.note("in another country than the table says", apart, why, list(there.values()))
    empty = table["note"] == ""
    found.note("empty notes", empty, "No text describes these samples.", panorama[empty].tolist())
    return pd.DataFrame(found.rows)


def _note_pictures(found: _Findings) -> None:
    files = image_files(found.table)
    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor() as pool:  # each file is read once
        known = dict(zip(distinct, pool.map(look_at, distinct), strict=True))
    looks = pd.DataFrame([known[path] for path in files], index=found.table.index)
    cropped = "An encoder that crops to the middle square does not see the rest in training."
    cut = (
        "Training sees their middle square only, whereas geocbm predict cuts views from all of a panorama: cut them "
        "into pictures of their own before the table is made."
    )
    black, dark = (f"Mean brightness below {level:g} of 255" for level in (BLACK_LUMINANCE, DARK_LUMINANCE))
    flat = f"Brightness varies by less than {CONSTANT_SPREAD:g} of 255: an empty or failed frame."
    checks = [
        ("nearly black images", looks["mean"] < BLACK_LUMINANCE, f"{black}: nothing can be seen."),
        (
            "very dark images",
            looks["mean"] < DARK_LUMINANCE,
            f"{dark}, the nearly black ones included: little can be seen.",
        ),
        ("nearly constant images", looks["spread"] < CONSTANT_SPREAD, flat),
    ]
    wide = ~looks["panorama"] & (looks["lost"] > LITTLE)
    for check, mask, why in (("wider or higher than a square", wide, cropped), ("panoramas", looks["panorama"], cut)):
        share = f"On average {looks['lost'][mask].mean():.0%} of these lies outside. " if mask.any() else ""
        checks.append((check, mask, share + why))
    remarks = looks["notes"].explode()
    for remark in sorted(remarks.dropna().unique()):
        read = looks.index.isin(remarks.index[remarks == remark])
        why = "The pictures are used; this is how they were read."
        checks.append((f"read with a remark: {remark}", pd.Series(read, looks.index), why))
    for check, mask, why in checks:
        found.note(check, mask, why, distinct="image_sha256")


def _note_rare_names(found: _Findings, column: str, thing: str, alone: str) -> None:
    names = found.table[column]
    counts = names.value_counts().sort_index()
    once, twice = (counts.index[counts == n].tolist() for n in (1, 2))
    found.note(f"{thing} with one sample", names.isin(once), alone, once)
    found.note(f"{thing} with two samples", names.isin(twice), "Too few for a figure of its own.", twice)
    folded = counts.index.to_series().str.casefold()
    alike = sorted(folded.index[folded.duplicated(keep=False)])
    found.note(f"{thing} that differ in case only", names.isin(alike), "Probably one name spelt in two ways.", alike)


def _twins(table: pd.DataFrame) -> np.ndarray:
    """Mark rows that have a row of another panorama within `TWIN_KM`, `[n]`."""
    from scipy.spatial import cKDTree

    _, first, of_row = np.unique(pd.factorize(table["pano_id"])[0], return_index=True, return_inverse=True)
    points = latlng_to_cartesian(table["lat"].to_numpy()[first], table["lng"].to_numpy()[first])  # (panoramas, 3)
    if len(points) < 2:
        return np.zeros(len(table), dtype=bool)
    chord, _ = cKDTree(points).query(points, k=2)
    return (chord[:, 1] * EARTH_RADIUS_KM < TWIN_KM)[of_row]

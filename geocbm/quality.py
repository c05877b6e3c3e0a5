"""What is odd about a table without being an error: shared placeholders, black frames, singletons, twins."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.geodesy import EARTH_RADIUS_KM, latlng_to_cartesian
from geocbm.pictures import to_rgb
from geocbm.tables import image_files

BLACK_LUMINANCE = 12.0
DARK_LUMINANCE = 40.0
CONSTANT_SPREAD = 4.0
TWIN_KM = 0.05
EXAMPLES = 5


def luminance(path: Path) -> tuple[float, float]:
    """Mean and standard deviation of an image's brightness (0..255), measured on a small copy; NaN if unreadable."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.draft("L", (96, 96))  # JPEGs are decoded at a fraction of their size
            small = to_rgb(image).convert("L")
            small.thumbnail((96, 96))
    except Exception:  # decoders raise errors of many kinds for damaged files
        return float("nan"), float("nan")
    values = np.asarray(small, dtype=np.float64)
    return float(values.mean()), float(values.std())


def brightness(table: pd.DataFrame, workers: int | None = None) -> np.ndarray:
    """Mean and standard deviation of brightness of every row's image, `[n, 2]`; each file is read once."""
    files = image_files(table)
    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        known = dict(zip(distinct, pool.map(luminance, distinct), strict=True))
    return np.array([known[path] for path in files], dtype=np.float64).reshape(-1, 2)


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
        mean, spread = brightness(table, workers).T
        black = np.flatnonzero(mean < BLACK_LUMINANCE)
        note("nearly black images", black, len(set(table["image_sha256"].iloc[black])), list(ids[black]),
             f"Mean brightness below {BLACK_LUMINANCE:g} of 255: nothing can be seen.")  # fmt: skip
        dark = np.flatnonzero(mean < DARK_LUMINANCE)
        why = f"Mean brightness below {DARK_LUMINANCE:g} of 255, the nearly black ones included: little can be seen."
        note("very dark images", dark, len(set(table["image_sha256"].iloc[dark])), list(ids[dark]), why)
        flat = np.flatnonzero(spread < CONSTANT_SPREAD)
        note("nearly constant images", flat, len(set(table["image_sha256"].iloc[flat])), list(ids[flat]),
             f"Brightness varies by less than {CONSTANT_SPREAD:g} of 255: an empty or failed frame.")  # fmt: skip

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
    empty = np.flatnonzero(table["note"] == "")
    note("empty notes", empty, len(empty), list(ids[empty]), "No text describes these samples.")
    return pd.DataFrame(found)


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

"""Small tables about a data set, for its reader: the table at a glance, what was rejected, the sizes of the splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.data import SPLIT_NAMES, image_files, split_rows


def at_a_glance(table: pd.DataFrame) -> pd.DataFrame:
    """Counts and extents of a validated table: columns `figure, value`."""
    per_meta = table["meta_name"].value_counts()
    rows = [
        ("rows", f"{len(table):,}"),
        ("panoramas", f"{table['pano_id'].nunique():,}"),
        ("distinct pictures", f"{table['image_sha256'].nunique():,}"),
        ("countries", f"{table['country'].nunique():,}"),
        ("metas", f"{len(per_meta):,}"),
        ("parents", f"{table['parent_concept'].nunique():,}"),
        ("rows per meta", f"{per_meta.min():,} to {per_meta.max():,}, median {per_meta.median():,.0f}"),
        ("latitudes", f"{table['lat'].min():.2f} to {table['lat'].max():.2f}"),
        ("longitudes", f"{table['lng'].min():.2f} to {table['lng'].max():.2f}"),
        ("rows rejected", f"{table.attrs.get('n_rejected', 0):,}"),
    ]
    return pd.DataFrame(rows, columns=["figure", "value"])


def rejected(path: str | Path, limit: int = 20) -> pd.DataFrame:
    """Rows that were dropped, counted by reason.

    Args:
        path: `rejected.csv` as `load_table` writes it.
        limit: most frequent reasons to list.
    """
    if not Path(path).exists():
        return pd.DataFrame([{"reason": "none were dropped", "rows": 0, "first line": ""}])
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    # The rows stand there as in the user's file, whose columns may have other names; the line is always known.
    grouped = rows.groupby("reason").agg(rows=("reason", "size"), first=("line", "first")).reset_index()
    grouped = grouped.sort_values(["rows", "reason"], ascending=[False, True]).head(limit)
    return grouped.rename(columns={"first": "first line"}).reset_index(drop=True)


def split_sizes(splits: Mapping[str, Sequence[str]], table: pd.DataFrame) -> pd.DataFrame:
    """Rows, share, metas and countries of each split."""
    positions = split_rows(splits, table)
    rows = []
    for name in SPLIT_NAMES:
        part = table.iloc[positions[name]]
        rows.append(
            {
                "split": name,
                "rows": len(part),
                "share": round(len(part) / max(len(table), 1), 3),
                "panoramas": part["pano_id"].nunique(),
                "metas": part["meta_name"].nunique(),
                "countries": part["country"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def split_remark(table: pd.DataFrame, splits: Mapping[str, Sequence[str]], country: str = "") -> str:
    """What the test split means, in a sentence or two.

    Args:
        table: the table that was split.
        splits: as `data.make_splits` gives them.
        country: the country that was left out, if one was.
    """
    test = table["pano_id"].isin(set(splits["test"])).to_numpy()
    if not test.any():
        return "The test split is empty: nothing can be measured on it."
    if not country:
        return (
            f"Test images come from {table['country'][test].nunique():,} of {table['country'].nunique():,} countries."
        )
    learned = set(table["meta_name"][table["pano_id"].isin(set(splits["train"]))])
    unseen = sorted(set(table["meta_name"][test]) - learned)
    others = int((table["country"][test].astype(str) != country).sum())
    text = (
        f"The test split is {country}, which training and validation never show. No cell lies there, so that the "
        "country of the named cell is wrong by construction; only an offset across the border or the gallery can reach "
        "it. A region of cells promises nothing about images from a country that calibration has not seen."
    )
    if others:
        text += f" Rows from elsewhere belong to it too where they share a panorama or a picture with it ({others:,})."
    if unseen:
        shown = ", ".join(unseen[:5]) + (", ..." if len(unseen) > 5 else "")
        text += f" Concepts that occur there alone cannot be named ({len(unseen):,}): {shown}."
    return text


def examples_by_parent(
    table: pd.DataFrame, columns: int, parents: int = 6, seed: int = 0
) -> tuple[list[Path], list[str]]:
    """Pictures for a contact sheet, one row per parent concept, different metas first.

    Args:
        table: validated table.
        columns: pictures in a row.
        parents: rows at most, the largest parents first.
        seed: which pictures are drawn.

    Returns:
        Files and captions (the meta of each), at most `columns` per parent.
    """
    generator = np.random.default_rng(seed)
    files = image_files(table)
    chosen: list[int] = []
    for parent in table["parent_concept"].value_counts().index[:parents]:
        members = np.flatnonzero((table["parent_concept"] == parent).to_numpy())
        shuffled = generator.permutation(members)
        # Rank within the meta: every meta shows its first picture before any shows its second.
        order = table["meta_name"].iloc[shuffled].groupby(table["meta_name"].iloc[shuffled]).cumcount().to_numpy()
        picked = shuffled[np.argsort(order, kind="stable")][:columns]
        chosen += sorted(picked.tolist(), key=lambda row: str(table["meta_name"].iloc[row]))
    return [files[row] for row in chosen], [str(table["meta_name"].iloc[row]) for row in chosen]

"""How much of a score may be memory of the same road: test images that lie near training images.

The model itself cannot be measured on another split than its own (see `split_comparison`); a second run of the same
table can, and stands beside it here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geocbm import data
from geocbm.errors import UserError
from geocbm.evaluation.methods import main_predictions
from geocbm.evaluation.split_comparison import (
    FIGURES,
    SAME_ROAD_KM,
    in_words,
    place_figures,
    split_name,
    split_settings,
)
from geocbm.files import read_json
from geocbm.metrics import bootstrap, error_km, figure_text, geoscore, paired_difference, recordable, spatial_blocks
from geocbm.run import Run

BINS_KM = (0.0, 1.0, 25.0, 50.0, 200.0, np.inf)
"""Edges of the distance to the nearest training place: the lower one belongs to a bin."""


def by_distance(
    nearest_km: np.ndarray, errors: Mapping[str, np.ndarray], blocks: np.ndarray, n: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Error by the distance to the nearest training place.

    Args:
        nearest_km: `[n_rows]` distance from each test image to the nearest training place.
        errors: `[n_rows]` errors in km of each method, by name.
        blocks: `[n_rows]` spatial blocks.
        n: resamples behind each interval.
        seed: of the resamples.

    Returns:
        A row per bin that has images and method: `low_km, high_km, bin` (in words), `n, method`, and `median_km`,
        `geoscore`, `within_25km`, each with `_low` and `_high`.
    """
    rows = []
    for low, high in itertools.pairwise(BINS_KM):
        inside = (nearest_km >= low) & (nearest_km < high)
        if not inside.any():
            continue
        label = f"{low:g} to {high:g} km" if np.isfinite(high) else f"{low:g} km and more"
        for method, km in errors.items():
            row: dict[str, Any] = {"low_km": low, "high_km": high, "bin": "below 1 km" if not low else label}
            row |= {"n": int(inside.sum()), "method": method}
            for figure, own in place_figures(km[inside], blocks[inside], n, seed).items():
                row |= {figure: own["value"], f"{figure}_low": own["low"], f"{figure}_high": own["high"]}
            rows.append(row)
    columns = ["low_km", "high_km", "bin", "n", "method"]
    columns += [f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=columns)


def distance_table(table: pd.DataFrame, n_all: int) -> pd.DataFrame:
    """A table of `by_distance` in words: a row per bin, a column per method with the median error.

    Args:
        table: of `by_distance`.
        n_all: number of test images.
    """
    rows = []
    for label, own in table.groupby("bin", sort=False):
        count = int(own["n"].iloc[0])
        line = {"nearest training place": label, "test images": f"{count:,} ({count / n_all:.0%})"}
        for row in own.to_dict("records"):
            figure = {"value": row["median_km"], "low": row["median_km_low"], "high": row["median_km_high"]}
            line[f"{row['method']}: median error, km"] = figure_text(figure)
        rows.append(line)
    return pd.DataFrame(rows)


def without_near(
    nearest_km: np.ndarray, km: np.ndarray, blocks: np.ndarray, limit: float, n: int = 1000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """What is left of the GeoScore without the images that have a training place nearby.

    Args:
        nearest_km: `[n_rows]` distance from each test image to the nearest training place.
        km: `[n_rows]` errors in km.
        blocks: `[n_rows]` spatial blocks.
        limit: images nearer than this are left out, km.
        n: resamples behind each interval.
        seed: of the resamples.

    Returns:
        `all`, `far` (without them) and `change` (far minus all), each with an interval; empty where no image is left.
    """
    far = nearest_km >= limit
    if not far.any():
        return {}
    score = geoscore(km)
    kept = np.where(far, score, np.nan)
    options: dict[str, Any] = {"blocks": blocks, "n": n, "seed": seed}
    return {
        "all": bootstrap(score, **options),
        "far": bootstrap(kept, **options),
        "change": paired_difference(kept, score, **options),
    }


def without_near_table(
    nearest_km: np.ndarray, errors: Mapping[str, np.ndarray], blocks: np.ndarray, n: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """GeoScore of all test images and of those without a training place within 1 and 25 km, in words."""
    rows = []
    for limit in (SAME_ROAD_KM, 25.0):
        for method, km in errors.items():
            found = without_near(nearest_km, km, blocks, limit, n, seed)
            if found:
                rows.append(
                    {
                        "left out": f"training place within {limit:g} km",
                        "images left": f"{int((nearest_km >= limit).sum()):,} of {len(nearest_km):,}",
                        "method": method,
                        "GeoScore of all": figure_text(found["all"]),
                        "GeoScore of those left": figure_text(found["far"]),
                        "change": figure_text(found["change"], "{:+z,.0f}"),
                    }
                )
    return pd.DataFrame(rows)


def verdict(nearest_km: np.ndarray, km: np.ndarray, blocks: np.ndarray, n: int = 1000, seed: int = 0) -> str:
    """How much of the run's GeoScore rests on images with a training place nearby, in sentences.

    Args:
        nearest_km: `[n_rows]` distance from each test image to the nearest training place.
        km: `[n_rows]` errors in km.
        blocks: `[n_rows]` spatial blocks.
        n: resamples behind each interval.
        seed: of the resamples.
    """
    if not len(nearest_km):
        return "The test split is empty: nothing can be said of memory."
    sentences = []
    for limit in (SAME_ROAD_KM, 25.0):
        share = float((nearest_km < limit).mean())
        text = f"{share:.1%} of the test images have a training place within {limit:g} km"
        found = without_near(nearest_km, km, blocks, limit, n, seed)
        if not share:
            text += "."
        elif not found:
            text += ", so that none is left to compare with."
        else:
            change = found["change"]
            clear = change["high"] < 0 or change["low"] > 0
            text += f"; without them the GeoScore changes by {figure_text(change, '{:+z,.0f}')}, "
            text += "beyond noise." if clear else "which noise alone could do."
        sentences.append(text)
    return " ".join(sentences)


def siblings(files: Run) -> list[Run]:
    """Runs of the same table with another kind of split and predictions of their own, by name.

    A run whose files do not fit together is passed over.
    """
    own, found = split_settings(files), []
    digest = files.table.attrs["csv_sha256"]
    for path in sorted(files.folder.parent.glob("*/splits.json")):
        other = Run(path.parent)
        try:
            stored = read_json(path)
            if stored.get("csv_sha256") != digest or stored.get("kind") == own["kind"]:
                continue
            main_predictions(other)
        except (UserError, OSError, ValueError, KeyError, AttributeError):
            continue
        found.append(other)
    return found


def sibling_table(files: Run, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Stage 2 of this run and of its siblings, each on its own test split; this run alone where there are none."""
    rows = []
    for run in [files, *siblings(files)]:
        places, settings = main_predictions(run), split_settings(run)
        if not len(places):
            continue
        km = error_km(places["lat"], places["lng"], places["true_lat"], places["true_lng"])
        blocks = spatial_blocks(places["true_lat"], places["true_lng"])
        nearest = data.nearest_train_km(run.table, data.load_splits(run.need("splits.json"), run.table))
        line = {
            "run": run.name,
            "split": split_name(settings["kind"], settings["block_km"], settings["held_out_country"]),
            "test images": f"{len(places):,}",
            "nearest training place (median), km": f"{np.median(nearest):,.1f}",
        }
        rows.append(line | in_words(place_figures(km, blocks, n, seed)))
    return pd.DataFrame(rows)


def sibling_plan(files: Run) -> tuple[str, dict[str, Any]]:
    """Name and changed parameters (`NN.name`) of the run with the other kind of split.

    With it the model itself can be measured on the other kind. The names end in the kind, and `chain.toml` lets the
    page be made again when predictions of such a run appear.
    """
    other = "spatial" if split_settings(files)["kind"] == "stratified" else "stratified"
    name = files.name.removesuffix("-spatial").removesuffix("-stratified")
    return f"{name}-{other}", {"01.split": other, "01.held_out_country": ""}


def records(nearest_km: np.ndarray, km: np.ndarray, blocks: np.ndarray, n: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Figures to keep: nearness of the test split, and what the GeoScore loses without near images."""
    if not len(nearest_km):
        return {}
    figures: dict[str, Any] = {
        "nearest_train_km": float(np.median(nearest_km)),
        "test_within_1km": float((nearest_km < SAME_ROAD_KM).mean()),
    }
    for limit in (SAME_ROAD_KM, 25.0):
        found = without_near(nearest_km, km, blocks, limit, n, seed)
        kept = recordable(found["change"]) if found else None
        if kept is not None:
            figures[f"geoscore_change_without_{limit:.0f}km"] = kept
    return figures

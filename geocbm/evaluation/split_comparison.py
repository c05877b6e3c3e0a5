"""The kinds of split a table allows, what each means, and what frozen features get on each.

The stages of a run were trained on its own split: on the test images of another one they would be asked for images
they have learned from. Other kinds are therefore measured with methods on the features of the untouched encoder, which
never saw any place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm import data, geocells
from geocbm.data.summaries import split_remark
from geocbm.evaluation import baselines
from geocbm.evaluation.baselines import Prediction
from geocbm.evaluation.methods import Validation
from geocbm.evaluation.methods.distributions import linear_probe
from geocbm.evaluation.uncertainty import Places
from geocbm.files import read_json
from geocbm.geodesy import latlng_to_cartesian
from geocbm.metrics import Resamples, error_km, figure_text, geoscore, spatial_blocks
from geocbm.run import Run

SAME_ROAD_KM = 1.0
WIDE_BLOCK_KM = 25.0
"""Side of the wide blocks beside those of the run: at 1 km a town can still lie in both train and test."""

FIGURES = ("median_km", "geoscore", "within_25km")
"""What methods are measured by on each kind of split."""


@dataclass(frozen=True)
class SplitKind:
    """A way to split the run's table.

    Attributes:
        name: what it is called on the page.
        rows: row positions of `train`, `val` and `test`.
        nearest_km: `[rows of test]` distance to the nearest training place.
        own: whether it is the run's own.
    """

    name: str
    rows: dict[str, np.ndarray]
    nearest_km: np.ndarray
    own: bool


def split_settings(files: Run) -> dict[str, Any]:
    """Kind, seed and settings of the run's own split: `kind, seed, block_km, held_out_country`."""
    stored = read_json(files.need("splits.json"))
    settings = {"block_km": 1.0, "held_out_country": ""} | stored.get("settings", {})
    return {"kind": stored.get("kind", "stratified"), "seed": stored.get("seed", 0)} | settings


def split_name(kind: str, block_km: float = 1.0, country: str = "") -> str:
    """What a kind of split is called on the page."""
    if kind == "spatial":
        return f"spatial, blocks of {block_km:g} km"
    return f"all but {country}" if kind == "leave_country_out" else kind


def split_kinds(files: Run) -> list[SplitKind]:
    """The run's own split and the other kinds of the same table, drawn with the same seed.

    "stratified" and "spatial" (with the run's blocks and with wide ones) are always among them.
    """
    settings = split_settings(files)
    seed, block = settings["seed"], settings["block_km"]
    own_name = split_name(settings["kind"], block, settings["held_out_country"])
    wanted = [("stratified", block), ("spatial", block), ("spatial", max(block, WIDE_BLOCK_KM))]
    kinds = []
    for kind, side in dict.fromkeys(wanted):
        name = split_name(kind, side)
        if name != own_name:
            splits = data.make_splits(files.table, kind, seed=seed, block_km=side)
            rows = data.split_rows(splits, files.table)
            kinds.append(SplitKind(name, rows, data.nearest_train_km(files.table, splits), False))
        else:
            kinds.append(_own_kind(files, own_name))
    return kinds if any(kind.own for kind in kinds) else [_own_kind(files, own_name), *kinds]


def _own_kind(files: Run, name: str) -> SplitKind:
    splits = data.load_splits(files.need("splits.json"), files.table)
    return SplitKind(name, files.rows, data.nearest_train_km(files.table, splits), True)


def remark_of(files: Run) -> str:
    """What the test split of a run means, in a sentence or two."""
    splits = data.load_splits(files.need("splits.json"), files.table)
    return split_remark(files.table, splits, split_settings(files)["held_out_country"])


def region_remark(files: Run) -> str:
    """Whether the promise of a conformal region holds for the test split of a run, in a sentence."""
    settings = split_settings(files)
    if settings["kind"] == "leave_country_out":
        return (
            f"The test split is {settings['held_out_country']}, which validation has no image of and where no "
            "cell lies. The promise is void here: measured coverage refers to the nearest cell abroad."
        )
    if settings["kind"] == "spatial":
        return "Validation and test are other blocks of ground, drawn alike: the promise is one about new blocks."
    return "Validation and test images were drawn alike, so that the promise applies to the test split."


def frozen_answers(files: Run, kind: SplitKind, vanilla: np.ndarray) -> list[Prediction]:
    """Nearest neighbour and linear probe on frozen features, learned from a split's training rows alone.

    The cells of the probe are fitted on the same rows, with the settings of the run's own. The strength of its penalty
    and the point it answers are chosen on the split's own validation rows.

    Args:
        files: the run.
        kind: the split.
        vanilla: `[n, d]` features of the untouched encoder for all rows of the table.
    """
    train, val, test = (kind.rows[split] for split in ("train", "val", "test"))
    lat, lng, country = files.lat[train], files.lng[train], files.country[train]
    cells = files.cells if kind.own else geocells.build_geocells(lat, lng, country, **files.cells.settings)
    label = cells.assign(files.lat, files.lng, files.country)
    places = Places(cells.centers, latlng_to_cartesian(lat, lng), cells.sample_to_cell)
    validation = Validation(places, label[val], files.lat[val], files.lng[val])
    return [
        baselines.nearest_neighbour(vanilla[train], vanilla[test], lat, lng),
        linear_probe(validation, vanilla, kind.rows, {"cell": label}),
    ]


def measure_kinds(files: Run, kinds: list[SplitKind], cache: Path, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Methods on frozen features, measured on every kind of split.

    Args:
        files: the run.
        kinds: of `split_kinds`; one without test images is passed over.
        cache: folder of the feature stores.
        n: resamples behind each interval.
        seed: of the resamples.

    Returns:
        A row per kind and method: `kind, own, method, n, nearest_km` (median over test images), `near` (share with a
        training place within 1 km), `similar_near` (share whose most similar training picture was taken within 1 km),
        and `median_km`, `geoscore`, `within_25km`, each with `_low` and `_high`.
    """
    vanilla = files.features("vanilla").read_all("pooled").numpy()
    rows = []
    for kind in kinds:
        test = kind.rows["test"]
        if not len(test):
            continue
        answers = frozen_answers(files, kind, vanilla)
        blocks = spatial_blocks(files.lat[test], files.lng[test])
        errors = {each.name: error_km(each.lat, each.lng, files.lat[test], files.lng[test]) for each in answers}
        for name, km in errors.items():
            row: dict[str, Any] = {"kind": kind.name, "own": kind.own, "method": name, "n": len(test)}
            row["nearest_km"] = float(np.median(kind.nearest_km))
            row["near"] = float((kind.nearest_km < SAME_ROAD_KM).mean())
            row["similar_near"] = float((errors["nearest_neighbour"] < SAME_ROAD_KM).mean())
            for figure, own in place_figures(km, blocks, n, seed).items():
                row |= {figure: own["value"], f"{figure}_low": own["low"], f"{figure}_high": own["high"]}
            rows.append(row)
    columns = ["kind", "own", "method", "n", "nearest_km", "near", "similar_near"]
    columns += [f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=columns)


def place_figures(km: np.ndarray, blocks: np.ndarray, n: int, seed: int) -> dict[str, dict[str, float]]:
    """`median_km`, `geoscore` and `within_25km` of errors in km, each with its interval."""
    draws = Resamples(blocks, n, seed)
    return {
        "median_km": draws.figure(km, "median"),
        "geoscore": draws.figure(geoscore(km)),
        "within_25km": draws.figure(km <= 25),
    }


def in_words(figures: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The figures of `place_figures` as cells of a table."""
    return {
        "median error, km": figure_text(figures["median_km"]),
        "GeoScore": figure_text(figures["geoscore"]),
        "within 25 km, %": figure_text(figures["within_25km"], "{:.1f}", 100),
    }


def nearness_table(measured: pd.DataFrame) -> pd.DataFrame:
    """How near the training places of each kind of split are, in words: a row per kind.

    Args:
        measured: of `measure_kinds`.
    """
    rows = [
        {
            "split": _kind_words(row),
            "test images": f"{row['n']:,}",
            "nearest training place (median)": f"{row['nearest_km']:,.1f} km",
            "training place within 1 km": f"{row['near']:.1%}",
            "most similar training picture within 1 km": f"{row['similar_near']:.1%}",
        }
        for row in measured.drop_duplicates("kind").to_dict("records")
    ]
    return pd.DataFrame(rows)


def kinds_table(measured: pd.DataFrame, words: Mapping[str, str]) -> pd.DataFrame:
    """The figures of methods on each kind of split, in words: a row per kind and method.

    Args:
        measured: of `measure_kinds`.
        words: what the methods are called.
    """
    rows = []
    for row in measured.to_dict("records"):
        figures = {
            name: {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]} for name in FIGURES
        }
        rows.append({"split": _kind_words(row), "method": words.get(row["method"], row["method"])} | in_words(figures))
    return pd.DataFrame(rows)


def _kind_words(row: Mapping[Any, Any]) -> str:
    return str(row["kind"]) + (" (this run)" if row["own"] else "")

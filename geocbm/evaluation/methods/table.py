"""All methods of a run in one table: measured alike, in the order and under the names of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from geocbm.evaluation import baselines
from geocbm.evaluation.baselines import Prediction
from geocbm.metrics import country_of, error_km, expected_calibration_error, figure_text
from geocbm.metrics.table import metric
from geocbm.run import Run

METHOD_WORDS = {
    "chance": "chance (a random training image)",
    "prior": "prior",
    "mean_colour": "mean colour, 1-NN",
    "gallery": "gallery of Stage 0",
    "training_gallery": "gallery of training places",
    "geoclip": "GeoCLIP's own model",
    "nearest_neighbour": "nearest neighbour",
    "knn": "nearest neighbours",
    "zero_shot_country": "zero-shot country by prompts",
    "zero_shot_concept": "zero-shot concept by prompts",
    "linear_probe": "linear probe",
    "stage1": "Stage 1",
    "stage2": "Stage 2",
    "country_centroid": "true country (oracle)",
    "true_meta": "true label alone (oracle)",
    "true_concepts": "true concepts (oracle)",
}
"""What the methods are called on the page, in the order of the page; other recipes and variants of Stage 2 stand before
the oracles."""

ORACLES = ("country_centroid", "true_meta", "true_concepts")
TOLD = {"country_centroid": "country_acc", "true_meta": "meta_top1"}
"""What an oracle is told, and therefore right about by construction: it is not measured."""


def words_of(name: str, detail: str = "") -> str:
    """What a method is called on the page, with what was chosen for it."""
    for prefix, words in (("recipe_", "Stage 2, recipe {}"), ("variant_", "Stage 2, {}")):
        if name.startswith(prefix):
            return words.format(name.removeprefix(prefix))
    return METHOD_WORDS[name] + (f", {detail}" if detail else "")


def is_baseline(name: str) -> bool:
    """Whether a method is one to be held against: no stage of a run, and no oracle."""
    return name in METHOD_WORDS and name not in ORACLES and not name.startswith("stage")


def in_order(names: Sequence[str]) -> list[str]:
    """Names of methods in the order of the page."""
    known = [name for name in METHOD_WORDS if name in names and name not in ORACLES]
    others = [name for prefix in ("recipe_", "variant_") for name in names if name.startswith(prefix)]
    return known + others + [name for name in ORACLES if name in names]


def measure(files: Run, answers: Sequence[Prediction], n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """All figures of all methods with their intervals, a row per method, in the order of the page.

    Returns:
        As `baselines.table`, with `method`, the name on the page, and `answered`, which point of its distribution the
        method answers. What an oracle is told is NaN. Without test images all figures are NaN.
    """
    from geocbm.evaluation.uncertainty import POINT_WORDS

    test = files.rows["test"]
    by_name = {answer.name: answer for answer in answers}
    ordered = [by_name[name] for name in in_order(list(by_name))]
    meta = files.meta_and_parent[0][test]
    table = baselines.table(
        ordered, files.lat[test], files.lng[test], files.country[test], meta, n=n_resamples, seed=seed
    )
    for name, figure in TOLD.items():
        table.loc[table["name"] == name, [figure, f"{figure}_low", f"{figure}_high"]] = np.nan
    answered = [POINT_WORDS[answer.choice.point] if answer.choice else "" for answer in ordered]
    return table.assign(method=[words_of(answer.name, answer.detail) for answer in ordered], answered=answered)


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The table in words, each figure with its interval; missing answers, which are misses, are counted if any are."""
    words = {
        "median_km": "median error, km",
        "country_acc": "country right, %",
        "geoscore": "GeoScore",
        "meta_top1": "labelled concept right, %",
    }

    def cell(row: Mapping[Any, Any], figure: str) -> str:
        own = metric(f"stage2.{figure}")
        if TOLD.get(row["name"]) == figure:
            return "told"
        ends = {end: row[f"{figure}_{end}"] for end in ("low", "high")}
        return figure_text({"value": row[figure]} | ends, own.form, own.unit.factor)

    printed = pd.DataFrame(
        [
            {"method": row["method"]} | {label: cell(row, figure) for figure, label in words.items()}
            for row in table.to_dict("records")
        ]
    )
    if "answered" in table and table["answered"].ne("").any():
        printed.insert(1, "place answered", table["answered"].to_numpy())
    if "n_missing" in table and table["n_missing"].any():
        printed["without an answer"] = [f"{count:,}" if count else "" for count in table["n_missing"]]
    return printed


def forest_rows(table: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Rows of one figure for `plots.forest`, methods under the names of the page."""
    rows = baselines.forest_rows(table, figure)
    return rows.assign(name=rows["name"].map(dict(zip(table["name"], table["method"], strict=True))))


def errors_km(files: Run, answers: Sequence[Prediction]) -> dict[str, np.ndarray]:
    """Error of every method that names a place, by image of the test split."""
    test = files.rows["test"]
    by_name = {answer.name: answer for answer in answers}
    errors = {}
    for name in in_order(list(by_name)):
        one = by_name[name]
        if one.lat is not None:
            errors[words_of(name, one.detail)] = error_km(one.lat, one.lng, files.lat[test], files.lng[test])
    return errors


def by_country(files: Run, answer: Prediction) -> pd.DataFrame:
    """Median error and share of right countries by true country: columns `country, n, median_km, country_acc`."""
    test = files.rows["test"]
    truth = country_of(files.lat[test], files.lng[test])
    frame = pd.DataFrame(
        {
            "country": files.country[test],
            "km": error_km(answer.lat, answer.lng, files.lat[test], files.lng[test]),
            "right": (country_of(answer.lat, answer.lng) == truth) & (truth != ""),
        }
    )
    grouped = frame.groupby("country").agg(n=("km", "size"), median_km=("km", "median"), country_acc=("right", "mean"))
    return grouped.reset_index()


def record(put: Callable[[str, Any], None], table: pd.DataFrame, confidence: np.ndarray, right: np.ndarray) -> None:
    """Record the figures of all methods with their intervals, and the calibration error.

    A stage's own figures, such as `stage1.meta_top1`, take the place of those its page recorded without an interval.

    Args:
        put: takes a dotted key and a figure.
        table: of `measure`.
        confidence: `[n]` probability of the named cell.
        right: `[n]` whether it was the true one.
    """
    for key, figure in baselines.records(table).items():
        name = key.removeprefix("baseline.")
        own = name.startswith(("stage", "recipe_", "variant_"))
        for prefix in ("recipe", "variant"):
            name = name.replace("_", ".", 1) if name.startswith(f"{prefix}_") else name
        put(name if own else key, figure)
    if len(confidence):
        put("sure.ece", expected_calibration_error(confidence, right))

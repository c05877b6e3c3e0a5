"""What is left when all concepts are removed.

A model that reasons through its concepts then knows no more than the prior. The answer that is left is one place for
all pictures; in mode `concept_scores` it comes from the constants of the linear layer alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.explain.concept_labels import ConceptLabels, InterventionValues
from geocbm.explain.interventions import correct_concepts
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics import Resamples, geoscore, spatial_blocks

if TYPE_CHECKING:
    from geocbm.explain.intervention_model import InterventionModel
    from geocbm.run import Run

AS_SEEN, REMOVED = "with its concepts", "all concepts removed"
FREQUENT, CENTRAL = "prior: the most frequent cell", "prior: the place in the middle"
CELL_FIGURES = ("cell_acc", "log_loss")


def ablate_all_concepts(
    files: Run, model: InterventionModel, rows: np.ndarray, n_resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Hold the model without concepts against two priors.

    "The most frequent cell" answers with its centre and believes in each cell as often as training pictures lie in it.
    "The place in the middle" is the page of evaluation's prior: the training place with the smallest median distance
    to the others; it names no cell.

    Args:
        files: the run.
        model: Stage 2.
        rows: pictures to ask about.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of the resamples.

    Returns:
        A row per method: `method`, `median_km`, `geoscore`, `cell_acc` (share of right cells) and `log_loss` (mean of
        `-log p` of the true cell, nats), each with `_low` and `_high`; `cell_acc_change` and `log_loss_change` are
        paired differences from the most frequent cell.
    """
    from geocbm.evaluation.baselines import training_prior

    lat, lng, cell = files.lat[rows], files.lng[rows], files.cell_label[rows]
    train, cells = files.rows["train"], files.cells
    resamples = Resamples(spatial_blocks(lat, lng), n_resamples, seed)
    removed = model.baseline.expand(len(rows), -1)
    answers = []
    for method, edited in ((AS_SEEN, None), (REMOVED, removed)):
        places = model.predict(rows, edited)
        answers.append((method, places.lat, places.lng, places.probabilities))
    counts = np.bincount(files.cell_label[train], minlength=len(cells))
    share = np.tile(counts / counts.sum(), (len(rows), 1))
    centre = [float(values[0]) for values in cartesian_to_latlng(cells.centers[[counts.argmax()]])]
    answers.append((FREQUENT, np.full(len(rows), centre[0]), np.full(len(rows), centre[1]), share))
    middle = training_prior(files.lat[train], files.lng[train], len(rows), seed=seed)
    table = []
    frequent = answers[-1][3]
    for method, said_lat, said_lng, chance in [*answers, (CENTRAL, middle.lat, middle.lng, None)]:
        km = haversine_km(said_lat, said_lng, lat, lng)
        values = {"median_km": km, "geoscore": geoscore(km)}
        if chance is not None:
            values |= _of_cells(chance, cell)
        row: dict[str, object] = {"method": method}
        for name in ("median_km", "geoscore", *CELL_FIGURES):
            interval = dict.fromkeys(("value", "low", "high"), float("nan"))
            if name in values:
                statistic = "median" if name == "median_km" else "mean"
                interval = resamples.figure(values[name], statistic)
            row |= {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
        for name, own in _of_cells(frequent, cell).items():
            change = dict.fromkeys(("value", "low", "high"), float("nan"))
            if name in values:
                change = resamples.difference(values[name], own)
            ends = {"value": "", "low": "_low", "high": "_high"}
            row |= {f"{name}_change{ends[end]}": figure for end, figure in change.items()}
        table.append(row)
    return pd.DataFrame(table)


def _of_cells(chance: np.ndarray, cell: np.ndarray) -> dict[str, np.ndarray]:
    """Whether the true cell is named, and minus the logarithm of the belief in it, of beliefs `[m, N]`."""
    believed = np.maximum(chance[np.arange(len(cell)), cell], 1e-12)
    return {"cell_acc": (chance.argmax(1) == cell).astype(float), "log_loss": -np.log(believed)}


AT, BETTER, WORSE = "at the prior", "better than the prior", "below the prior"
MARGIN_NATS = 0.1
"""By so much may the log loss lie above the prior's before "below" is said: a tenth of the true cell's probability."""


def against_prior(left: pd.DataFrame) -> str:
    """Where the model without concepts stands: `AT`, `BETTER` or `WORSE` than how often each cell occurs.

    It is better where it names the true cell more often than the most frequent cell does, or believes more in it than
    its frequency says, and worse where it believes less in it by more than `MARGIN_NATS`: each beyond the interval of
    the paired difference, or of both figures where there is no paired one.

    Args:
        left: of `ablate_all_concepts`.
    """
    by_method = left.set_index("method")
    without, prior = by_method.loc[REMOVED], by_method.loc[FREQUENT]
    if (
        "cell_acc_change" in left
        and np.isfinite([without["cell_acc_change_low"], without["log_loss_change_low"]]).all()
    ):
        better = without["cell_acc_change_low"] > 0 or without["log_loss_change_high"] < 0
        worse = without["log_loss_change_low"] > 0
    else:
        better = without["cell_acc_low"] > prior["cell_acc_high"] or without["log_loss_high"] < prior["log_loss_low"]
        worse = without["log_loss_low"] > prior["log_loss_high"]
    if better:
        return BETTER
    return WORSE if worse and without["log_loss"] - prior["log_loss"] > MARGIN_NATS else AT


def falls_to_prior(left: pd.DataFrame) -> bool:
    """Whether the model without concepts knows as much as how often each cell occurs, no more and no less."""
    return against_prior(left) == AT


def left_in_words(left: pd.DataFrame) -> pd.DataFrame:
    """The table of `ablate_all_concepts` for a page."""
    forms = {
        "median_km": ("median error, km", "{:,.0f}", 1.0),
        "geoscore": ("GeoScore", "{:,.0f}", 1.0),
        "cell_acc": ("cell right, %", "{:.1f}", 100.0),
        "log_loss": ("log loss of the true cell, nats", "{:.2f}", 1.0),
    }
    rows = []
    for row in left.to_dict("records"):
        shown = {"": row["method"]}
        for name, (words, form, factor) in forms.items():
            parts = [form.format(factor * row[f"{name}{end}"]) for end in ("", "_low", "_high")]
            shown[words] = "" if np.isnan(row[name]) else "{} [{}, {}]".format(*parts)
        rows.append(shown)
    return pd.DataFrame(rows)


def interval_of(left: pd.DataFrame, method: str, name: str) -> dict[str, float]:
    """A figure of one method of `ablate_all_concepts` with its interval, for a record."""
    row = next(row for row in left.to_dict("records") if row["method"] == method)
    return {"value": float(row[name]), "low": float(row[f"{name}_low"]), "high": float(row[f"{name}_high"])}


def left_sentence(left: pd.DataFrame) -> str:
    """Whether the model without concepts falls to the prior, as the figures of `ablate_all_concepts` say."""
    right = {name: 100 * interval_of(left, name, "cell_acc")["value"] for name in (REMOVED, FREQUENT, AS_SEEN)}
    loss = {name: interval_of(left, name, "log_loss")["value"] for name in (REMOVED, FREQUENT, AS_SEEN)}
    stands = {AT: "falls to the prior", WORSE: "falls below the prior", BETTER: "does not fall to the prior"}
    return (
        f"Without concepts the model {stands[against_prior(left)]}: it names the true cell in {right[REMOVED]:.1f} % "
        f"of the pictures (the most frequent cell: {right[FREQUENT]:.1f} %, with concepts: {right[AS_SEEN]:.1f} %), "
        f"and its log loss is {loss[REMOVED]:.2f} (prior: {loss[FREQUENT]:.2f}, with concepts: {loss[AS_SEEN]:.2f})."
    )


def intervention_effect_by_mode(
    files: Run,
    models: Mapping[str, InterventionModel],
    presence: ConceptLabels,
    levels: InterventionValues,
    rows: np.ndarray,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How far an edit of all concepts reaches in each mode: what goes past the concepts no edit can change.

    Args:
        files: the run.
        models: modes of Stage 2 by name.
        presence: what is known of all pictures.
        levels: scores that stand for "there" and "not there".
        rows: pictures to ask about.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of the resamples.

    Returns:
        A row per mode: `mode`, and `seen_km`, `told_km` (all that is known is corrected) and `removed_km`, median
        errors with `_low` and `_high`.
    """
    lat, lng = files.lat[rows], files.lng[rows]
    resamples, known = Resamples(spatial_blocks(lat, lng), n_resamples, seed), presence.at(rows)
    table = []
    for mode, model in models.items():
        told = correct_concepts(model.scores[rows], known.known, known.present, levels)
        row: dict[str, object] = {"mode": mode}
        for name, edited in (("seen", None), ("told", told), ("removed", model.baseline.expand(len(rows), -1))):
            places = model.predict(rows, edited)
            km = haversine_km(places.lat, places.lng, lat, lng)
            interval = resamples.figure(km, "median")
            row |= {
                f"{name}_km": interval["value"],
                f"{name}_km_low": interval["low"],
                f"{name}_km_high": interval["high"],
            }
        table.append(row)
    return pd.DataFrame(table)


def reach_in_words(reach: pd.DataFrame, all_known: bool) -> pd.DataFrame:
    """The table of `intervention_effect_by_mode` for a page: median errors in km.

    Args:
        reach: of `intervention_effect_by_mode`.
        all_known: whether the truth about all concepts is known, or only the labels.
    """
    told = "told the truth about all concepts" if all_known else "told the labelled concept"
    columns = {"seen_km": "as it sees them", "told_km": told, "removed_km": "all concepts removed"}
    rows = []
    for row in reach.to_dict("records"):
        shown = {"mode of Stage 2": row["mode"]}
        for name, words in columns.items():
            shown[f"{words}, km"] = "{:,.0f} [{:,.0f}, {:,.0f}]".format(
                *(row[f"{name}{end}"] for end in ("", "_low", "_high"))
            )
        rows.append(shown)
    return pd.DataFrame(rows)

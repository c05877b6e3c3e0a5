"""What the page of interventions asks of a run, in the words of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from geocbm.explain.ablation import FREQUENT, REMOVED, falls_to_prior, interval_of
from geocbm.explain.concept_labels import ConceptLabels, InterventionValues
from geocbm.explain.counterfactuals import Counterfactual
from geocbm.explain.flows import Flows, concept_flows, flow_amounts, picture_amounts, place_of_cells
from geocbm.explain.intervention_curve import (
    POLICIES,
    UNITS,
    choose_levels,
    intervention_curve,
    named_cell_terms,
    non_monotone_steps,
)
from geocbm.explain.intervention_model import InterventionModel, load_intervention_model
from geocbm.metrics import figure_text, recordable

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.run import Run


def seen_picture(files: Run, encoder: ImageEncoder, row: int) -> Image:
    """A picture of the table as the model sees it."""
    from geocbm.data import image_files
    from geocbm.data.images.pictures import open_picture

    return encoder.crop(open_picture(image_files(files.table.iloc[[row]])[0]))


def truth_in_words(presence: ConceptLabels) -> str:
    """What is known of the true concepts, for the page."""
    metas = presence.present.sum(axis=1).mean()
    if presence.complete:
        return (
            f"The data comes with ground truth: all visible concepts are known, {metas:.1f} concepts and families per "
            "picture."
        )
    return "The data has no ground truth: only the labelled concept of each picture is known to be there."


def usual_levels(
    model: InterventionModel, presence: ConceptLabels, files: Run
) -> tuple[InterventionValues, pd.DataFrame]:
    """Scores that stand for "there" and "not there", and how well each percentile did on the validation split."""

    def locate(edited: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        places = model.predict(files.rows["val"], edited)
        return places.lat, places.lng

    levels, tried = choose_levels(
        locate,
        model.scores.numpy(),
        presence,
        files.rows["val"],
        files.rows["train"],
        files.concepts.parent_index,
        files.lat,
        files.lng,
    )
    words = ["chosen" if percentile == levels.percentile else "" for percentile in tried["percentile"]]
    return levels, tried.assign(chosen=words).rename(columns={"geoscore": "mean GeoScore", "chosen": ""})


def both_curves(
    model: InterventionModel,
    presence: ConceptLabels,
    levels: InterventionValues,
    files: Run,
    rows: np.ndarray,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Intervention curves for single concepts and, where all is known, for families (see `intervention_curve`).

    Args:
        model: Stage 2 in mode `concept_scores`.
        presence: what is known of all pictures.
        levels: scores that stand for "there" and "not there".
        files: the run.
        rows: pictures to ask about.
        n_resamples: resamples behind each interval.
        seed: of the random orders and the resamples.
    """

    def locate(edited: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        places = model.predict(rows, edited, chunk=1024)
        return places.lat, places.lng

    scores = model.scores[rows].numpy()
    terms = named_cell_terms(model.head, scores)
    return pd.concat(
        [
            intervention_curve(
                locate,
                scores,
                presence.at(rows),
                levels,
                files.concepts.parent_index,
                files.lat[rows],
                files.lng[rows],
                # With one known concept there is one order.
                policies=tuple(POLICIES) if presence.complete else ("random",),
                unit=unit,
                contribution=terms,
                n_resamples=n_resamples,
                seed=seed,
            )
            for unit in (tuple(UNITS) if presence.complete else ("concepts",))
        ],
        ignore_index=True,
    )


def curve_table(curve: pd.DataFrame) -> pd.DataFrame:
    """Curves in a row each: their ends, their mean and where they go the wrong way."""
    rows = []
    for (unit, policy), points in curve.groupby(["unit", "policy"], sort=False):
        back = non_monotone_steps(points)
        first, last = points.iloc[0], points.iloc[-1]
        rows.append(
            {
                "corrected": UNITS[str(unit)],
                "order": POLICIES[str(policy)],
                "nothing corrected, km": _interval(first, "median_km"),
                "all that is known, km": _interval(last, "median_km"),
                "mean GeoScore of the curve": round(float(points["geoscore"].mean())),
                "worse than an earlier step": ", ".join(str(n) for n in back["n"]) or "at none",
            }
        )
    return pd.DataFrame(rows)


def curve_sentence(curve: pd.DataFrame) -> str:
    """Whether the error falls as the model is told the truth, as the figures say."""
    first, last = curve.iloc[0], curve.iloc[-1]
    orders = curve.groupby(["unit", "policy"], sort=False)
    good = sum(not len(non_monotone_steps(points)) for _, points in orders)
    return (
        f"Told all that is known, the median error goes from {first['median_km']:,.0f} to {last['median_km']:,.0f} km. "
        f"In {good} of {len(orders)} orders no step is worse than an earlier one beyond noise."
    )


def _interval(row: Any, name: str) -> str:
    return figure_text(_figure(row, name))


def picture_flows(model: InterventionModel, row: int, files: Run) -> Flows:
    """Which concepts of one picture speak for which of its likeliest countries, see `picture_amounts`."""
    amount, country = picture_amounts(model, row, place_of_cells(files.cells))
    return _flows(amount, country, files, "terms in favour of the likeliest countries", 14)


def named_flows(model: InterventionModel, rows: np.ndarray, files: Run) -> Flows:
    """Which concepts speak for the countries that are named, over many pictures, see `flow_amounts`."""
    amount, country = flow_amounts(model, rows, place_of_cells(files.cells))
    exact = model.head.config.reads_scores
    what = "terms in favour of the named country" if exact else "probabilities of concepts by named country"
    return _flows(amount, country, files, what, 26)


def _flows(amount: np.ndarray, country: np.ndarray, files: Run, what: str, most: int) -> Flows:
    concepts = files.concepts
    return concept_flows(amount, country, concepts.metas, concepts.parents, concepts.parent_index, what, most)


def edit_table(stories: Sequence[Counterfactual], files: Run) -> pd.DataFrame:
    """Every edit at full strength: the likeliest country before and after, and how far the answer moved."""
    from geocbm.geodesy import haversine_km

    names, member = np.unique(place_of_cells(files.cells), return_inverse=True)
    rows = []
    for number, story in enumerate(stories, start=1):
        for edit, places in zip(story.edits, story.answers, strict=True):
            chance = places.probabilities[[0, -1]]
            ends = np.stack([np.bincount(member.reshape(-1), row, len(names)) for row in chance])
            (before, after), moved = ends.argmax(axis=1), haversine_km(
                places.lat[0], places.lng[0], places.lat[-1], places.lng[-1]
            )  # fmt: skip
            rows.append(
                {
                    "picture": f"{number}: {story.caption}",
                    "edit": edit.words,
                    "before": f"{names[before]} {ends[0, before]:.0%}",
                    "after": f"{names[after]} {ends[1, after]:.0%}",
                    "answer moved, km": round(float(moved)),
                    "belief moved, %": round(50 * float(np.abs(chance[1] - chance[0]).sum())),
                }
            )
    return pd.DataFrame(rows)


def trained_modes(
    files: Run, features: FeatureStore, concepts: dict[str, torch.Tensor]
) -> dict[str, InterventionModel]:
    """The main mode of a run, and the other modes that it has trained, by name."""
    from geocbm.models.stage2.config import ABLATION_MODES

    main = load_intervention_model(files, features, concepts)
    mode = main.head.config.ablation_mode
    found: dict[str, InterventionModel] = {mode: main}
    for other in ABLATION_MODES:
        if other != mode and files.belongs(f"stage2_{other}.safetensors"):
            found[other] = load_intervention_model(files, features, concepts, f"stage2_{other}")
    return found


def constants_are_left(model: InterventionModel) -> bool:
    """Whether the logits without any concept are the constants of the linear layer, to 1e-4."""
    head = model.head
    with torch.inference_mode():
        logits = head(model.baseline[None].to(head.cell_head.weight.device)).cell_logits[0]
        return bool((logits - head.cell_head.bias).abs().max() < 1e-4)


def intervention_records(
    curve: pd.DataFrame, left: pd.DataFrame, reach: pd.DataFrame, levels: InterventionValues, gap: float
) -> dict[str, float | dict[str, float]]:
    """Figures of the page: keys below `intervene`.

    Args:
        curve: of `both_curves`.
        left: of `ablate_all_concepts`.
        reach: of `intervention_effect_by_mode`.
        levels: those in use.
        gap: largest deviation of contributions from the log odds.
    """
    found: dict[str, float | dict[str, float]] = {"percentile": levels.percentile, "contribution_gap": gap}
    for (unit, policy), points in curve.groupby(["unit", "policy"], sort=False):
        key = f"{unit}.{policy}"
        found[f"{key}.mean_geoscore"] = float(points["geoscore"].mean())
        found[f"{key}.setbacks"] = len(non_monotone_steps(points))
    for step, end in (("none", 0), ("all", -1)):
        point = curve.iloc[end]
        for name in ("median_km", "geoscore"):
            found[f"{step}.{name}"] = _figure(point, name)
    for method, key in ((REMOVED, "removed_all"), (FREQUENT, "prior")):
        for name in ("cell_acc", "log_loss"):
            found[f"{key}.{name}"] = interval_of(left, method, name)
    found["prior.median_km"] = interval_of(left, FREQUENT, "median_km")
    found["removed_all.falls_to_prior"] = float(falls_to_prior(left))
    for row in reach.to_dict("records"):
        for name in ("told", "removed"):
            found[f"{row['mode']}.{name}_median_km"] = _figure(row, f"{name}_km")
    kept = {name: recordable(figure) if isinstance(figure, dict) else figure for name, figure in found.items()}
    return {name: figure for name, figure in kept.items() if figure is not None}


def _figure(row: Any, name: str) -> dict[str, float]:
    return {"value": float(row[name]), "low": float(row[f"{name}_low"]), "high": float(row[f"{name}_high"])}

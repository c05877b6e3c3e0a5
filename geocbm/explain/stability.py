"""Stability: is it the same explanation when the model is trained again with another seed?

Stages 1 and 2 are trained again, all else equal, and what they say of the same picture is compared: the order of the
concepts, the map of the concept that the first seed names, and attention. The yardstick is the same comparison between
different pictures: what any two pictures share is no explanation of one of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.explain.localization import SMALL, concept_boxes, points
from geocbm.explain.maps import MapModel, concept_maps
from geocbm.files.progress import track
from geocbm.metrics import Estimate, Resamples, columns_of, entries_of, recordables, spatial_blocks
from geocbm.models.stage1 import predict_stage1
from geocbm.models.stage2_inference import concept_input, predict_stage2
from geocbm.run import Run, stages

CONCEPTS, MAPS, ATTENTION = "order of the concepts", "map of the named concept", "attention"


class SeedExplanation(NamedTuple):
    """What one seed says of some pictures."""

    scores: np.ndarray  # [m, k_m] probabilities of the concepts
    maps: np.ndarray  # [m, P] of the concepts that the first seed names
    attention: np.ndarray  # [m, P], mean over the heads
    pointing: float | None = None  # share of labelled small concepts that their map hits; None without ground truth


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of two `[m, k]`, ties at their mean rank; NaN where a row is constant."""
    from scipy.stats import rankdata

    first, second = (rankdata(table, axis=1) for table in (one, other))
    first, second = first - first.mean(axis=1, keepdims=True), second - second.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (first * second).sum(axis=1) / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))


def explain_seeds(
    model: MapModel, rows: np.ndarray, seeds: Sequence[int], kind: str | None = None
) -> list[SeedExplanation]:
    """Train both stages with each of several seeds and explain the same pictures `[m]` by concept maps of a kind.

    No checkpoint is written; a line is printed per seed.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ParameterError(f"stability_seeds is {list(seeds)}; give at least two different seeds, or none")
    run, features = model.run, model.features
    found: list[SeedExplanation] = []
    named = np.zeros(0, dtype=np.int64)
    boxes = concept_boxes(run, model.encoder, rows)
    boxes = None if boxes is None else boxes.at(boxes.labelled & (boxes.chance < SMALL))
    for seed in track(seeds, "trainings with other seeds"):
        config1 = replace(stages.load_stage1(run).config, seed=seed, tracking="disabled")
        config2 = replace(stages.load_stage2(run).config, seed=seed, tracking="disabled")
        stage1, _ = stages.fit_stage1(run, config1, features, None, report=lambda line: None)
        concepts = predict_stage1(stage1, features.read_all("pooled"), tokens=features)
        head, _ = stages.fit_stage2(run, config2, concepts, features, None, report=lambda line: None)
        seeded = replace(model, stage1=stage1)
        scores = concepts["meta_probabilities"].numpy()[rows]
        named = named if found else scores.argmax(axis=1)
        maps = concept_maps(seeded, rows, named, kind)
        attention = predict_stage2(head, concept_input(head.config, concepts), features, rows)["attention"]
        pointing = None
        if boxes is not None and len(boxes):
            pointing = float(points(boxes.touched, concept_maps(seeded, boxes.row, boxes.meta, kind)).mean())
        found.append(SeedExplanation(scores, maps, attention, pointing))
        print(f"seed {seed}: trained and explained")
    return found


def measure_stability(
    run: Run, rows: np.ndarray, seeded: Sequence[SeedExplanation], n_resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Rank correlation of the explanations of the same picture over pairs of seeds, and of different pictures.

    For the maps of the named concept, different pictures are pictures of the same concept where there are others, so
    that the yardstick also knows where such a concept usually stands. Intervals are by blocks of 100 km.

    Returns:
        A row for each explanation: `explanation`, and `same` and `different` with `_low` and `_high`; none that is
        constant, such as the attention of a mode that asks no patch. `attrs` holds the number of seeds and their
        shares of hits in the pointing game (`seeds`, `pointing`).
    """
    resamples = Resamples(spatial_blocks(run.lat[rows], run.lng[rows]), n_resamples, seed)
    all_alike = np.zeros(len(rows))
    compared = (
        (CONCEPTS, [one.scores for one in seeded], all_alike),
        (MAPS, [one.maps for one in seeded], seeded[0].scores.argmax(axis=1)),
        (ATTENTION, [one.attention for one in seeded], all_alike),
    )
    lines = []
    for name, tables, groups in compared:
        if not tables[0].size or np.ptp(tables[0]) == 0:
            continue
        pairs, other = list(combinations(tables, 2)), _next(groups)
        same = np.mean([rank_correlation(one, two) for one, two in pairs], axis=0)
        different = np.mean([rank_correlation(one, two[other]) for one, two in pairs], axis=0)
        # A picture that is alone in its group has no other to be compared with.
        different = np.where(other == np.arange(len(rows)), np.nan, different)
        line: dict[str, object] = {"explanation": name, **columns_of("same", resamples.estimate(same))}
        lines.append(line | columns_of("different", resamples.estimate(different)))
    table = pd.DataFrame(lines)
    pointing = [own.pointing for own in seeded if own.pointing is not None]
    table.attrs |= {"seeds": len(seeded), "pointing": pointing}
    return table


def _next(groups: np.ndarray) -> np.ndarray:
    """For each of `m` the position of the next one of its group, the first after the last; alone in it, itself."""
    following = np.arange(len(groups))
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        following[own] = np.roll(own, -1)
    return following


def stability_metrics(measured: pd.DataFrame | None) -> dict[str, float | Estimate]:
    """Metrics to keep: `stability_concepts`, `stability_map` and `stability_attention`, each also `..._between`."""
    keys, kept = {CONCEPTS: "concepts", MAPS: "map", ATTENTION: "attention"}, dict[str, Estimate]()
    for column, end in (("same", ""), ("different", "_between")):
        found = entries_of(measured, "explanation", column)
        kept |= {f"stability_{keys[name]}{end}": one for name, one in found.items()}
    return recordables(kept)

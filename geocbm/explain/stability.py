"""Is it the same explanation when the model is trained again with another seed?

Stages 1 and 2 are trained again, all else equal, and what they say of the same picture is compared: the order of the
concepts, the map of the concept that the first seed names, and attention. The yardstick is the same comparison between
different pictures: what any two pictures share is no explanation of one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.explain.maps import concept_maps
from geocbm.metrics import Resamples, recordables, spatial_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
    from geocbm.run import Run

CONCEPTS, MAPS, ATTENTION = "order of the concepts", "map of the named concept", "attention"


class Seeded(NamedTuple):
    """What one seed says of some pictures.

    Attributes:
        scores: `[m, k_m]` probabilities of the concepts.
        maps: `[m, P]` maps of the concepts that the first seed names.
        attention: `[m, P]`, mean over the heads.
        pointing: share of the labelled small concepts at which their map points; None where the data does not know
            where concepts are.
    """

    scores: np.ndarray
    maps: np.ndarray
    attention: np.ndarray
    pointing: float | None = None


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of two tables, ties at their mean rank.

    Args:
        one: `[m, k]`.
        other: `[m, k]`.

    Returns:
        `[m]`; NaN where a row is constant.

    Raises:
        ParameterError: the shapes differ.
    """
    from scipy.stats import rankdata

    if one.shape != other.shape or one.ndim != 2:
        raise ParameterError(f"tables have the shapes {one.shape} and {other.shape}; give two of the same (m, k)")
    first, second = (rankdata(table, axis=1) for table in (one, other))
    first, second = first - first.mean(axis=1, keepdims=True), second - second.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (first * second).sum(axis=1) / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))


def train_seed(
    files: Run, features: FeatureStore, seed: int
) -> tuple[Stage1ConceptModel, Stage2CrossAttentionGeoHead, dict[str, Tensor]]:
    """Train Stages 1 and 2 of a run again with another seed, all else equal; no checkpoint is written.

    Args:
        files: the run, with both stages trained.
        features: the adapted features.
        seed: of initialisation, order and dropout.

    Returns:
        Both models, and what Stage 1 says of every row.
    """
    from geocbm import pipeline
    from geocbm.models import stage1

    config1 = replace(pipeline.load_stage1(files).config, seed=seed, tracking="disabled")
    config2 = replace(pipeline.load_stage2(files).config, seed=seed, tracking="disabled")
    model, _ = pipeline.fit_stage1(files, config1, features, None, _silent)
    concepts = stage1.predict_stage1(model, features.read_all("pooled"), tokens=features)
    head, _ = pipeline.fit_stage2(files, config2, concepts, features, None, _silent)
    return model, head, concepts


def explain_seeds(
    files: Run,
    encoder: ImageEncoder,
    features: FeatureStore,
    rows: np.ndarray,
    seeds: Sequence[int],
    kind: str | None = None,
    report: Callable[[str], None] = print,
) -> list[Seeded]:
    """Train with each seed and explain the same pictures.

    Args:
        files: the run.
        encoder: the adapted encoder.
        features: the adapted features.
        rows: `[m]` the pictures.
        seeds: at least two different ones.
        kind: of the concept maps.
        report: called with one line per seed.

    Raises:
        ParameterError: fewer than two seeds, or one twice.
    """
    from geocbm.explain.boxes import true_pairs
    from geocbm.explain.localization import SMALL, points
    from geocbm.models.stage2 import concept_input, predict_stage2

    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ParameterError(f"stability_seeds is {list(seeds)}; give at least two different seeds, or none")
    found: list[Seeded] = []
    named = np.zeros(0, dtype=np.int64)
    pairs = true_pairs(files, encoder, rows)
    pairs = None if pairs is None else pairs.at(pairs.labelled & (pairs.chance < SMALL))
    for seed in seeds:
        model, head, concepts = train_seed(files, features, seed)
        scores = concepts["meta_probabilities"].numpy()[rows]
        named = named if found else scores.argmax(axis=1)
        maps = concept_maps(files, encoder, model, features, rows, named, kind)
        attention = predict_stage2(head, concept_input(head.config, concepts), features, rows)["attention"]
        pointing = None
        if pairs is not None and len(pairs):
            own = concept_maps(files, encoder, model, features, pairs.row, pairs.meta, kind)
            pointing = float(points(pairs.touched, own).mean())
        found.append(Seeded(scores, maps, attention, pointing))
        report(f"seed {seed}: trained and explained")
    return found


def measure_stability(
    files: Run, rows: np.ndarray, seeded: Sequence[Seeded], n_resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Rank correlation of the explanations of the same picture over pairs of seeds, and of different pictures.

    For the maps of the named concept, different pictures are pictures of the same concept where there are others, so
    that the yardstick also knows where such a concept usually stands.

    Args:
        files: the run.
        rows: `[m]` the pictures.
        seeded: of `explain_seeds`.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of the resamples.

    Returns:
        A row for each explanation: `explanation`, and `same` and `different` with `_low` and `_high`; none that is
        constant, such as the attention of a mode that asks no patch. `attrs` holds the number of seeds and their
        shares of hits in the pointing game (`seeds`, `pointing`).
    """
    resamples = Resamples(spatial_blocks(files.lat[rows], files.lng[rows]), n_resamples, seed)
    named = seeded[0].scores.argmax(axis=1)
    others = {CONCEPTS: _next(np.zeros(len(rows))), MAPS: _next(named), ATTENTION: _next(np.zeros(len(rows)))}
    lines = []
    for number, name in enumerate((CONCEPTS, MAPS, ATTENTION)):
        tables = [np.asarray(own[number]) for own in seeded]
        if not tables[0].size or np.ptp(tables[0]) == 0:
            continue
        pairs = [(one, two) for i, one in enumerate(tables) for two in tables[i + 1 :]]
        line: dict[str, object] = {"explanation": name}
        for words, moved in (("same", np.arange(len(rows))), ("different", others[name])):
            values = np.mean([rank_correlation(one, two[moved]) for one, two in pairs], axis=0)
            if words == "different":  # a picture that is alone in its group has no other to be compared with
                values = np.where(moved == np.arange(len(rows)), np.nan, values)
            figure = resamples.figure(values)
            line |= {words: figure["value"], f"{words}_low": figure["low"], f"{words}_high": figure["high"]}
        lines.append(line)
    table = pd.DataFrame(lines)
    pointing = [own.pointing for own in seeded if own.pointing is not None]
    table.attrs |= {"seeds": len(seeded), "pointing": pointing}
    return table


def seeds_sentence(measured: pd.DataFrame | None) -> str:
    """The pointing game of every seed, in a sentence; empty where it was not measured."""
    shares = [] if measured is None else measured.attrs.get("pointing", [])
    if not shares:
        return ""
    each = ", ".join(f"{one:.0%}" for one in shares)
    return (
        f"In the pointing game the maps of {len(shares)} training seeds hit {each} of the labelled small concepts: "
        f"from {min(shares):.0%} to {max(shares):.0%}."
    )


def _next(groups: np.ndarray) -> np.ndarray:
    """For each of `m` the position of the next one of its group, the first after the last; alone in it, itself."""
    following = np.arange(len(groups))
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        following[own] = np.roll(own, -1)
    return following


def stability_table(measured: pd.DataFrame) -> pd.DataFrame:
    """The table of `measure_stability` for a page."""
    lines = []
    for row in measured.to_dict("records"):
        shown = {"explanation": row["explanation"]}
        for name, words in (("same", "same picture, other seed"), ("different", "another picture, other seed")):
            shown[words] = "{:.2f} [{:.2f}, {:.2f}]".format(
                *(float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
            )
        lines.append(shown)
    return pd.DataFrame(lines)


def stability_figures(measured: pd.DataFrame | None, name: str = MAPS) -> dict[str, dict[str, float]] | None:
    """Figures `same` and `different` of one explanation, as the trust card takes them; None where not measured."""
    own = None if measured is None else measured[measured["explanation"] == name]
    if own is None or not len(own):
        return None
    row: pd.Series = own.iloc[0]
    return {
        kind: {end or "value": float(row[f"{kind}{'_' if end else ''}{end}"]) for end in ("", "low", "high")}
        for kind in ("same", "different")
    }


def stability_records(measured: pd.DataFrame | None) -> dict[str, float | dict[str, float]]:
    """Figures to keep: `stability_concepts`, `stability_map` and `stability_attention`, each also `..._between`."""
    figures = {}
    for name, key in ((CONCEPTS, "concepts"), (MAPS, "map"), (ATTENTION, "attention")):
        for kind, figure in (stability_figures(measured, name) or {}).items():
            figures[f"stability_{key}" + ("" if kind == "same" else "_between")] = figure
    return recordables(figures)


def _silent(_: str) -> None:
    """Report nothing."""

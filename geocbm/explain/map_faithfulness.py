"""Everything that a run's maps are held against: where concepts are, and what happens to the answer without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.explain.faithfulness import (
    DELETION,
    INSERTION,
    PIXELS,
    RANDOM,
    TOKENS,
    Removal,
    measure_removal,
    pixel_answer,
    sample_rows,
    token_answer,
)
from geocbm.explain.localization import Localisation, choose_kind, measure_localisation
from geocbm.explain.maps import centre_map, named_map
from geocbm.explain.stability import explain_seeds, measure_stability
from geocbm.metrics import figure_text, recordables

if TYPE_CHECKING:
    from torch import Tensor

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
    from geocbm.run import Run

Figure = dict[str, float]
CONCEPTS, ATTENTION, MIDDLE = "maps of the named concepts", "attention", "from the middle outwards"
STRICT, MAIN = "strict bottleneck", "main mode"


@dataclass(frozen=True)
class MapTruth:
    """What was measured of the maps of a run.

    Attributes:
        kind: kind of the concept maps, chosen on the validation split.
        tried: share of hits on the validation split, by kind; empty where there was nothing to choose.
        located: what maps point at; None where the data does not know where concepts are.
        removals: by model (`STRICT`, `MAIN`) and way (`TOKENS`, `PIXELS`).
    """

    kind: str
    tried: dict[str, float]
    located: Localisation | None
    removals: dict[tuple[str, str], Removal]

    def deletion(self) -> dict[str, Figure]:
        """How much more the true cell loses by the concept maps than by patches at random and from the middle.

        In the strict bottleneck; of pixels where they were taken away, else of tokens.

        Returns:
            Figures `random` and `centre`, as the trust card takes them; empty where nothing was taken away.
        """
        own = self.removals.get((STRICT, PIXELS)) or self.removals.get((STRICT, TOKENS))
        if own is None:
            return {}
        return {"random": own.gain(CONCEPTS), "centre": own.gain(CONCEPTS, MIDDLE)}


def measure_maps(
    files: Run,
    encoder: ImageEncoder,
    features: FeatureStore,
    concepts: Mapping[str, Tensor],
    stage1: Stage1ConceptModel,
    strict: Stage2CrossAttentionGeoHead,
    main: Stage2CrossAttentionGeoHead,
    pictures: int = 150,
    n_resamples: int = 1000,
    seed: int = 0,
) -> MapTruth:
    """Hold the maps of a run against boxes, chance, the middle, and the answer without the patches they name.

    Concept maps explain the strict bottleneck, where nothing but concepts reaches the answer; the main mode may look
    past them.

    Args:
        files: the run.
        encoder: the adapted encoder.
        features: the adapted features.
        concepts: of `pipeline.predict_concepts`.
        stage1: the concept model.
        strict: a head in mode `concept_scores`.
        main: the head of the run's main mode.
        pictures: test pictures whose pixels are blurred and encoded anew; 0 leaves that out.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of the resamples, the random patches and the choice of pictures.
    """
    from geocbm.models.stage2 import concept_input, predict_stage2

    test, scores = files.rows["test"], concepts["meta_probabilities"].numpy()
    attention = predict_stage2(main, concept_input(main.config, concepts), features, test)["attention"]
    kind, tried = choose_kind(files, encoder, stage1, features)
    located = measure_localisation(
        files, encoder, stage1, features, scores, test, attention, kind, n_resamples=n_resamples, seed=seed
    )
    maps = {CONCEPTS: named_map(files, encoder, stage1, features, scores, test, kind=kind)}
    if attention.size and np.ptp(attention) > 0:
        maps[ATTENTION] = attention
    maps[MIDDLE] = centre_map(encoder.grid)
    heads = {STRICT: strict} if main.config.ablation_mode == "concept_scores" else {STRICT: strict, MAIN: main}
    some = sample_rows(test, pictures, seed)
    chosen = np.flatnonzero(np.isin(test, some))
    few = {name: own[chosen] if own.ndim == 2 else own for name, own in maps.items()}
    removals: dict[tuple[str, str], Removal] = {}
    # Without tokens in the bottleneck none reaches the strict model.
    reached = heads if stage1.needs_tokens else {name: head for name, head in heads.items() if name == MAIN}
    if reached:
        answer = token_answer(files, stage1, reached, features, test)
        found = measure_removal(files, answer, TOKENS, test, maps, n_resamples=n_resamples, seed=seed)
        removals |= {(name, TOKENS): own for name, own in found.items()}
    if pictures:
        answer = pixel_answer(files, encoder, stage1, heads, test[chosen])
        found = measure_removal(
            files, answer, PIXELS, test[chosen], few, (DELETION,), n_resamples=n_resamples, seed=seed
        )
        removals |= {(name, PIXELS): own for name, own in found.items()}
    return MapTruth(kind, tried, located, removals)


def removals_table(truth: MapTruth) -> pd.DataFrame:
    """Areas between the curves in words: a row for each model, way, curve and map."""
    lines = []
    for (model, way), removal in truth.removals.items():
        for curve, by_order in removal.probability.items():
            for order in (name for name in by_order if name != RANDOM):
                figure = removal.gain(order, curve=curve)
                words = figure_text(figure, "{:+z.1f}", 100)
                line = {"model": model, "curve": f"{curve} of {way}", "pictures": f"{len(removal.rows):,}"}
                lines.append(line | {"order of the patches": order, "beyond random patches, points": words})
    return pd.DataFrame(lines)


def removal_records(truth: MapTruth) -> dict[str, float | Figure]:
    """Figures to keep: `deletion_gain`, the card's, and one for each model, way and curve.

    Those are called `deletion_gain_strict_pixels`, `insertion_gain_main_tokens` and so on, with `attention_` in front
    where the patches go in the order of attention.
    """
    own = truth.deletion()
    kept = {"deletion_gain": own["random"]} if own else {}
    for (model, way), removal in truth.removals.items():
        short = f"{'strict' if model == STRICT else 'main'}_{way}"
        for curve, by_order in removal.probability.items():
            kept[f"{curve}_gain_{short}"] = removal.gain(CONCEPTS, curve=curve)
            if ATTENTION in by_order:
                kept[f"attention_{curve}_gain_{short}"] = removal.gain(ATTENTION, curve=curve)
    # The key that others read; insertion is only done with tokens.
    if (STRICT, TOKENS) in truth.removals:
        kept["insertion_gain"] = truth.removals[STRICT, TOKENS].gain(CONCEPTS, curve=INSERTION)
    return recordables(kept)


def chosen_kind(truth: MapTruth) -> str:
    """Which kind of map is shown and measured, and why."""
    if not truth.tried:
        return f"Concept maps are of the kind {truth.kind!r}."
    shares: Sequence[str] = [f"{kind!r} {share:.0%}" for kind, share in truth.tried.items()]
    return (
        f"Concept maps are of the kind {truth.kind!r}: on the validation split the maximum lies on a small visible "
        f"concept in {', '.join(shares)} of the cases."
    )


def run_stability(
    files: Run,
    encoder: ImageEncoder,
    features: FeatureStore,
    rows: np.ndarray,
    seeds: Sequence[int],
    kind: str,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame | None:
    """Train Stages 1 and 2 with each seed and compare their explanations; None without seeds.

    Args:
        files: the run.
        encoder: the adapted encoder.
        features: the adapted features.
        rows: `[m]` the pictures.
        seeds: at least two different ones, or none.
        kind: of the concept maps.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of the resamples.
    """
    if not seeds:
        return None
    seeded = explain_seeds(files, encoder, features, rows, seeds, kind)
    return measure_stability(files, rows, seeded, n_resamples, seed)

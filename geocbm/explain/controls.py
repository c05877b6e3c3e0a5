"""Controls: what is left of a run's metrics when the concepts, or the patches, are not those of the image.

A bottleneck of concepts is believed only if others than its own do worse. Random directions in place of the concepts
(Srivastava, Yan and Weng, 2024, "VLG-CBM", arXiv 2408.01432) say whether the named ones are needed; concepts and
patches of other images say which of the two a head listens to.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from geocbm.encoders.features import FeatureStore
from geocbm.explain.interventions import InterventionModel
from geocbm.explain.maps import MapModel
from geocbm.metrics import Estimate, Resamples, error_km, geoscore, recordables, spatial_blocks
from geocbm.models.bottlenecks import pool_scores
from geocbm.models.stage1 import Stage1ConceptModel, log_probabilities
from geocbm.models.stage2_inference import concept_input, predict_stage2
from geocbm.run import Run, predictions, stages

SCORES = "concept_scores"
DRAWS = 3
SAMPLE = 512
"""Training images from which the centre and the spread of random concepts are taken."""
_NUMBERS_AT_ONCE = 20_000_000  # bounds the memory of the scores of a batch


def random_directions(count: int, width: int, seed: int) -> Tensor:
    """Directions that mean nothing, `(count, width)`: uniform on the unit sphere."""
    return functional.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _spread(values: Tensor) -> float:
    """Spread over images and patches of the scores `(B, P, k)` of a concept, averaged over the concepts.

    What all concepts have in common in a place is taken off first: the softmax does not see it.
    """
    return float((values - values.mean(-1, keepdim=True)).flatten(0, 1).std(0).mean())


def random_concepts(
    model: Stage1ConceptModel, features: FeatureStore, train_rows: np.ndarray, seeds: Sequence[int]
) -> Iterator[dict[str, Tensor]]:
    """Probabilities of as many random directions as Stage 1 has metas and parents, once for every seed.

    What is compared is what the bottleneck reads: the patch tokens of the adapted encoder for "patch", else its pooled
    features. Each vector is normalised by itself and the mean over training images is taken off, because a random
    direction would else see little but what all images share. The cosine with each direction is multiplied by one
    factor, chosen so that scores spread over images and patches as much as Stage 1's do; pooling over the patches and
    the softmaxes or sigmoids are Stage 1's. No label, no name and no weight of the bottleneck plays a part.

    Yields:
        `meta_probabilities (n, k_m)` and `parent_probabilities (n, k_p)` of all rows, in the order of the seeds.
    """
    counts, device = (len(model.meta_base), len(model.parent_base)), model.meta_bias.device

    def read(rows: np.ndarray) -> Tensor:
        """Vectors `(B, P, w)` that directions are compared with; one per image has P = 1."""
        vectors = features.read("tokens", rows) if model.has_maps else features.read("pooled", rows)[:, None]
        return functional.layer_norm(vectors, vectors.shape[-1:])

    sample = np.asarray(train_rows)[np.linspace(0, len(train_rows) - 1, min(SAMPLE, len(train_rows))).astype(int)]
    seen = read(sample)
    centre = seen.mean((0, 1))  # (w,)
    directions = torch.cat([random_directions(sum(counts), len(centre), seed) for seed in seeds])  # (draws * k, w)

    def cosines(rows: np.ndarray) -> Tensor:
        return functional.normalize(read(rows) - centre, dim=-1) @ directions.T  # (B, P, draws * k)

    few = sample[:: max(1, len(sample) // 64)]
    with torch.no_grad():
        tokens = features.read("tokens", few).to(device) if model.needs_tokens else None
        said = model.eval()(features.read("pooled", few).to(device), tokens)
    own = said.meta_logits[:, None] if said.meta_maps is None else said.meta_maps
    factor = _spread(own) / max(_spread(cosines(few)), 1e-12)
    step = max(1, _NUMBERS_AT_ONCE // (seen.shape[1] * len(directions)))
    parts = []
    for start in range(0, features.n, step):
        scores = factor * cosines(np.arange(start, min(start + step, features.n)))
        parts.append(pool_scores(scores, model.config.top_patches) if model.has_maps else scores[:, 0])
    for drawn in torch.cat(parts).split(sum(counts), dim=1):
        meta, parent = drawn.split(counts, dim=1)
        kind = model.config.concept_target
        probabilities = (log_probabilities(scores, kind).exp() for scores in (meta, parent))
        yield dict(zip(("meta_probabilities", "parent_probabilities"), probabilities, strict=True))


@dataclass(frozen=True)
class Control:
    """A head with something taken from it, held against the same head as it is."""

    name: str  # `random_concepts`, or `shuffled_concepts_`, `shuffled_patches_` or `patch_order_` and the mode
    mode: str  # ablation mode of the head
    km: np.ndarray  # [draws, n] errors under the control
    own_km: np.ndarray  # [n] errors of the run itself


@dataclass(frozen=True)
class Controls:
    """All controls of a run on its test split; metrics take paired resamples of spatial blocks."""

    main: str  # ablation mode of the run
    controls: tuple[Control, ...]  # random concepts first
    blocks: np.ndarray  # [n] spatial blocks of the test images
    km: Mapping[str, np.ndarray]  # [n] errors of the run by ablation mode
    residual_share: np.ndarray | None  # [n] part of the logits of `hybrid` from the patches; None without that mode
    n_resamples: int = 1000
    seed: int = 0  # of the resamples

    @cached_property
    def changes(self) -> dict[str, dict[str, Estimate]]:
        """By control `median_km` and `geoscore` under it, and their paired changes, each with `_change`."""
        found = {}
        for control in self.controls:  # all draws of an image lie in its block
            drawn = Resamples(np.tile(self.blocks, len(control.km)), self.n_resamples, self.seed)
            km, own = control.km.ravel(), np.broadcast_to(control.own_km, control.km.shape).ravel()
            now = {"median_km": drawn.estimate(km, "median"), "geoscore": drawn.estimate(geoscore(km))}
            found[control.name] = now | _paired(drawn, km, own, "_change")
        return found

    @cached_property
    def gains(self) -> dict[str, dict[str, Estimate]]:
        """By mode that also sees patches (the main one, `hybrid`) what it gains over the linear CBM, which does not."""
        if SCORES not in self.km:
            return {}
        drawn = Resamples(self.blocks, self.n_resamples, self.seed)
        modes = [mode for mode in dict.fromkeys([self.main, "hybrid"]) if mode in self.km and mode != SCORES]
        return {mode: _paired(drawn, self.km[mode], self.km[SCORES]) for mode in modes}

    def metrics(self) -> dict[str, float | Estimate]:
        """Metrics to keep below `control`: `<control>.median_km_change`, `gain_<mode>.geoscore` and so on.

        `hybrid.residual_share` is the part of hybrid's logits that comes from the patches.
        """
        gains = {f"gain_{mode}": own for mode, own in self.gains.items()}
        kept = {f"{name}.{key}": one for name, own in (self.changes | gains).items() for key, one in own.items()}
        if self.residual_share is not None:
            drawn = Resamples(self.blocks, self.n_resamples, self.seed)
            kept["hybrid.residual_share"] = drawn.estimate(self.residual_share)
        return recordables(kept)

    def table(self) -> pd.DataFrame:
        """Columns `name`, change of the GeoScore `value`, `low`, `high`, and `median_km` and `own_median_km`."""
        rows: list[dict[str, object]] = []
        for control, own in zip(self.controls, self.changes.values(), strict=True):
            what = control.name.removesuffix(f"_{control.mode}").replace("_", " ")
            row: dict[str, object] = {"name": f"{what}, {control.mode}", **own["geoscore_change"]}
            row |= {"median_km": own["median_km"]["value"], "own_median_km": float(np.median(control.own_km))}
            rows.append(row)
        return pd.DataFrame(rows, columns=["name", "value", "low", "high", "median_km", "own_median_km"])


def _paired(drawn: Resamples, km: np.ndarray, own: np.ndarray, suffix: str = "") -> dict[str, Estimate]:
    """Paired differences of both figures between two sets of errors."""
    return {
        f"median_km{suffix}": drawn.difference(km, own, "median"),
        f"geoscore{suffix}": drawn.difference(geoscore(km), geoscore(own)),
    }


class ExchangedFeatures:
    """Features in which rows stand for others, or the patches of each image stand in another order."""

    def __init__(self, features: FeatureStore, source: np.ndarray | None = None, order_seed: int | None = None) -> None:
        self.features, self.source, self.order_seed, self.n = features, source, order_seed, features.n

    def read(self, kind: str, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """Features `(len(rows), ...)`."""
        found = self.features.read(kind, rows if self.source is None else self.source[rows], dtype)
        if kind != "tokens" or self.order_seed is None:
            return found
        generator = torch.Generator().manual_seed(self.order_seed)
        order = torch.rand(found.shape[:2], generator=generator).argsort(1)  # (B, P), another one for each image
        return found.gather(1, order[..., None].expand_as(found))


def exchange_rows(run: Run, seed: int) -> np.ndarray:
    """For every row of the table the row that stands for it, `[n]`: no test row keeps its place, all others do."""
    source, test = np.arange(len(run.table)), run.pictures["test"]
    order = np.random.default_rng(seed).permutation(len(test))
    source[test[order]] = np.roll(test[order], 1)
    return source


def predict_exchanged(
    run: Run, model: InterventionModel, concepts_of: np.ndarray | None = None, pictures: ExchangedFeatures | None = None
) -> dict[str, np.ndarray]:
    """What a head answers on the test split when concepts, or all that comes from the picture, are of other images.

    `concepts_of` (`exchange_rows`) are the rows whose concepts are used instead, `pictures` the features that are read
    instead: patch tokens, and pooled features for the refiner.
    """
    given = model.scores if model.head.config.reads_scores else model.concept_emb
    source = pictures or model.features or torch.zeros(len(given), 1, 1)  # a linear CBM reads no patch
    given = given if concepts_of is None else given[concepts_of]
    return predict_stage2(
        model.head, given, source, run.pictures["test"], refiner=model.refiner, pooled=source, decoder=model.decoder
    )


def measure_controls(
    model: MapModel, modes: Mapping[str, InterventionModel], n_resamples: int = 1000, seed: int = 0
) -> Controls:
    """Measure all controls that the trained heads of a run allow, on its test split; none without two test images.

    `modes` are the heads by ablation mode, the main mode first; among them the linear CBM (`SCORES`). The seed is that
    of the resamples and of the first of `DRAWS` sets of random directions, and exchanges between test images.
    """
    run, test = model.run, model.run.pictures["test"]
    main, blocks = next(iter(modes)), spatial_blocks(run.lat[test], run.lng[test])
    if len(test) < 2:
        return Controls(main, (), blocks, {}, None, n_resamples, seed)
    seeds = range(seed, seed + DRAWS)

    def errors(places: Mapping[str, np.ndarray]) -> np.ndarray:
        return error_km(places["lat"], places["lng"], run.lat[test], run.lng[test])

    own = {mode: predict_exchanged(run, head) for mode, head in modes.items()}
    km = {mode: errors(places) for mode, places in own.items()}

    def control(name: str, mode: str, answers: Iterable[Mapping[str, np.ndarray]]) -> Control:
        return Control(name, mode, np.stack([errors(each) for each in answers]), km[mode])

    others = [exchange_rows(run, each) for each in seeds]
    in_order = [ExchangedFeatures(model.features, order_seed=seed)]
    random = random_concepts(model.stage1, model.features, run.pictures["train"], seeds)
    found = [control("random_concepts", SCORES, (_fit_linear(model, modes[SCORES], concepts) for concepts in random))]
    for mode in dict.fromkeys([main, SCORES, "hybrid"]):
        if mode in modes and mode != "image_only":
            swapped = (predict_exchanged(run, modes[mode], concepts_of=other) for other in others)
            found.append(control(f"shuffled_concepts_{mode}", mode, swapped))
    for mode in dict.fromkeys([main, "both", "hybrid"]):
        if mode in modes and modes[mode].head.config.reads_tokens:
            exchanged = [ExchangedFeatures(model.features, other) for other in others]
            for name, sources in (("shuffled_patches", exchanged), ("patch_order", in_order)):
                moved = (predict_exchanged(run, modes[mode], pictures=each) for each in sources)
                found.append(control(f"{name}_{mode}", mode, moved))
    residual = own.get("hybrid", {}).get("residual_share")
    return Controls(main, tuple(found), blocks, km, residual, n_resamples, seed)


def _fit_linear(model: MapModel, linear: InterventionModel, concepts: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """What the linear CBM answers, trained as the run trains it but on other probabilities of concepts."""
    config = linear.head.config.in_mode(SCORES, init_from_stage0=False, tracking="disabled")
    # Thousands of small products: where a browser wants a core, two threads wait for one another for minutes.
    with threadpool_limits(limits=1):
        head, _ = stages.fit_stage2(model.run, config, concepts, model.features, name=None, report=lambda line: None)
    decoder = predictions.make_decoder(model.run, head, concepts, model.features)
    given = concept_input(config, concepts)
    return predict_stage2(head, given, model.features, model.run.pictures["test"], decoder=decoder)

"""Interventions: edits of concept scores, and what the model answers to them.

An edit changes scores `(B, k)`: the probabilities of the metas, then those of the parents, as Stage 1 gives them. What
it does to the answer depends on the mode of Stage 2:

- `concept_scores` (the linear CBM): exact. The logit of every cell changes by the terms of the edited concepts.
- `hybrid`: the same, and the residual from the patches is computed anew, since the scores are its query too.
- `both` and `concept_only` read the concept embedding. With the `patch` bottleneck that is a mixture of prototypes by
  the scores of the metas (`bottlenecks.mix_prototypes`), which is mixed again: exact as well. With `mlp` and
  `transformer` it is moved along the prototypes of the edited metas until Stage 1 itself reads the wanted scores from
  it (`move_embedding`). Neither embedding knows of parents, so an edit of a parent alone does nothing.
- `image_only` reads no concepts: no edit has an effect.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geocbm.encoders.features import FeatureStore
from geocbm.errors import ParameterError
from geocbm.explain.concept_labels import InterventionValues
from geocbm.files.progress import track
from geocbm.models.bottlenecks import mix_prototypes
from geocbm.models.decoder import Decoder
from geocbm.models.stage1 import Stage1ConceptModel, log_probabilities
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead, Stage2Output
from geocbm.models.stage2_config import ABLATION_MODES
from geocbm.models.stage2_inference import NeighbourRefiner, locate
from geocbm.run import Run, predictions, stages
from geocbm.training.loader import row_reader

MIN_SCORE = 1e-6
"""Scores are held above it before their logarithm is taken."""

MOVES = 20  # most steps of a move of an embedding
SURE = 0.999
"""No probability above it is sought: certainty lies infinitely far along a prototype."""


def set_scores(scores: Tensor, concepts: Sequence[int], values: Tensor | np.ndarray | float) -> Tensor:
    """Give concepts other scores; all others stay, so that an edit touches the terms of the edited concepts only.

    `values` are `(B, len(concepts))` or what broadcasts to it; NaN leaves a score as it is. The new scores `(B, k)`
    need not sum to 1, which no mode requires.
    """
    columns = [int(concept) for concept in concepts]
    old = scores[:, columns]
    new = torch.as_tensor(values, dtype=scores.dtype, device=scores.device).expand_as(old)
    edited = scores.clone()
    edited[:, columns] = torch.where(new.isnan(), old, new)
    return edited


def correct_concepts(scores: Tensor, corrected: np.ndarray, present: np.ndarray, values: InterventionValues) -> Tensor:
    """Correct concepts to the truth: scores of present ones are raised to their value, those of absent ones lowered.

    A score that lies beyond its value already stays: telling the model what it knows must not make it less sure. So
    does one without a value. Scores, which are `corrected`, and which are `present`: all `(B, k)`.
    """
    high, low = (torch.as_tensor(ends).to(scores) for ends in (values.present, values.absent))
    right = torch.where(torch.from_numpy(present).to(scores.device), scores.fmax(high), scores.fmin(low))
    return torch.where(torch.from_numpy(corrected).to(scores.device), right, scores)


def baseline_scores(head: Stage2CrossAttentionGeoHead, train_scores: Tensor | None = None) -> Tensor:
    """Scores at which a concept is ablated, `(k,)`: those of an average training picture.

    For heads that read scores, the ones at which the term of every concept is 0: the mean of the training rows as the
    linear layer reads them. Other heads need `train_scores` `(n, k)`, of which it is the geometric mean.
    """
    if head.config.reads_scores:
        kind, mean = head.config.score_transform, head.score_mean
        undone = {"log": mean.exp(), "sqrt": mean.square(), "logit": mean.sigmoid(), "none": mean.clone()}
        return undone[kind]
    if train_scores is None:
        raise ParameterError(
            f"ablation_mode={head.config.ablation_mode!r} keeps no mean of the scores; give train_scores (n, k)"
        )
    return train_scores.clamp_min(MIN_SCORE).log().mean(0).exp()


def predict_with_scores(
    head: Stage2CrossAttentionGeoHead,
    scores: Tensor,
    edited: Tensor,
    concept_emb: Tensor | None = None,
    tokens: Tensor | None = None,
    concept_model: Stage1ConceptModel | None = None,
) -> Stage2Output:
    """Forward pass of Stage 2 with edited concepts.

    `scores` `(B, k)` are as Stage 1 gave them, `edited` `(B, k)` as they shall be. The modes that read the embedding
    need `concept_emb` `(B, c)` and Stage 1, those that look at the patches `tokens` `(B, P, w)`.
    """
    mode = head.config.ablation_mode
    if head.config.reads_scores:
        return head(edited, tokens)
    if concept_emb is None:
        raise ParameterError(f"ablation_mode={mode!r} reads the concept embedding; give concept_emb (B, c)")
    if mode == "image_only":
        return head(concept_emb, tokens)
    if concept_model is None:
        raise ParameterError(f"ablation_mode={mode!r} reads the concept embedding; give concept_model to edit it")
    return head(edited_embedding(concept_model, concept_emb, scores, edited), tokens)


def edited_embedding(model: Stage1ConceptModel, concept_emb: Tensor, scores: Tensor, edited: Tensor) -> Tensor:
    """The concept embedding `(B, c)` that stands for edited scores `(B, k)` of metas; rows without an edit stay.

    `concept_emb` and `scores` are as Stage 1 gave them; edited metas are scaled to sum to 1 where they share a softmax.
    """
    n = len(model.meta_bias)
    before, after = scores[:, :n], edited[:, :n]
    touched = (before != after).any(1, keepdim=True)  # (B, 1)
    if not touched.any():
        return concept_emb
    with torch.no_grad():
        if model.has_maps:
            log_after = after.clamp_min(MIN_SCORE).log()
            log_after = log_after if model.config.concept_target == "multi" else log_after.log_softmax(-1)
            moved = mix_prototypes(log_after, model.prototypes()[0])
        else:
            moved = move_embedding(model, concept_emb, after, (before != after).any(0).nonzero()[:, 0])
    return torch.where(touched, moved.to(concept_emb), concept_emb)


def move_embedding(model: Stage1ConceptModel, concept_emb: Tensor, target: Tensor, metas: Tensor) -> Tensor:
    """Move embeddings along the prototypes of some metas until Stage 1 reads the wanted probabilities from them.

    The shortest such way is found by damped least squares (Levenberg, 1944; Marquardt, 1963) on the logarithms of the
    probabilities. Prototypes that are alike cannot be told apart by any amount; the move then ends where it comes
    nearest.

    For the bottlenecks whose embedding `(B, c)` is compared with the prototypes ("mlp" and "transformer"). `target`
    `(B, k_m)` are the wanted probabilities, to which the `metas` `(E,)` are held; others follow. Those of a softmax are
    scaled to sum to 1.
    """
    meta, parent = (values.detach() for values in model.prototypes())
    length = concept_emb.norm(dim=-1, keepdim=True).clamp_min(MIN_SCORE)
    start = concept_emb / length  # only directions matter, and so all steps have one scale
    along = meta[metas]  # (E, c)
    kind = model.config.concept_target
    shares = target if kind == "multi" else target / target.sum(1, keepdim=True)
    wanted = shares.clamp(MIN_SCORE, SURE).log()[:, metas]  # (B, E)

    def read(way: Tensor, origin: Tensor) -> Tensor:
        """Log-probabilities `(E,)` after a move of one embedding by `way` `(E,)`."""
        moved = functional.normalize(origin + way @ along, dim=-1)
        return log_probabilities(model.classify(moved[None], meta, parent).meta_logits[0], kind)[metas]

    values, slopes = torch.func.vmap(read), torch.func.vmap(torch.func.jacrev(read))
    way = start.new_zeros(len(start), len(metas))
    damping = start.new_full((len(start), 1, 1), 1.0)
    gap = wanted - values(way, start)
    eye = torch.eye(len(metas), device=start.device, dtype=start.dtype)
    for _ in range(MOVES):
        slope = slopes(way, start)  # (B, E, E)
        normal = slope.mT @ slope + damping * eye
        step = torch.linalg.solve(normal, slope.mT @ gap[..., None])[..., 0]
        tried = wanted - values(way + step, start)
        better = tried.square().sum(1) < gap.square().sum(1)
        way = torch.where(better[:, None], way + step, way)
        gap = torch.where(better[:, None], tried, gap)
        damping = torch.where(better[:, None, None], damping / 4, damping * 4).clamp(1e-6, 1e6)
        if gap.abs().max() < 1e-3:
            break
    return (start + way @ along) * length


class PlacePredictions(NamedTuple):
    """What a model answers for `m` pictures."""

    lat: np.ndarray  # [m] degrees
    lng: np.ndarray  # [m] degrees
    logits: np.ndarray  # [m, N] of the cells, float32

    @property
    def probabilities(self) -> np.ndarray:
        """`[m, N]` of the cells."""
        return torch.from_numpy(self.logits).double().softmax(-1).numpy()


class InterventionModel:
    """Stage 2 of a run in one mode, answering for the run's pictures with edited concepts.

    `concepts` is what Stage 1 says of all pictures (`stages.predict_concepts`). Modes that read its embedding need
    Stage 1 and the training rows, whose mean is the baseline; those that look at the patches need the features, and
    refined answers the refiner. Without a decoder the argmax is answered. `scores` `(n, k)` are of all pictures, of
    `n_metas` metas and then parents; at the `baseline` `(k,)` a concept is ablated (`baseline_scores`).
    """

    def __init__(
        self,
        head: Stage2CrossAttentionGeoHead,
        concepts: Mapping[str, Tensor],
        concept_model: Stage1ConceptModel | None = None,
        features: FeatureStore | None = None,
        refiner: NeighbourRefiner | None = None,
        train_rows: np.ndarray | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.head, self.concept_model, self.features, self.refiner = head.eval(), concept_model, features, refiner
        self.decoder = decoder
        self.n_metas = concepts["meta_probabilities"].shape[1]
        parts = [concepts["meta_probabilities"], concepts["parent_probabilities"]]
        self.scores = torch.cat(parts, dim=1).float().cpu()
        self.concept_emb = concepts["concept_emb"].float().cpu()
        seen = None if train_rows is None else self.scores[train_rows]
        self.baseline = baseline_scores(head, seen).detach().float().cpu()

    def _outputs(
        self, rows: np.ndarray, edited: Tensor | None, chunk: int
    ) -> Iterator[tuple[np.ndarray, Stage2Output]]:
        """Rows and the output of Stage 2 for them, a chunk at a time."""
        rows, scores = np.asarray(rows), self.scores[rows]
        edited = scores if edited is None else edited.float()
        tokens, device = None, self.head.cell_head.weight.device
        if self.head.config.reads_tokens and self.features is not None:
            tokens = row_reader(self.features, "tokens", half=True)
        for start in track(range(0, max(len(rows), 1), chunk), "edited places", unit="batch"):
            some = slice(start, start + chunk)
            with torch.no_grad():
                output = predict_with_scores(
                    self.head,
                    scores[some].to(device),
                    edited[some].to(device),
                    self.concept_emb[rows[some]].to(device),
                    None if tokens is None else tokens(rows[some]).to(device),
                    self.concept_model,
                )
            yield rows[some], output

    def predict(self, rows: np.ndarray, edited: Tensor | None = None, chunk: int = 128) -> PlacePredictions:
        """Places of some pictures `[m]`, from Stage 1's scores or edited ones `(m, k)`, `chunk` at once."""
        pooled = None
        if self.refiner is not None and self.features is not None:
            pooled = row_reader(self.features, "pooled")
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for chosen, output in self._outputs(rows, edited, chunk):
            with torch.no_grad():
                near = None if pooled is None else pooled(chosen)
                lat, lng = locate(self.head, output, self.refiner, near, self.decoder)
            parts.append((lat.astype(np.float64), lng.astype(np.float64), output.cell_logits.cpu().float().numpy()))
        return PlacePredictions(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def forward_one(self, row: int, edited: Tensor) -> Stage2Output:
        """Output of Stage 2 for one picture under many edits `(m, k)`."""
        (_, output), *_ = self._outputs(np.full(len(edited), row), edited, len(edited))
        return output

    def predict_one(self, row: int, edited: Tensor) -> PlacePredictions:
        """Places of one picture under many edits `(m, k)`."""
        return self.predict(np.full(len(edited), row), edited)


def load_intervention_model(
    run: Run, features: FeatureStore, concepts: Mapping[str, Tensor], name: str = "stage2"
) -> InterventionModel:
    """Stage 2 of a run as it was trained, from the checkpoint `name`; `concepts` are of `stages.predict_concepts`."""
    head = stages.load_stage2(run, name)
    refiner = stages.load_refiner(run, head.config, name)
    concept_model = None if head.config.reads_scores else stages.load_stage1(run)
    decoder = predictions.load_decoder(run, head, name)
    return InterventionModel(head, concepts, concept_model, features, refiner, run.pictures["train"], decoder)


def linear_cbm(run: Run, features: FeatureStore, concepts: dict[str, Tensor]) -> InterventionModel:
    """The run's head in mode `concept_scores`; one is trained, and not kept, where the run has none."""
    head = stages.load_concept_head(run)
    if head is None:
        config = stages.load_stage2(run).config.in_mode("concept_scores", tracking="disabled")
        head = stages.fit_stage2(run, config, concepts, features, name=None)[0]
        return InterventionModel(head, concepts, decoder=predictions.make_decoder(run, head, concepts, features))
    name = "stage2" if stages.load_stage2(run).config.ablation_mode == "concept_scores" else "stage2_concept_scores"
    return InterventionModel(head, concepts, decoder=predictions.load_decoder(run, head, name))


def trained_modes(run: Run, features: FeatureStore, concepts: Mapping[str, Tensor]) -> dict[str, InterventionModel]:
    """The main mode of a run, and the other modes that it has trained, by name."""
    main = load_intervention_model(run, features, concepts)
    found: dict[str, InterventionModel] = {main.head.config.ablation_mode: main}
    for mode in ABLATION_MODES:
        if mode not in found and run.belongs(f"stage2_{mode}.safetensors"):
            found[mode] = load_intervention_model(run, features, concepts, f"stage2_{mode}")
    return found

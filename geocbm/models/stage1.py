"""Stage 1: concepts recognised by their similarity to text prototypes that may move a little."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.errors import MismatchError, ParameterError
from geocbm.files.progress import track
from geocbm.metrics.concept import average_precision
from geocbm.models.bottlenecks import BottleneckSettings, build_bottleneck, mix_prototypes, pool_scores, score_patches
from geocbm.training.loader import RowSource, row_reader

if TYPE_CHECKING:
    from geocbm.models.loading import Stage0Layers
    from geocbm.models.stage0 import Stage0PretrainingModel

ROWS_AT_A_TIME = 256


@dataclass(frozen=True)
class Stage1Config(BottleneckSettings):
    """Settings of Stage 1; the defaults are the specification's, those shared with Stage 0 see `BottleneckSettings`."""

    batch_size: int = 256
    lr: float = 3e-4
    epochs: int = 50
    label_smoothing: float = 0.2  # of both focal losses
    gamma: float = 2.0  # focusing exponent of both
    concept_target: Literal["single", "multi"] = "single"  # one label of a softmax (the specification's), or sigmoids
    unknown: Literal["absent", "entropy"] = "absent"  # what "multi" makes of concepts that are not named
    unknown_weight: float = 0.1  # weight of each of them, beside 1 of a named one;
    sibling_weight: float = 1.0  # of those with the parent of a named one, which they mostly exclude,
    foreign_weight: float | None = None  # and of those that no training picture of the country names; None: as unknown
    lambda_meta: float = 1.0  # weights of the terms: focal loss (of "multi" the sigmoid loss) over metas,
    lambda_parent: float = 0.5  # and over parents,
    lambda_consistency: float = 0.3  # divergence between implied and predicted parents,
    lambda_parent_contrastive: float = 0.2  # contrast between parents within the batch,
    lambda_contrastive: float = 0.5  # concept embedding against meta prototypes,
    lambda_reg: float = 0.001  # squared residuals,
    lambda_intra_parent: float = 0.01  # distances between sibling prototypes,
    lambda_semantic: float = 0.15  # soft targets on similar metas,
    lambda_meta_guided: float = 0.0  # meta among the children of its true parent, not in the specification's total
    intra_parent_reduction: Literal["sum", "mean"] = "sum"  # over sibling pairs; "sum" is the specification's
    detach_expected: bool = False  # keep the consistency loss from moving the metas
    residual_std: float = 0.01  # spread of the initial residuals
    logit_scale_init: float = 14.0  # first and largest value of both logit scales
    logit_scale_max: float = 20.0
    temperature: float = 0.07  # of the prototype contrast
    parent_temperature: float = 0.1  # of the contrast between parents
    semantic_threshold: float = 0.7  # cosine from which two metas count as close; measured with, not trained with
    init_from_stage0: bool = True  # start from Stage 0's bottleneck and prototype projection
    patience: int = 10
    monitor: Literal["meta_top1", "parent_top1", "mean_ap", "loss"] = "meta_top1"  # validation value that decides

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("epochs", least=1)
        self.check_numbers("gamma", "residual_std", "unknown_weight", "sibling_weight", least=0)
        if self.foreign_weight is not None:
            self.check_numbers("foreign_weight", least=0)
        self.check_numbers(
            "temperature", "parent_temperature", "logit_scale_init", "logit_scale_max", least=0, above=True
        )
        if not -1 <= self.semantic_threshold <= 1:
            raise ParameterError(f"semantic_threshold={self.semantic_threshold!r} is no cosine; give -1 to 1")
        self.check_numbers("label_smoothing", least=0, below=1)


class Stage1Output(NamedTuple):
    """What Stage 1 computes for a batch."""

    concept_emb: Tensor  # (B, c), not normalised
    meta_logits: Tensor  # (B, k_m)
    parent_logits: Tensor  # (B, k_p)
    meta_prototypes: Tensor  # (k_m, c) projected, of length 1
    parent_prototypes: Tensor  # (k_p, c) projected, of length 1
    meta_maps: Tensor | None = None  # (B, P, k_m) score of each meta on each patch, of the "patch" bottleneck only
    concept_target: str = "single"  # of the settings: what the logits are

    def probabilities(self) -> dict[str, Tensor]:
        """In float32: `concept_emb` `(B, c)`, `meta_probabilities` `(B, k_m)`, `parent_probabilities` `(B, k_p)`.

        Of the concept target "single" those of all metas sum to 1, of "multi" each is that of a concept by itself.
        """
        return {
            "concept_emb": self.concept_emb.float(),
            "meta_probabilities": log_probabilities(self.meta_logits.float(), self.concept_target).exp(),
            "parent_probabilities": log_probabilities(self.parent_logits.float(), self.concept_target).exp(),
        }

    @property
    def per_row(self) -> tuple[str, ...]:
        """What the losses read of each row, which several processes gather."""
        return ("concept_emb", "meta_logits", "parent_logits")


def log_probabilities(logits: Tensor, concept_target: str) -> Tensor:
    """Log probabilities `(B, k)`: of a softmax over all concepts ("single"), or of one sigmoid for each ("multi")."""
    return functional.logsigmoid(logits) if concept_target == "multi" else logits.log_softmax(-1)


class Stage1ConceptModel(nn.Module):
    """Concept bottleneck with text-anchored cosine classifiers (specification, section "Stage 1").

    With the "patch" bottleneck the cosine is taken on every patch and pooled over the patches (`pool_scores`), so that
    the scores come with a map per concept. Base prototypes are `(k_m, t)` and `(k_p, t)`, kept as they are;
    `meta_to_parent` `(k_m,)` are indices. `in_dim` is the width of the pooled image features, `token_dim` that of the
    patch tokens, for bottlenecks that read them; a `bottleneck` of one's own stands in place of the one that the
    settings name (see `models.bottlenecks`).
    """

    meta_base: Tensor
    parent_base: Tensor
    meta_to_parent: Tensor
    similarity: Tensor

    def __init__(
        self,
        in_dim: int,
        meta_prototypes: Tensor,
        parent_prototypes: Tensor,
        meta_to_parent: Tensor,
        config: Stage1Config | None = None,
        token_dim: int | None = None,
        bottleneck: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or Stage1Config()
        self.in_dim, self.token_dim = in_dim, token_dim
        self.bottleneck = build_bottleneck(config, in_dim, token_dim) if bottleneck is None else bottleneck
        self.prototype_projection = nn.Linear(meta_prototypes.shape[1], config.concept_emb_dim)
        self.delta_meta = nn.Parameter(torch.randn(meta_prototypes.shape) * config.residual_std)
        self.delta_parent = nn.Parameter(torch.randn(parent_prototypes.shape) * config.residual_std)
        self.meta_bias = nn.Parameter(torch.full((len(meta_prototypes),), self._first_bias(len(meta_prototypes))))
        self.parent_bias = nn.Parameter(torch.full((len(parent_prototypes),), self._first_bias(len(parent_prototypes))))
        self.logit_scale_meta = nn.Parameter(torch.tensor(config.logit_scale_init))
        self.logit_scale_parent = nn.Parameter(torch.tensor(config.logit_scale_init))
        base = meta_prototypes.detach().clone().float()
        self.register_buffer("meta_base", base)
        self.register_buffer("parent_base", parent_prototypes.detach().clone().float())
        self.register_buffer("meta_to_parent", torch.as_tensor(meta_to_parent, dtype=torch.long).clone())
        unit = functional.normalize(base, dim=-1)
        self.register_buffer("similarity", unit @ unit.T, persistent=False)  # (k_m, k_m)

    def _first_bias(self, count: int) -> float:
        """Before training every one of `count` sigmoids says one in `count`; a softmax does so without a bias."""
        return -math.log(max(count - 1, 1)) if self.config.concept_target == "multi" else 0.0

    @property
    def needs_tokens(self) -> bool:
        """Whether the bottleneck reads patch tokens."""
        return bool(getattr(self.bottleneck, "needs_tokens", False))

    @property
    def has_maps(self) -> bool:
        """Whether the bottleneck scores every concept on every patch, so that there is a map per concept."""
        return bool(getattr(self.bottleneck, "has_maps", False))

    @property
    def description(self) -> dict[str, Any]:
        """What a checkpoint's JSON must say, so that the model can be built again."""
        return {"stage": 1, "config": asdict(self.config), "in_dim": self.in_dim, "token_dim": self.token_dim}

    def start_from(
        self, stage0: Stage0PretrainingModel | Stage0Layers, report: Callable[[str], None] = print
    ) -> list[str]:
        """Take over the bottleneck and the prototype projection that Stage 0 trained.

        A bottleneck of another kind than Stage 0's starts afresh, which `report` is told. Gives the names of the parts
        taken over; a `MismatchError` where parts of the same kind differ in shape.
        """
        same_kind = type(stage0.bottleneck) is type(self.bottleneck)
        taken = ["bottleneck", "prototype_projection"] if same_kind else ["prototype_projection"]
        if same_kind and (ours := self.config.bottleneck_shape) != (given := stage0.config.bottleneck_shape):
            differing = [f"{name}={given[name]}, here {ours[name]}" for name in ours if ours[name] != given[name]]
            raise MismatchError(
                f"the bottleneck of Stage 0 has {', '.join(differing)}; use the same settings in both, or set "
                "init_from_stage0=False"
            )
        for name in taken:
            try:
                getattr(self, name).load_state_dict(getattr(stage0, name).state_dict())
            except RuntimeError as error:
                raise MismatchError(
                    f"the {name} of Stage 0 has another shape than Stage 1's; use the same bottleneck, "
                    "concept_emb_dim and encoders in both, or set init_from_stage0=False"
                ) from error
        if not same_kind:
            report(
                f"bottleneck={self.config.bottleneck!r} starts afresh: Stage 0 trained {stage0.config.bottleneck!r}; "
                "its prototype projection is taken over"
            )
        return taken

    def prototypes(self) -> tuple[Tensor, Tensor]:
        """Projected prototypes of length 1: metas `(k_m, c)` and parents `(k_p, c)`."""
        meta = functional.normalize(self.prototype_projection(self.meta_base + self.delta_meta), dim=-1)
        parent = functional.normalize(self.prototype_projection(self.parent_base + self.delta_parent), dim=-1)
        return meta, parent

    def forward(self, pooled: Tensor, patch_tokens: Tensor | None = None) -> Stage1Output:
        """Recognise concepts in image features `(B, in_dim)` and, where they are read, patch tokens `(B, P, w)`."""
        meta, parent = self.prototypes()
        seen = self.bottleneck(pooled.to(self.meta_bias.dtype), patch_tokens)  # (B, c), or (B, P, w) with maps
        if not self.has_maps:
            return self.classify(seen, meta, parent)
        meta_cosines, parent_cosines = score_patches(self.bottleneck, seen, meta, parent)  # (B, P, k_m), (B, P, k_p)
        meta_maps = self.scale("meta") * meta_cosines
        parent_maps = self.scale("parent") * parent_cosines
        meta_logits = pool_scores(meta_maps, self.config.top_patches) + self.meta_bias
        return Stage1Output(
            concept_emb=mix_prototypes(log_probabilities(meta_logits, self.config.concept_target), meta),
            meta_logits=meta_logits,
            parent_logits=pool_scores(parent_maps, self.config.top_patches) + self.parent_bias,
            meta_prototypes=meta,
            parent_prototypes=parent,
            meta_maps=meta_maps,
            concept_target=self.config.concept_target,
        )

    def scale(self, head: str) -> Tensor:
        """Learned factor of the cosines of one head, at most `logit_scale_max`."""
        return getattr(self, f"logit_scale_{head}").clamp(max=self.config.logit_scale_max)

    def classify(self, concept_emb: Tensor, meta: Tensor, parent: Tensor) -> Stage1Output:
        """Logits of given concept embeddings `(B, c)` against given prototypes of length 1."""
        unit = functional.normalize(concept_emb, dim=-1)
        return Stage1Output(
            concept_emb=concept_emb,
            meta_logits=self.scale("meta") * (unit @ meta.T) + self.meta_bias,
            parent_logits=self.scale("parent") * (unit @ parent.T) + self.parent_bias,
            meta_prototypes=meta,
            parent_prototypes=parent,
            concept_target=self.config.concept_target,
        )

    def named(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Which metas and parents a batch names, `(B, k_m)` and `(B, k_p)` booleans.

        Those of its entry `named_metas` (several of a picture), or without it the labels `concept_idx`, -1 for none.
        """
        n_metas, n_parents = len(self.meta_bias), len(self.parent_bias)
        labels = functional.one_hot(batch["concept_idx"] + 1, n_metas + 1)[:, 1:]
        metas = batch.get("named_metas", labels)
        parents = metas.float() @ functional.one_hot(self.meta_to_parent, n_parents).float()
        return metas > 0, parents > 0

    def predictions(self, output: Stage1Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whether meta and parent of the pictures with a label are named first; what "multi" is measured by beside."""
        metas, parents = self.named(batch)
        first = output.meta_logits.argmax(1, keepdim=True), output.parent_logits.argmax(1, keepdim=True)
        found = {"meta_top1": metas.gather(1, first[0])[:, 0], "parent_top1": parents.gather(1, first[1])[:, 0]}
        if self.config.concept_target == "multi":
            found |= {"scores": output.meta_logits, "named": metas}
        labelled = metas.any(1)
        return {name: values[labelled] for name, values in found.items()}

    def measure(self, predictions: Mapping[str, Tensor]) -> dict[str, float]:
        """How often that is so, from 0 to 1, and of "multi" the mean average precision over metas that are named."""
        values = {name: float(predictions[name].float().mean()) for name in ("meta_top1", "parent_top1")}
        if "scores" in predictions:
            precision = average_precision(predictions["scores"].numpy(), predictions["named"].numpy())
            values["mean_ap"] = float(np.nanmean(precision))
        return values

    def examples(
        self, output: Stage1Output, batch: Mapping[str, Tensor], labels: Mapping[str, Any]
    ) -> dict[str, list[Any]]:
        """Columns of a table of examples: the labelled concept, the named one, and how probable that is."""
        probability, named = output.probabilities()["meta_probabilities"].max(1)
        names = labels.get("metas") or range(len(self.meta_base))
        return {
            "truth": [str(names[index]) if index >= 0 else "" for index in batch["concept_idx"].tolist()],
            "prediction": [str(names[index]) for index in named.tolist()],
            "probability": probability.tolist(),
        }


def predict_stage1(
    model: Stage1ConceptModel, features: Tensor, tokens: Tensor | RowSource | None = None
) -> dict[str, Tensor]:
    """`Stage1Output.probabilities` of many images `(n, d)`, on the CPU.

    A bottleneck that reads tokens needs a store with kind `tokens`, or `(n, P, w)`; a ParameterError without.
    """
    read_tokens = row_reader(tokens, "tokens") if model.needs_tokens and tokens is not None else None
    device, rows = model.meta_bias.device, np.arange(len(features))
    parts: dict[str, list[Tensor]] = {}
    model.eval()
    with torch.no_grad():
        starts = range(0, max(len(rows), 1), ROWS_AT_A_TIME)  # no rows give empty tensors of the usual shape
        for start in track(starts, "concepts", unit="batch"):
            chosen = rows[start : start + ROWS_AT_A_TIME]
            pooled = features[start : start + ROWS_AT_A_TIME].float().to(device)
            said = model(pooled, read_tokens(chosen).to(device) if read_tokens else None)
            for name, value in said.probabilities().items():
                parts.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values) for name, values in parts.items()}

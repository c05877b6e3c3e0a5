"""Settings of Stage 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from geocbm.errors import ParameterError
from geocbm.models.offsets import OFFSET_DIM
from geocbm.training.settings import TrainingSettings

ABLATION_MODES = ("both", "concept_only", "image_only", "concept_scores", "hybrid")


@dataclass(frozen=True)
class Stage2Config(TrainingSettings):
    """Settings of Stage 2; the defaults are the specification's, those of the training see `TrainingSettings`.

    Attributes:
        ablation_mode: what reaches the heads: "both", "concept_only", "image_only", "concept_scores" (probabilities of
            metas and parents through one linear layer) or "hybrid" (the same, frozen, and a residual from the patches).
        smooth_km: distance over which the label of the true cell spreads to its neighbours (Haas et al., 2024,
            "PIGEON", there 65 to 75 km); 0 keeps one cell.
        refine_cells: most probable cells inside which the nearest training pictures move the answer; 0 is off. Modes
            that do not look at the picture never do it, for it would go past their concepts.
        tokens: which patch tokens Stage 2 reads: "all"; "top-k", the `tokens_kept` patches of each picture on which
            some concept stands out most in its map by Stage 1 (bottleneck "patch", see `PatchKeeper`); or "none", for
            modes that read no patches. Which these are must be decided by what has seen all patches, and can be once
            Stage 1 is trained: Stage 2 then begins with one pass over the pictures (over stored tokens, where there are
            such) and stores the kept tokens and their places. What Stages 0 and 1 read and `03.max_cache_gb` leaves no
            room for is encoded at every read. The head carries the choice and makes it anew for a picture of which it
            is given all patches; attention to the others is 0.
        answer_point: which point of the distribution over cells is answered: "argmax" (the specification's likeliest
            cell and offset, moved by neighbours where `refine_cells` is on), "center" (that cell's centre), "mode" (of
            the smoothed distribution), "expected_centers" or "expected_places" (the cell centre, or the training place
            too, with the highest expected GeoScore), or "validation" (the best of these on the validation split).
        score_transform: what the linear layer reads of each probability: "none" (itself), "sqrt" or "log" (not below
            1e-6), which make room between small probabilities, or "logit", which makes room between large ones too; a
            logit of a cell stays a sum of one term per concept.
        score_lr: learning rate of the linear layer on the probabilities. The problem is convex, so it may be large.
        hybrid_residual: how mode "hybrid" joins its residual: "added" to the frozen logits and trained on the sum, or
            "averaged": trained by itself, with all that mode "both" has, and the answer is the mean of both logits,
            a product of two experts (Hinton, 2002) of which each corrects the other.
        score_epochs: most passes over the training rows for that layer, each a fraction of a second; it stops after
            a fifth of them without improvement.
    """

    batch_size: int = 32
    epochs: int = 30
    lambda_cell: float = 1.0  # weights of the terms: cell classification,
    lambda_offset: float = 5.0  # offset regression,
    lambda_country: float = 0.0  # cross-entropy over countries (Astruc et al., 2024, "OSV-5M"), not the specification's
    ablation_mode: Literal["both", "concept_only", "image_only", "concept_scores", "hybrid"] = "both"
    offset_kind: Literal["cartesian", "latlng", "tangent"] = "cartesian"  # see `models.offsets`
    per_cell_offsets: bool = False  # an offset for every cell instead of one for the image
    smooth_km: float = 0.0
    refine_cells: int = 0
    refine_neighbours: int = 5  # training pictures that are averaged in the chosen cell
    refine_temperature: float = 0.05  # divisor of the similarity when neighbours of different cells compete
    tokens: Literal["all", "top-k", "none"] = "all"
    tokens_kept: int = 64
    answer_point: Literal["argmax", "center", "mode", "expected_centers", "expected_places", "validation"] = "argmax"
    score_transform: Literal["none", "sqrt", "log", "logit"] = "none"
    score_lr: float = 0.003
    score_epochs: int = 100
    hybrid_residual: Literal["added", "averaged"] = "added"
    embed_dim: int = 512  # width inside the head
    entrance_norm: bool = True  # layer norm on the concept embedding, whatever scale the frozen bottleneck gives it
    heads: int = 8  # attention heads
    dropout: float = 0.1  # on attention weights and inside the residual branches
    gating: bool = True  # mix concept and attended patches by a sigmoid per dimension
    explicit_fusion: bool = True  # give the heads the concept embedding beside the fused one, by one linear layer
    init_from_stage0: bool = True  # start from Stage 0's patch projection
    patience: int = 8
    monitor: Literal["median_km", "cell_top1", "geoscore", "loss"] = "median_km"  # validation value that decides

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_numbers("dropout", least=0, below=1)
        self.check_numbers("epochs", "embed_dim", "refine_neighbours", "score_epochs", "tokens_kept", least=1)
        self.check_numbers("lambda_country", "smooth_km", "refine_cells", "score_lr", least=0)
        self.check_numbers("refine_temperature", least=0, above=True)
        if self.heads < 1 or self.embed_dim % self.heads:
            raise ParameterError(f"heads={self.heads} does not divide embed_dim={self.embed_dim}; choose a divisor")
        if self.tokens == "none" and self.reads_tokens:
            raise ParameterError(
                f"ablation_mode={self.ablation_mode!r} reads patch tokens, but tokens='none' keeps none; choose "
                "'concept_scores' or 'concept_only', or tokens='top-k'"
            )

    def in_mode(self, mode: str, **changes: Any) -> Stage2Config:
        """The same settings in another ablation mode, and with other changes."""
        return replace(self, **{"ablation_mode": mode, **changes})

    @property
    def coord_output_dim(self) -> int:
        """Numbers of an offset: 3 for "cartesian", else 2 (the specification's `coord_output_dim`)."""
        return OFFSET_DIM[self.offset_kind]

    @property
    def reads_scores(self) -> bool:
        """Whether the concept input is the probabilities of metas and parents rather than the concept embedding."""
        return self.ablation_mode in ("concept_scores", "hybrid")

    @property
    def averages(self) -> bool:
        """Whether the answer is the mean of the concepts' logits and of a head that was trained by itself."""
        return self.ablation_mode == "hybrid" and self.hybrid_residual == "averaged"

    @property
    def share(self) -> float:
        """What the logits of each of the two parts of mode `hybrid` are multiplied by before they are added."""
        return 0.5 if self.averages else 1.0

    @property
    def refines(self) -> bool:
        """Whether the nearest training pictures move the answer."""
        return self.refine_cells > 0 and self.reads_tokens

    @property
    def reads_tokens(self) -> bool:
        """Whether the mode looks at the patches."""
        return self.ablation_mode not in ("concept_only", "concept_scores")

    @property
    def keeps_some(self) -> bool:
        """Whether the mode looks at some of the patches only."""
        return self.tokens == "top-k" and self.reads_tokens

    @property
    def lr_by_prefix(self) -> Mapping[str, float]:
        """The linear layers on the probabilities train at a rate of their own."""
        return {"cell_head.": self.score_lr, "offset_head.": self.score_lr} if self.reads_scores else {}

    @property
    def training(self) -> Stage2Config:
        """The settings that the training follows: the linear layer on the probabilities has short epochs of its own."""
        if self.ablation_mode != "concept_scores":
            return self
        patience = max(self.patience, self.score_epochs // 5) if self.patience else 0
        return replace(self, epochs=self.score_epochs, patience=patience)

"""Settings of Stage 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from geocbm.errors import ParameterError
from geocbm.models.bottlenecks import BottleneckSettings
from geocbm.training.settings import check_number

TEMPERATURE_RANGE = (0.01, 0.5)
"""Between which a learned temperature stays."""

CONCEPT_TERMS = ("child", "parent", "hierarchy")
"""Loss terms that `concept_losses` turns on and off."""


@dataclass(frozen=True)
class Stage0Config(BottleneckSettings):
    """Settings of Stage 0; the defaults are the specification's, those shared with Stage 1 see `BottleneckSettings`.

    With `epochs=0` the stage is skipped: the encoder stays as it came, and later stages start from untrained heads.

    Attributes:
        concept_losses: train the child, parent and hierarchy terms. Without them the encoder learns from places alone:
            they are measured but weigh nothing, bottleneck and prototype projection stay as initialised.
        train_text_encoder: train the text encoder too, at the encoder's rate (DECISIONS E4): the prompts are encoded
            anew at each step and Stage 1 gets the prototypes of the best epoch.
        text_chunk: prompts per pass of a trained text encoder, computed twice to save memory; 0 takes all at once.
        patch_keep: share of the patches that a training step sees, drawn anew each step (Li et al., 2023, "FLIP");
            validation always sees all.
    """

    encoder_lr: float = 3e-5  # of the unfrozen encoder blocks; `lr` is that of everything else
    unfreeze_layers: int = 2  # last blocks of the encoder that train
    lambda_gps: float = 1.0  # weights of the terms: image against place,
    lambda_child: float = 1.0  # concept embedding against meta prototypes,
    lambda_parent: float = 0.5  # against parent prototypes,
    lambda_hierarchy: float = 0.3  # contrast between parents within the batch,
    lambda_patch_gps: float = 0.2  # pooled patches against place,
    lambda_anchor: float = 0.01  # staying near the encoder's original features
    concept_losses: bool = True
    train_text_encoder: bool = False
    text_chunk: int = 0
    temperature: float = 0.07  # divisor of all cosine similarities
    learn_temperature: bool = False  # that of the two contrasts with places, between 0.01 and 0.5
    symmetric: bool = False  # contrast places against images too
    false_negative_km: float = 0.0  # places nearer than this are not negatives; 0 leaves every pair in
    patch_keep: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("patience", self.patience, 1)
        for name in ("encoder_lr", "unfreeze_layers", "false_negative_km", "text_chunk"):
            check_number(name, getattr(self, name), 0)
        check_number("temperature", self.temperature, 0, above=True)
        low, high = TEMPERATURE_RANGE
        if self.learn_temperature and not low <= self.temperature <= high:
            raise ParameterError(
                f"temperature={self.temperature} is impossible with learn_temperature=True; give {low:g} to {high:g}"
            )
        if self.train_text_encoder and not self.concept_losses:
            raise ParameterError(
                "train_text_encoder=True is useless with concept_losses=False, which leaves the words out of the loss; "
                "use only one of them"
            )
        if not 0 < self.patch_keep <= 1:
            raise ParameterError(f"patch_keep={self.patch_keep} is impossible; give a share above 0 and at most 1")

    @property
    def lr_by_prefix(self) -> Mapping[str, float]:
        """The encoders train at a rate of their own."""
        return {"encoder.": self.encoder_lr, "prompts.": self.encoder_lr}

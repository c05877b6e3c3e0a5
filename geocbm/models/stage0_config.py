"""Settings of Stage 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geocbm.errors import ParameterError
from geocbm.models.bottlenecks import (
    BottleneckSettings,
)
from geocbm.training.settings import check_number

if TYPE_CHECKING:
    pass

TEMPERATURE_RANGE = (0.01, 0.5)
"""Between which a learned temperature stays."""

CONCEPT_TERMS = ("child", "parent", "hierarchy")
"""Loss terms that `concept_losses` turns on and off."""


@dataclass(frozen=True)
class Stage0Config(BottleneckSettings):
    """Settings of Stage 0; the defaults are the specification's.

    What Stage 1 has too is explained in `BottleneckSettings` and `TrainingSettings`.

    Attributes:
        lr: learning rate of everything but the encoder.
        encoder_lr: learning rate of the unfrozen encoder blocks.
        epochs: most passes over the training rows. 0 skips the stage: the encoder stays as it came, and Stages 1 and 2,
            which start from its heads, start from untrained ones.
        unfreeze_layers: last blocks of the encoder that train.
        lambda_gps: weight of image against place.
        lambda_child: weight of concept embedding against meta prototypes.
        lambda_parent: weight of concept embedding against parent prototypes.
        lambda_hierarchy: weight of the intra-batch contrast between parents.
        lambda_patch_gps: weight of pooled patches against place.
        lambda_anchor: weight of staying near the encoder's original features.
        concept_losses: train the child, parent and hierarchy terms. Without them the encoder learns from places alone
            (does it learn the concepts before the bottleneck?): these terms are measured but weigh nothing, the
            bottleneck and the prototype projection stay as they were initialised, so that Stage 1 starts afresh
            whether or not it starts from here, and accuracy by these heads is left out of the figures.
        train_text_encoder: train the text encoder too, at the encoder's rate (DECISIONS E4): the prompts are encoded
            anew at each step and Stage 1 gets the prototypes of the best epoch.
        text_chunk: prompts per pass of a trained text encoder, whose activations are then computed twice to save
            memory; 0 takes all prompts at once.
        temperature: divisor of all cosine similarities.
        learn_temperature: learn that of the two contrasts with places, between 0.01 and 0.5, from `temperature` on.
        symmetric: contrast places against images too.
        false_negative_km: places nearer than this are not negatives; 0 leaves every pair in.
        patch_keep: share of the patches that a training step sees, drawn anew each step (Li et al., 2023, "FLIP"); the
            time of a step falls nearly in proportion. 1 keeps all; validation always sees all.
    """

    encoder_lr: float = 3e-5
    unfreeze_layers: int = 2
    lambda_gps: float = 1.0
    lambda_child: float = 1.0
    lambda_parent: float = 0.5
    lambda_hierarchy: float = 0.3
    lambda_patch_gps: float = 0.2
    lambda_anchor: float = 0.01
    concept_losses: bool = True
    train_text_encoder: bool = False
    text_chunk: int = 0
    temperature: float = 0.07
    learn_temperature: bool = False
    symmetric: bool = False
    false_negative_km: float = 0.0
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

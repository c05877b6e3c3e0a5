"""Stage 0: contrastive pretraining that brings the image encoder near to places and concepts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.encoders.location import location_embeddings
from geocbm.errors import MismatchError, ParameterError
from geocbm.models.bottlenecks import BottleneckSettings, build_bottleneck, mix_prototypes, pool_scores, score_patches
from geocbm.models.prompts import PromptPrototypes
from geocbm.models.retrieval import place_columns, retrieval_metrics

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
            validation always sees all, and so does training where the encoder's blocks do not take any number of
            patches (`takes_any_tokens`): CLIP, SigLIP, ViT and DINOv2 do.
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
        self.check_numbers("patience", least=1)
        self.check_numbers("encoder_lr", "unfreeze_layers", "false_negative_km", "text_chunk", least=0)
        self.check_numbers("temperature", least=0, above=True)
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


class Stage0Output(NamedTuple):
    """What Stage 0 computes for a batch; no embedding is normalised."""

    pooled: Tensor  # (B, d) image features
    gps: Tensor  # (B, d) place embeddings at the width of the image features
    concept_emb: Tensor  # (B, c)
    patch_emb: Tensor  # (B, g) projected patches, averaged
    meta_prototypes: Tensor  # (k_m, c) projected
    parent_prototypes: Tensor  # (k_p, c) projected
    temperature: Tensor  # scalar, of the contrasts with places
    meta_logits: Tensor | None = None  # (B, k_m) and (B, k_p), pooled over the patches by the "patch" bottleneck only
    parent_logits: Tensor | None = None

    @property
    def per_row(self) -> tuple[str, ...]:
        """What the losses read of each row, which several processes gather."""
        logits = () if self.meta_logits is None else ("meta_logits", "parent_logits")
        return ("pooled", "gps", "concept_emb", "patch_emb", *logits)


class Stage0PretrainingModel(nn.Module):
    """Image encoder with its last blocks unfrozen, and the heads it is aligned through.

    Everything in the encoder but its last `config.unfreeze_layers` blocks is frozen here, and so is the location
    encoder `(B, 2)` degrees -> `(B, gps_dim)`, None when only images are to be embedded. The base prototypes `(k_m, t)`
    and `(k_p, t)` are kept as they are unless `prompts` are trained with their text encoder; a trained model may be
    loaded without these, from its prototypes.
    """

    frozen_parts = ("encoder.", "location_encoder.", "prompts.")
    meta_base: Tensor
    parent_base: Tensor

    def __init__(
        self,
        encoder: Any,
        location_encoder: nn.Module | None,
        meta_prototypes: Tensor,
        parent_prototypes: Tensor,
        config: Stage0Config | None = None,
        gps_dim: int = 512,
        prompts: PromptPrototypes | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or Stage0Config()
        self.encoder = encoder
        encoder.requires_grad_(False)
        for parameter in encoder.upper_parameters(config.unfreeze_layers).values():
            parameter.requires_grad_(True)
        self.location_encoder = location_encoder
        if location_encoder is not None:
            location_encoder.requires_grad_(False)
        self.gps_adapter = nn.Linear(gps_dim, encoder.pooled_dim)
        self.bottleneck = build_bottleneck(config, encoder.pooled_dim, encoder.token_dim)
        self.gps_dim = gps_dim
        self.prototype_projection = nn.Linear(meta_prototypes.shape[1], config.concept_emb_dim)
        self.patch_projection = nn.Linear(encoder.token_dim, gps_dim)
        self.register_buffer("meta_base", meta_prototypes.detach().clone().float())
        self.register_buffer("parent_base", parent_prototypes.detach().clone().float())
        if config.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(config.temperature).log())
        self.prompts = prompts
        if prompts is not None:
            shapes = [(count, prompts.dim) for count in prompts.counts]
            given = [tuple(values.shape) for values in (meta_prototypes, parent_prototypes)]
            if shapes != given:
                raise MismatchError(
                    f"the prompts give prototypes of the shapes {shapes}, but those given have {given}; "
                    "make both from the same names and text encoder"
                )

    def train(self, mode: bool = True) -> Stage0PretrainingModel:
        """Set the mode of the heads; the encoders stay in evaluation mode (running statistics must not drift).

        Leaving training, the base prototypes are brought up to date with a trained text encoder. A ParameterError where
        one is to be trained but there are no prompts.
        """
        if mode and self.config.train_text_encoder and self.prompts is None:
            raise ParameterError("train_text_encoder=True needs the prompts; give prompts=PromptPrototypes(...)")
        super().train(mode)
        self.encoder.eval()
        if self.location_encoder is not None:
            self.location_encoder.eval()
        if self.prompts is not None and not mode:
            with torch.no_grad():
                meta, parent = self.prompts()
                self.meta_base.copy_(meta)
                self.parent_base.copy_(parent)
        return self

    def forward(self, hidden: Tensor, gps: Tensor) -> Stage0Output:
        """Embed a batch of activations that enter the unfrozen blocks (of `encoder.lower`) and `(B, g)` places."""
        # An encoder of somebody's own may say nothing of its blocks.
        if self.training and self.config.patch_keep < 1 and getattr(self.encoder, "takes_any_tokens", False):
            hidden = self._some_patches(hidden)
        pooled, tokens = self.encoder.upper(hidden, self.config.unfreeze_layers)  # (B, d), (B, P, w)
        # Without gradients the heads of the concepts stay as they are, and so does the encoder under their terms.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.concept_losses):
            meta_prototypes, parent_prototypes = map(self.prototype_projection, self._base_prototypes())
            concept_emb = self.bottleneck(pooled, tokens)  # (B, c), or (B, P, w) for "patch"
            meta_logits = parent_logits = None
            if self.bottleneck.has_maps:
                metas, parents = (functional.normalize(each, dim=-1) for each in (meta_prototypes, parent_prototypes))
                meta_logits, parent_logits = (
                    pool_scores(cosines.float() / self.config.temperature, self.config.top_patches)
                    for cosines in score_patches(self.bottleneck, concept_emb, metas, parents)
                )
                concept_emb = mix_prototypes(meta_logits.log_softmax(-1), metas)
        return Stage0Output(
            pooled=pooled,
            gps=self.gps_adapter(gps),
            concept_emb=concept_emb,
            # The mean of the projected patches is the projection of the mean patch, at 1/P of the work.
            patch_emb=self.patch_projection(tokens.mean(1)),
            meta_prototypes=meta_prototypes,
            parent_prototypes=parent_prototypes,
            temperature=self.temperature(),
            meta_logits=meta_logits,
            parent_logits=parent_logits,
        )

    def _base_prototypes(self) -> tuple[Tensor, Tensor]:
        """Base prototypes of metas `(k_m, t)` and parents `(k_p, t)`, with gradients if the text encoder trains."""
        if self.prompts is not None and (self.training or torch.is_grad_enabled()):
            return self.prompts()
        return self.meta_base, self.parent_base

    def temperature(self) -> Tensor:
        """Scalar temperature of the contrasts with places, learned or fixed."""
        if not self.config.learn_temperature:
            return self.gps_adapter.weight.new_tensor(self.config.temperature)
        low, high = TEMPERATURE_RANGE
        with torch.no_grad():
            # Beyond its limits a clamped value has no gradient and would never come back, so the parameter is held.
            self.log_temperature.clamp_(math.log(low), math.log(high))
        return self.log_temperature.exp()

    def _some_patches(self, hidden: Tensor) -> Tensor:
        """Keep class and register tokens, which stand in front, and a random share of the patches."""
        n_patches = self.encoder.grid[0] * self.encoder.grid[1]
        n_prefix = hidden.shape[1] - n_patches
        n_kept = max(1, round(self.config.patch_keep * n_patches))
        kept = torch.randperm(n_patches)[:n_kept].sort().values + n_prefix
        return hidden[:, torch.cat([torch.arange(n_prefix), kept]).to(hidden.device)]

    def embed_places(self, lat: np.ndarray, lng: np.ndarray) -> Tensor:
        """Place embeddings `(n, d)` comparable with the image features, float32 on the CPU, of `(n,)` degrees."""
        if self.location_encoder is None:
            raise MismatchError("this Stage 0 model was loaded without a location encoder; pass one to load_stage0")
        device = self.gps_adapter.weight.device
        with torch.no_grad():
            embedded = location_embeddings(self.location_encoder, lat, lng)
            return torch.cat([self.gps_adapter(part.to(device)).cpu() for part in embedded.split(8192)])

    @property
    def description(self) -> dict[str, Any]:
        """What a checkpoint's JSON must say, so that the model can be built again; read before the first step."""
        content = {
            "stage": 0,
            "config": asdict(self.config),
            "gps_dim": self.gps_dim,
            "encoder": {
                "name": self.encoder.name,
                "fingerprint": self.encoder.weights_fingerprint(),
                "preprocessing": self.encoder.preprocessing_name,
            },
        }
        if self.prompts is not None:
            text = self.prompts.text_encoder
            content["text_encoder"] = {"name": text.name, "fingerprint": text.fingerprint()}
        return content

    def predictions(self, output: Stage0Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `measure` reads: embeddings of images and places, where they are, and whether the meta is named."""
        similarity = output.meta_logits
        if similarity is None:
            unit = functional.normalize(output.meta_prototypes, dim=-1)
            similarity = functional.normalize(output.concept_emb, dim=-1) @ unit.T  # (B, k_m)
        return {
            "image": output.pooled,
            "place": output.gps,
            "lat": batch["lat"],
            "lng": batch["lng"],
            "meta": (similarity.argmax(1) == batch["concept_idx"])
            .float()
            .masked_fill(batch["concept_idx"] < 0, math.nan),
        }

    def measure(self, predictions: Mapping[str, Tensor]) -> dict[str, float]:
        """How well images find their own place (`retrieval_metrics`), and how often their meta is named."""
        place = predictions["lat"].numpy(), predictions["lng"].numpy()
        values = retrieval_metrics(predictions["image"], predictions["place"], *place)
        if self.config.concept_losses:  # untrained heads name concepts at random
            values["meta_top1"] = float(predictions["meta"].nanmean())
        if self.config.learn_temperature:
            values["temperature"] = float(self.temperature().detach())
        return values

    def examples(self, output: Stage0Output, batch: Mapping[str, Tensor], labels: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of a table of examples: the places, and those that are retrieved among them."""
        image, place = (functional.normalize(each.float().cpu(), dim=-1) for each in (output.pooled, output.gps))
        cosine, first = (image @ place.T).max(1)  # (n,)
        lat, lng = (batch[name].cpu().numpy() for name in ("lat", "lng"))
        return place_columns((lat, lng), (lat[first.numpy()], lng[first.numpy()])) | {"similarity": cosine.numpy()}

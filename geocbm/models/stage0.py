"""Stage 0: contrastive pretraining that brings the image encoder near to places and concepts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.encoders.location import location_embeddings
from geocbm.errors import MismatchError, ParameterError
from geocbm.files import run_command
from geocbm.models.bottlenecks import build_bottleneck, mix_prototypes, pool_scores, score_patches
from geocbm.models.prompts import PromptPrototypes
from geocbm.models.retrieval import place_columns, retrieval_metrics
from geocbm.models.stage0_config import TEMPERATURE_RANGE, Stage0Config
from geocbm.training.checkpoints import load_checkpoint, read_config, restore

if TYPE_CHECKING:
    from geocbm.encoders import TextEncoder

NOTEBOOK = "03"
_TEXT = "prompts.text_encoder."


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

    Args:
        encoder: image encoder; everything but its last `config.unfreeze_layers` blocks is frozen here.
        location_encoder: frozen module `(B, 2)` degrees -> `(B, g)`; None when only images are to be embedded.
        meta_prototypes: `(k_m, t)` base prototypes, kept as they are unless `prompts` are trained.
        parent_prototypes: `(k_p, t)`.
        config: settings.
        gps_dim: width g of the place embeddings.
        prompts: prompts and text encoder to train. A trained model may be loaded without, from its prototypes.

    Raises:
        MismatchError: when prompts and prototypes differ in number or width.
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

        Entering it, the base prototypes are brought up to date with a trained text encoder.

        Raises:
            ParameterError: when the text encoder is to be trained but there are no prompts.
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
        if self.training and self.config.patch_keep < 1:
            hidden = self._some_patches(hidden)
        pooled, tokens = self.encoder.upper(hidden, self.config.unfreeze_layers)  # (B, d), (B, P, w)
        # Without gradients the heads of the concepts stay as they are, and so does the encoder under their terms.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.concept_losses):
            meta_base, parent_base = self.base_prototypes()
            meta_prototypes = self.prototype_projection(meta_base)
            parent_prototypes = self.prototype_projection(parent_base)
            concept_emb = self.bottleneck(pooled, tokens)  # (B, c), or (B, P, w) for "patch"
            meta_logits = parent_logits = None
            if self.bottleneck.has_maps:
                concept_emb, meta_logits, parent_logits = self._look_for(
                    concept_emb, meta_prototypes, parent_prototypes
                )
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

    def _look_for(
        self, tokens: Tensor, meta_prototypes: Tensor, parent_prototypes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Concept embedding `(B, c)`, logits of metas `(B, k_m)` and parents `(B, k_p)`, pooled over the patches."""
        meta_unit, parent_unit = (functional.normalize(each, dim=-1) for each in (meta_prototypes, parent_prototypes))
        meta, parent = (
            pool_scores(cosines.float() / self.config.temperature, self.config.top_patches)
            for cosines in score_patches(self.bottleneck, tokens, meta_unit, parent_unit)
        )
        return mix_prototypes(meta, meta_unit), meta, parent

    def base_prototypes(self) -> tuple[Tensor, Tensor]:
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
        """Keep class and register tokens and a random share of the patches; feature maps stay as they are."""
        n_patches = self.encoder.grid[0] * self.encoder.grid[1]
        n_prefix = hidden.shape[1] - n_patches
        if hidden.ndim != 3 or n_prefix < 0:
            return hidden
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
            "meta": similarity.argmax(1) == batch["concept_idx"],
        }

    def measure(self, predictions: Mapping[str, Tensor]) -> dict[str, float]:
        """How well images find their own place (`retrieval_metrics`), and how often their meta is named."""
        place = predictions["lat"].numpy(), predictions["lng"].numpy()
        values = retrieval_metrics(predictions["image"], predictions["place"], *place)
        if self.config.concept_losses:  # untrained heads name concepts at random
            values["meta_top1"] = float(predictions["meta"].float().mean())
        if self.config.learn_temperature:
            values["temperature"] = float(self.temperature().detach())
        return values

    def examples(self, output: Stage0Output, batch: Mapping[str, Tensor], labels: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of a table of examples: the places, and those that are retrieved among them."""
        image, place = (functional.normalize(each.float().cpu(), dim=-1) for each in (output.pooled, output.gps))
        cosine, first = (image @ place.T).max(1)  # (n,)
        lat, lng = (batch[name].cpu().numpy() for name in ("lat", "lng"))
        return place_columns((lat, lng), (lat[first.numpy()], lng[first.numpy()])) | {"similarity": cosine.numpy()}


def load_stage0(path: str | Path, encoder: Any, location_encoder: nn.Module | None = None) -> Stage0PretrainingModel:
    """Load a checkpoint in evaluation mode and put its trained blocks into the encoder, which is changed in place.

    A text encoder that was trained too is not needed: the model has the prototypes it came to.

    Args:
        path: `stage0.safetensors`.
        encoder: the image encoder as it was before training.
        location_encoder: needed only for `embed_places`.

    Raises:
        MissingInputError: when the checkpoint is not there.
        MismatchError: when it was trained from another encoder, or is no whole checkpoint of Stage 0.
    """
    made_by = partial(run_command, path, NOTEBOOK)
    tensors, metadata = load_checkpoint(path, made_by, stage=0)
    _check_start(encoder, encoder.weights_fingerprint(), "encoder", path, metadata)
    before = metadata["encoder"].get("preprocessing", encoder.preprocessing_name)
    if before != encoder.preprocessing_name:
        raise MismatchError(
            f"{path} was trained on pictures that {before} prepared, but {encoder.name!r} prepares them with "
            f"{encoder.preprocessing_name}, which gives other pixels; use the same, or train again with `{made_by()}`"
        )
    model = Stage0PretrainingModel(
        encoder,
        location_encoder,
        tensors["meta_base"],
        tensors["parent_base"],
        read_config(Stage0Config, metadata, path, made_by),
        metadata["gps_dim"],
    )
    restore(model, {name: value for name, value in tensors.items() if not name.startswith(_TEXT)}, path)
    return model


class Stage0Layers(nn.Module):
    """The small layers of a trained Stage 0 that later stages start from, without its image encoder.

    Raises:
        MissingInputError: when the checkpoint is not there.
        MismatchError: when it is no whole checkpoint of Stage 0.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        made_by = partial(run_command, path, NOTEBOOK)
        tensors, metadata = load_checkpoint(path, made_by, stage=0)
        self.config = read_config(Stage0Config, metadata, path, made_by)
        pooled_dim, (gps_dim, token_dim) = len(tensors["gps_adapter.bias"]), tensors["patch_projection.weight"].shape
        self.gps_adapter = nn.Linear(gps_dim, pooled_dim)
        self.bottleneck = build_bottleneck(self.config, pooled_dim, token_dim)
        self.prototype_projection = nn.Linear(tensors["meta_base"].shape[1], self.config.concept_emb_dim)
        self.patch_projection = nn.Linear(token_dim, gps_dim)
        parts = tuple(f"{name}." for name, _ in self.named_children())
        restore(self, {name: value for name, value in tensors.items() if name.startswith(parts)}, path)


def read_base_prototypes(path: str | Path) -> dict[str, Tensor]:
    """Base prototypes of a checkpoint, `meta (k_m, t)` and `parent (k_p, t)`: the ones Stage 1 builds upon.

    Raises:
        MissingInputError: when the checkpoint is not there.
        MismatchError: when its two files do not belong together or are of another stage.
    """
    tensors, _ = load_checkpoint(path, partial(run_command, path, NOTEBOOK), stage=0)
    return {"meta": tensors["meta_base"], "parent": tensors["parent_base"]}


def restore_text_encoder(path: str | Path, text_encoder: TextEncoder) -> bool:
    """Put the weights that Stage 0 trained into a text encoder, so that it can encode other words than the concepts.

    It must be as it was before training and is changed in place. Says whether Stage 0 trained it; if not, it stays.

    Raises:
        MissingInputError: when the checkpoint is not there.
        MismatchError: when another text encoder was trained.
    """
    tensors, metadata = load_checkpoint(path, partial(run_command, path, NOTEBOOK), stage=0)
    if "text_encoder" not in metadata:
        return False
    _check_start(text_encoder, text_encoder.fingerprint(), "text_encoder", path, metadata)
    trained = {name.removeprefix(_TEXT): value for name, value in tensors.items() if name.startswith(_TEXT)}
    text_encoder.load_state_dict(trained, strict=False)
    return True


def _check_start(model: Any, fingerprint: str, part: str, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Refuse an encoder whose weights are not those that training began with."""
    if fingerprint != metadata[part]["fingerprint"]:
        raise MismatchError(
            f"{path} was trained from the {part.replace('_', ' ')} {metadata[part]['name']!r} with other weights than "
            f"those of {model.name!r}; load that encoder afresh, or train again with `{run_command(path, NOTEBOOK)}`"
        )

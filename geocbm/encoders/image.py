"""Image encoders: pictures to a pooled vector and a grid of tokens, whole or in two halves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from geocbm.encoders.backbones import Backbone, ImageFeatures, make_backbone
from geocbm.encoders.loading import Fingerprint, config_text, find_model_folder, hash_weights, read_model
from geocbm.encoders.preprocessing import Preprocessing
from geocbm.errors import ParameterError, UserError, first_line
from geocbm.files import sha256_text

if TYPE_CHECKING:
    from PIL.Image import Image

_DARK, _BRIGHT = 110, 255
"""8-bit levels of the pictures that a model is examined with."""

__all__ = ["ImageEncoder", "ImageFeatures", "load_image_encoder"]


class ImageEncoder(nn.Module):
    """A vision model with one interface, always in evaluation mode.

    Evaluation mode is kept even while blocks are trained: running statistics and dropout stay off, so that stored
    activations and fresh ones agree.
    """

    def __init__(self, backbone: Backbone, processor: Any, name: str) -> None:
        super().__init__()
        self.model = backbone.model
        self.name = name
        self.processor = processor
        self._backbone = backbone
        self._preprocessing = Preprocessing(processor, name)
        self._weights = Fingerprint()
        self._preprocessing_fingerprint: str | None = None
        self.image_size, width = self._preprocessing.height, self._preprocessing.width  # of what the model sees
        self.eval()
        dark, bright = (
            self._preprocessing.colours.pixels(level)[:, None, None].expand(3, self.image_size, width).contiguous()
            for level in (_DARK, _BRIGHT)
        )
        with torch.no_grad():
            try:
                features = backbone.examine(dark, bright)
            except UserError as error:
                raise ParameterError(f"the encoder '{name}' cannot be used: {error}") from error
            except (ValueError, RuntimeError) as error:
                raise UserError(
                    f"the encoder '{name}' does not accept the pictures its preprocessing makes "
                    f"({self.image_size} x {width} pixels): {first_line(error)}; correct preprocessor_config.json"
                ) from error
        self.n_blocks = len(backbone.blocks)  # that can be trained apart; 0 if the model is used as a whole
        self.pooled_dim = int(features.pooled.shape[-1])  # d
        self.token_dim = int(features.tokens.shape[-1])  # w
        self.grid = backbone.grid  # rows and columns of tokens
        self.takes_any_tokens = backbone.takes_any_tokens  # in front of the last blocks; see `Backbone`

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def preprocessing_name(self) -> str:
        """Class of the image processor, which tells its implementation: those on Pillow end in "Pil"."""
        return type(self.processor).__name__

    def train(self, mode: bool = True) -> ImageEncoder:
        """Stay in evaluation mode, whatever `mode` says."""
        return super().train(False)

    def preprocess(self, images: Sequence[Image]) -> Tensor:
        """Pictures in any mode and size to the input of the model, float (B, 3, H, W) on the CPU."""
        return self._preprocessing(images)

    def crop(self, image: Image) -> Image:
        """The picture that the model sees: resized and cropped, in colours."""
        return self._preprocessing.picture(image)

    def forward(self, pixel_values: Tensor) -> ImageFeatures:
        """Encode pictures (B, 3, H, W) into pooled vectors (B, d) and tokens (B, P, w)."""
        return self.upper(self.lower(pixel_values, 0), 0)

    def lower(self, pixel_values: Tensor, top_blocks: int) -> Tensor:
        """The activations (B, ...) that enter the last `top_blocks` blocks, of pictures (B, 3, H, W)."""
        self._check_top_blocks(top_blocks)
        return self._backbone.lower(pixel_values, top_blocks)

    def upper(self, hidden: Tensor, top_blocks: int) -> ImageFeatures:
        """Run the last blocks and the head on what `lower` gave for the same `top_blocks`."""
        self._check_top_blocks(top_blocks)
        return self._backbone.upper(hidden, top_blocks)

    def upper_parameters(self, top_blocks: int) -> dict[str, nn.Parameter]:
        """Parameters of the last blocks, the last normalisation and the projection, by name; none for 0 blocks."""
        self._check_top_blocks(top_blocks)
        if top_blocks == 0:
            return {}
        chosen = {id(parameter) for parameter in self._backbone.upper_parameters(top_blocks)}
        return {name: parameter for name, parameter in self.named_parameters() if id(parameter) in chosen}

    def hidden_shape(self, top_blocks: int) -> tuple[int, ...]:
        """Shape of what `lower` gives for one picture, without the batch dimension."""
        self._check_top_blocks(top_blocks)
        below = self.n_blocks if self._backbone.keeps_shape else top_blocks
        blank = torch.zeros(1, 3, self._preprocessing.height, self._preprocessing.width, device=self.device)
        with torch.no_grad():
            return tuple(self.lower(blank, below).shape[1:])

    def fingerprint(self) -> str:
        """SHA-256 over all that features depend on: weights, architecture, preprocessing and what it does to pixels."""
        return sha256_text(f"{self.weights_fingerprint()} {self._pixels_fingerprint()}")

    def weights_fingerprint(self) -> str:
        """SHA-256 over weights, architecture and configured preprocessing; it changes when any weight changes."""
        return self._weights.of(self, self._settings)

    def lower_fingerprint(self, top_blocks: int) -> str:
        """The same as `fingerprint` without the parameters that training the last blocks changes."""
        trained = self.upper_parameters(top_blocks)
        tensors = [(name, tensor) for name, tensor in self.state_dict().items() if name not in trained]
        return hash_weights(tensors, *self._settings(), str(top_blocks), self._pixels_fingerprint())

    def _pixels_fingerprint(self) -> str:
        if self._preprocessing_fingerprint is None:
            self._preprocessing_fingerprint = self._preprocessing.fingerprint()
        return self._preprocessing_fingerprint

    def _settings(self) -> tuple[str, str]:
        """Architecture and preprocessing as text."""
        config: Any = self.model.config
        vision = getattr(config, "vision_config", config)
        return config_text(vision.to_dict()), config_text(self.processor.to_dict())

    def _check_top_blocks(self, top_blocks: int) -> None:
        if 0 <= top_blocks <= self.n_blocks:
            return
        if self.n_blocks == 0:
            raise ParameterError(
                f"top_blocks is {top_blocks}, but the encoder '{self.name}' (type '{self._backbone.kind}') "
                "cannot be divided into blocks, so that none can be trained; use 0 (unfreeze_layers=0)"
            )
        raise ParameterError(
            f"top_blocks is {top_blocks}, but the encoder '{self.name}' has {self.n_blocks} blocks; "
            f"use 0 to {self.n_blocks}"
        )


def load_image_encoder(name_or_folder: str | Path) -> ImageEncoder:
    """Load an image encoder, frozen, in float32, on the CPU; see `find_model_folder` for its name.

    Raises:
        MissingInputError: the model is neither local nor cached nor within reach.
        ParameterError: the model has no safetensors, reads no pictures or cannot be understood.
    """
    from transformers import AutoImageProcessor

    name, folder = str(name_or_folder), find_model_folder(name_or_folder)
    backbone = make_backbone(*read_model(folder))
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged configuration makes each kind of processor fail in its own way
        raise ParameterError(
            f"the encoder '{name}' has no usable preprocessor_config.json: {first_line(error)}; save its image "
            "processor into the same folder"
        ) from error
    return ImageEncoder(backbone, processor, name)

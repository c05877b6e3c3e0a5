"""Image encoders: pictures to a pooled vector and a grid of tokens, whole or in two halves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from geocbm.encoders.backbones import Backbone, ImageFeatures, WholeBackbone, make_backbone
from geocbm.encoders.loading import config_text, hash_weights, read_model, weights_state
from geocbm.encoders.resolve import find_model_folder
from geocbm.errors import ParameterError, UserError
from geocbm.pictures import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageEncoder", "ImageFeatures", "load_image_encoder"]


class ImageEncoder(nn.Module):
    """A vision model with one interface, always in evaluation mode.

    Evaluation mode is kept even while blocks are trained: running statistics and dropout stay off, so that stored
    activations and fresh ones agree.

    Attributes:
        name: what it was loaded as.
        pooled_dim: size d of the pooled vector.
        token_dim: size w of a token.
        grid: rows and columns of tokens.
        image_size: height in pixels of the picture that the model sees.
        n_blocks: how many blocks can be trained apart; 0 if the model is used as a whole.
    """

    def __init__(self, backbone: Backbone, processor: Any, name: str) -> None:
        super().__init__()
        self.model = backbone.model
        self.name = name
        self.n_blocks = len(backbone.blocks)
        self._backbone = backbone
        self._processor = processor
        self._fingerprint: tuple[tuple[object, ...], str] | None = None
        self.image_size, width = self._input_size()
        self.eval()
        with torch.no_grad():
            try:
                # Where blocks keep the shape they are skipped: loading a large model must not cost a pass through it.
                hidden = backbone.stem(torch.zeros(1, 3, self.image_size, width))
                for block in [] if backbone.keeps_shape else backbone.blocks:
                    hidden = backbone.run(block, hidden)
                features = backbone.head(hidden)
            except ValueError as error:
                raise UserError(
                    f"the encoder '{name}' does not accept the pictures its preprocessing makes "
                    f"({self.image_size} x {width} pixels): {error}; correct preprocessor_config.json"
                ) from error
        self.pooled_dim = int(features.pooled.shape[-1])
        self.token_dim = int(features.tokens.shape[-1])
        self.grid = _grid(int(features.tokens.shape[1]), self.image_size, width)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> ImageEncoder:
        """Stay in evaluation mode, whatever `mode` says."""
        return super().train(False)

    def preprocess(self, images: Sequence[Image]) -> Tensor:
        """Turn pictures into the input of the model.

        Args:
            images: pictures in any mode and size.

        Returns:
            Float tensor (B, 3, H, W) on the CPU.
        """
        pictures = [to_rgb(image) for image in images]
        # (B, 3, H, W)
        return self._processor(images=pictures, return_tensors="pt")["pixel_values"].float()

    def crop(self, image: Image) -> Image:
        """The picture that the model sees: resized and cropped, in colours."""
        from PIL import Image as pillow

        pixels = self.preprocess([image])[0].numpy().astype(np.float64)  # (3, H, W)
        if getattr(self._processor, "do_normalize", False):
            deviation = np.asarray(self._processor.image_std, dtype=np.float64)[:, None, None]
            pixels = pixels * deviation + np.asarray(self._processor.image_mean, dtype=np.float64)[:, None, None]
        if getattr(self._processor, "do_rescale", False):
            pixels = pixels / float(self._processor.rescale_factor)
        return pillow.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0))

    def forward(self, pixel_values: Tensor) -> ImageFeatures:
        """Encode pictures (B, 3, H, W) into pooled vectors (B, d) and tokens (B, P, w)."""
        return self.upper(self.lower(pixel_values, 0), 0)

    def lower(self, pixel_values: Tensor, top_blocks: int) -> Tensor:
        """Run everything below the last blocks.

        Args:
            pixel_values: pictures, (B, 3, H, W).
            top_blocks: how many blocks are left out at the end.

        Returns:
            The activations that enter the first block left out, (B, ...).
        """
        self._check_top_blocks(top_blocks)
        hidden = self._backbone.stem(pixel_values)
        for block in self._backbone.blocks[: self.n_blocks - top_blocks]:
            hidden = self._backbone.run(block, hidden)
        return hidden

    def upper(self, hidden: Tensor, top_blocks: int) -> ImageFeatures:
        """Run the last blocks and the head on what `lower` gave for the same `top_blocks`."""
        self._check_top_blocks(top_blocks)
        for block in self._backbone.blocks[self.n_blocks - top_blocks :]:
            hidden = self._backbone.run(block, hidden)
        return self._backbone.head(hidden)

    def upper_parameters(self, top_blocks: int) -> dict[str, nn.Parameter]:
        """Parameters of the last blocks, the last normalisation and the projection, by their names in this module.

        With `top_blocks` 0 nothing is trained and the dictionary is empty.
        """
        self._check_top_blocks(top_blocks)
        if top_blocks == 0:
            return {}
        modules = [*self._backbone.blocks[self.n_blocks - top_blocks :], *self._backbone.head_modules]
        chosen = {id(parameter) for module in modules for parameter in module.parameters()}
        return {name: parameter for name, parameter in self.named_parameters() if id(parameter) in chosen}

    def hidden_shape(self, top_blocks: int) -> tuple[int, ...]:
        """Shape of what `lower` gives for one picture, without the batch dimension."""
        self._check_top_blocks(top_blocks)
        below = self.n_blocks if self._backbone.keeps_shape else top_blocks
        with torch.no_grad():
            height, width = self._input_size()
            return tuple(self.lower(torch.zeros(1, 3, height, width, device=self.device), below).shape[1:])

    def fingerprint(self) -> str:
        """SHA-256 over weights, architecture and preprocessing; it changes when any weight changes."""
        tensors = dict(self.state_dict())
        state = weights_state(tensors.values())
        if self._fingerprint is None or self._fingerprint[0] != state:
            self._fingerprint = (state, hash_weights(tensors.items(), *self._settings()))
        return self._fingerprint[1]

    def lower_fingerprint(self, top_blocks: int) -> str:
        """The same without the parameters that training the last blocks changes."""
        trained = self.upper_parameters(top_blocks)
        tensors = [(name, tensor) for name, tensor in self.state_dict().items() if name not in trained]
        return hash_weights(tensors, *self._settings(), str(top_blocks))

    def _settings(self) -> tuple[str, str]:
        """Architecture and preprocessing as text."""
        config: Any = self.model.config
        vision = getattr(config, "vision_config", config)
        return config_text(vision.to_dict()), config_text(self._processor.to_dict())

    def _check_top_blocks(self, top_blocks: int) -> None:
        if 0 <= top_blocks <= self.n_blocks:
            return
        if isinstance(self._backbone, WholeBackbone):
            raise ParameterError(
                f"top_blocks is {top_blocks}, but the encoder '{self.name}' cannot be divided into blocks; use 0"
            )
        raise ParameterError(
            f"top_blocks is {top_blocks}, but the encoder '{self.name}' has {self.n_blocks} blocks; "
            f"use 0 to {self.n_blocks}"
        )

    def _input_size(self) -> tuple[int, int]:
        """Height and width that the preprocessing gives to every picture."""
        from PIL import Image as pillow

        shapes = {
            tuple(self.preprocess([pillow.new("RGB", size)]).shape[-2:]) for size in ((640, 400), (400, 640), (32, 32))
        }
        if len(shapes) > 1:
            raise ParameterError(
                f"the preprocessing of the encoder '{self.name}' gives pictures of different sizes {sorted(shapes)}; "
                "set a fixed size or a centre crop in its preprocessor_config.json"
            )
        height, width = shapes.pop()
        return int(height), int(width)


def _grid(n_tokens: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of `n_tokens` over a picture, as close to its proportions as possible."""
    ideal = math.sqrt(n_tokens * height / width)
    rows = min((r for r in range(1, n_tokens + 1) if n_tokens % r == 0), key=lambda r: abs(r - ideal))
    return rows, n_tokens // rows


def load_image_encoder(name_or_folder: str | Path, attention: str = "sdpa") -> ImageEncoder:
    """Load an image encoder, frozen, in float32, on the CPU.

    Args:
        name_or_folder: "atlas" for the packaged backbone, a local folder, or a name on the model hub.
        attention: implementation of attention, "sdpa" or "eager".

    Returns:
        The encoder.

    Raises:
        MissingInputError: the model is neither local nor cached nor within reach.
        ParameterError: the model has no safetensors, reads no pictures or cannot be understood.
    """
    folder = find_model_folder(name_or_folder)
    model, missing = read_model(folder, attention)
    backbone = make_backbone(model, missing)
    return ImageEncoder(backbone, _read_processor(folder, str(name_or_folder)), str(name_or_folder))


def _read_processor(folder: Path, name: str) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ParameterError(
            f"the encoder '{name}' has no usable preprocessor_config.json: {str(error).splitlines()[0]}; "
            "save its image processor into the same folder"
        ) from error

"""Families of vision models, each taken apart into stem, blocks and head.

`head(blocks(stem(pixels)))` is what the model of transformers computes; the division lets a few last blocks be trained
while the activations that enter them are stored. CLIP (Radford et al., 2021), SigLIP (Zhai et al., 2023), ViT
(Dosovitskiy et al., 2021), DINOv2 (Oquab et al., 2023), MobileNet, ResNet, RegNet and ConvNeXt are known; any other
model with a map of features is used as a whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geocbm.errors import ParameterError


class ImageFeatures(NamedTuple):
    """What an image encoder gives for a batch of pictures.

    Attributes:
        pooled: one vector per picture, (B, d).
        tokens: one vector per position, row by row from the top left, (B, P, w).
    """

    pooled: Tensor
    tokens: Tensor


class Backbone:
    """A vision model of transformers as stem, blocks and head.

    Attributes:
        model: the module that holds all weights in use.
        blocks: the repeated part, from the first to the last; empty if the model cannot be divided.
        head_modules: modules after the last block that are trained along with the last blocks.
        keeps_shape: whether every block gives the shape that it takes, as those of transformers do.
    """

    keeps_shape = False

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], head_modules: Sequence[nn.Module | None]) -> None:
        self.model = model
        self.blocks = list(blocks)
        self.head_modules = [module for module in head_modules if isinstance(module, nn.Module)]

    def stem(self, pixel_values: Tensor) -> Tensor:
        """Everything before the first block: pixels (B, 3, H, W) to activations (B, ...)."""
        raise ParameterError(f"{type(self).__name__} has no stem; use one of its families")

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Everything after the last block: activations (B, ...) to features."""
        raise ParameterError(f"{type(self).__name__} has no head; use one of its families")

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Apply one block."""
        # Blocks of transformers take a mask, some of them without a default; no picture is ever masked.
        options = {"attention_mask": None} if "attention_mask" in inspect.signature(block.forward).parameters else {}
        output = block(hidden, **options)
        return output[0] if isinstance(output, tuple) else output


class ClipBackbone(Backbone):
    """CLIP: the class token is projected; tokens are taken before the last normalisation."""

    keeps_shape = True

    def __init__(self, model: Any) -> None:
        self.vision = getattr(model, "vision_model", model)
        self.projection = getattr(model, "visual_projection", None)
        super().__init__(model, self.vision.encoder.layers, [self.vision.post_layernorm, self.projection])

    def stem(self, pixel_values: Tensor) -> Tensor:
        """Class token and patches after the first normalisation, (B, 1 + P, w)."""
        return self.vision.pre_layrnorm(self.vision.embeddings(pixel_values))

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Projected class token and the other tokens."""
        pooled = self.vision.post_layernorm(hidden[:, 0])
        return ImageFeatures(pooled if self.projection is None else self.projection(pooled), hidden[:, 1:])


class SiglipBackbone(Backbone):
    """SigLIP: no class token; a pooling head attends to all tokens."""

    keeps_shape = True

    def __init__(self, model: Any) -> None:
        self.vision = getattr(model, "vision_model", model)
        super().__init__(model, self.vision.encoder.layers, [self.vision.post_layernorm, self.vision.head])

    def stem(self, pixel_values: Tensor) -> Tensor:
        """Patches with their positions, (B, P, w)."""
        return self.vision.embeddings(pixel_values)

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Attention-pooled vector and the tokens before the last normalisation."""
        return ImageFeatures(self.vision.head(self.vision.post_layernorm(hidden)), hidden)


class VitBackbone(Backbone):
    """ViT, DeiT and DINOv2: class token, then extra tokens (registers, distillation), then patches."""

    keeps_shape = True

    def __init__(self, model: Any, use_pooler: bool) -> None:
        self.pooler = getattr(model, "pooler", None) if use_pooler else None
        layers = getattr(model, "layers", None)
        if layers is None:
            layers = model.encoder.layer
        super().__init__(model, layers, [model.layernorm, self.pooler])
        self.vision = model
        config = model.config
        self.n_extra = 1 + int(getattr(config, "num_register_tokens", 0) or 0) + int(config.model_type == "deit")

    def stem(self, pixel_values: Tensor) -> Tensor:
        """Class token, extra tokens and patches, (B, 1 + extra + P, w)."""
        return self.vision.embeddings(pixel_values)

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Pooler output, or the normalised class token where there is no trained pooler."""
        hidden = self.vision.layernorm(hidden)
        pooled = hidden[:, 0] if self.pooler is None else self.pooler(hidden)
        return ImageFeatures(pooled, hidden[:, self.n_extra :])


class ConvolutionalBackbone(Backbone):
    """Convolutional networks made of stages or blocks: a feature map and its mean."""

    def __init__(self, model: Any) -> None:
        self.is_mobilenet = hasattr(model, "conv_stem")
        self.last_convolution = getattr(model, "conv_1x1", None)
        self.layernorm = getattr(model, "layernorm", None)
        self.vision = model
        blocks = model.layer if self.is_mobilenet else model.encoder.stages
        super().__init__(model, blocks, [self.last_convolution, self.layernorm])

    def stem(self, pixel_values: Tensor) -> Tensor:
        """First convolution, (B, C, H, W)."""
        vision = self.vision
        first = vision.conv_stem if self.is_mobilenet else getattr(vision, "embedder", None) or vision.embeddings
        return first(pixel_values)

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Mean over the map (normalised where the network does so) and the map, row by row."""
        if self.last_convolution is not None:
            hidden = self.last_convolution(hidden)
        pooled = hidden.mean(dim=(-2, -1))  # (B, C)
        if self.layernorm is not None:
            pooled = self.layernorm(pooled)
        return ImageFeatures(pooled, hidden.flatten(2).transpose(1, 2))  # (B, H*W, C)


class WholeBackbone(Backbone):
    """Any other model: used as a whole, so none of its blocks can be trained apart."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, [], [])

    def stem(self, pixel_values: Tensor) -> Tensor:
        """The whole model: the pooled vector in front of the tokens, (B, 1 + P, w)."""
        output = self.model(pixel_values=pixel_values)
        hidden = output.last_hidden_state
        if hidden.dim() == 4:
            tokens = hidden.flatten(2).transpose(1, 2)  # (B, H*W, C)
        else:
            tokens = hidden[:, _n_prefix_tokens(self.model.config, hidden.shape[1], pixel_values.shape[-2:]) :]
        pooled = getattr(output, "pooler_output", None)
        pooled = tokens.mean(dim=1) if pooled is None else pooled.flatten(1)
        if pooled.shape[-1] != tokens.shape[-1]:
            pooled = tokens.mean(dim=1)
        return torch.cat([pooled[:, None], tokens], dim=1)

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Take the pooled vector and the tokens apart again."""
        return ImageFeatures(hidden[:, 0], hidden[:, 1:])


def _n_prefix_tokens(config: Any, n_tokens: int, size: Sequence[int]) -> int:
    """How many tokens stand before the patches."""
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, int) and patch > 0:
        n_patches = (size[0] // patch) * (size[1] // patch)
        if n_patches <= n_tokens:
            return n_tokens - n_patches
    return 0


_VIT_TYPES = {"vit", "deit", "dinov2", "dinov2_with_registers", "vit_msn"}
_STAGE_TYPES = {"resnet", "regnet", "convnext", "convnextv2", "mobilenet_v1", "mobilenet_v2"}


def make_backbone(model: Any, missing: set[str]) -> Backbone:
    """Choose the family of a model.

    Args:
        model: a model of transformers; a text tower in it is dropped.
        missing: names of weights that the checkpoint lacks (those keep random values).

    Returns:
        The model taken apart.

    Raises:
        ParameterError: weights that the features need are missing, or the model reads no pictures.
    """
    for text_part in ("text_model", "text_projection", "logit_scale", "logit_bias"):
        if hasattr(model, text_part):
            delattr(model, text_part)
    vision = getattr(model, "vision_model", model)
    kind = str(model.config.model_type)
    backbone: Backbone
    if hasattr(vision, "pre_layrnorm") and hasattr(vision, "post_layernorm"):
        backbone = ClipBackbone(model)
    elif kind.startswith("siglip") and hasattr(vision, "head") and kind in {"siglip", "siglip_vision_model"}:
        backbone = SiglipBackbone(model)
    elif kind in _VIT_TYPES and hasattr(model, "layernorm"):
        pooler_is_trained = not any(name.startswith("pooler.") for name in missing)
        backbone = VitBackbone(model, use_pooler=pooler_is_trained)
        if not pooler_is_trained:
            model.pooler = None
    elif kind in _STAGE_TYPES:
        backbone = ConvolutionalBackbone(model)
    elif getattr(model, "main_input_name", "") == "pixel_values":
        backbone = WholeBackbone(model)
    else:
        raise ParameterError(f"a model of type '{kind}' reads no pictures; name an image encoder")
    lacking = sorted(missing.intersection(name for name, _ in model.named_parameters()))
    if lacking:
        raise ParameterError(
            f"the checkpoint of type '{kind}' lacks {len(lacking)} weights that the features need, such as "
            f"'{lacking[0]}'; they would be random"
        )
    return backbone

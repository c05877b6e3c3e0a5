"""Families of vision models, each taken apart into stem, blocks and head.

`head(blocks(stem(pixels)))` is what the model of transformers computes; the division lets a few last blocks be trained
while the activations that enter them are stored. CLIP (Radford et al., 2021), SigLIP (Zhai et al., 2023), ViT
(Dosovitskiy et al., 2021), DINOv2 (Oquab et al., 2023), MobileNet, ResNet, RegNet and ConvNeXt are taken apart by
name; any other model is watched while it runs (`generic.GenericBackbone`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from geocbm.errors import ParameterError


class ImageFeatures(NamedTuple):
    """What an image encoder gives for a batch of pictures."""

    pooled: Tensor  # (B, d)
    tokens: Tensor  # one per position, row by row from the top left, (B, P, w)


class Backbone:
    """A vision model of transformers, cut between the blocks that stay frozen and those that may train.

    A family says what its `head` is, everything after the last block, and its `stem` where that is more than embedding.
    """

    keeps_shape = True  # whether every block gives the shape that it takes
    takes_any_tokens = True  # whether blocks and head take any share of the patches, which stand behind other tokens

    def __init__(
        self, model: nn.Module, blocks: Sequence[nn.Module], head_modules: Sequence[nn.Module | None] = ()
    ) -> None:
        self.model = model
        self.vision: Any = getattr(model, "vision_model", model)
        self.blocks = list(blocks)
        self.head_modules = [module for module in head_modules if module is not None]
        self.grid = (0, 0)  # rows and columns of the tokens, known after `examine`

    @property
    def kind(self) -> str:
        """The family by the name that transformers gives it."""
        config: Any = self.model.config
        return str(config.model_type)

    def stem(self, pixel_values: Tensor) -> Tensor:
        """Everything before the first block: pixels (B, 3, H, W) to activations (B, ...)."""
        return self.vision.embeddings(pixel_values)

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Everything after the last block: activations (B, ...) to features."""
        raise TypeError(f"{type(self).__name__} does not say what comes after its blocks")

    def examine(self, dark: Tensor, bright: Tensor) -> ImageFeatures:
        """Features of one picture, given two plain ones (3, H, W); sets what depends on the size of pictures.

        Raises:
            ParameterError: the tokens lie on no grid over the picture.
        """
        # Where blocks keep the shape they are skipped: loading a large model must not cost a pass through it.
        hidden = self.lower(dark[None], len(self.blocks) if self.keeps_shape else 0)
        features = self.head(hidden)
        height, width = dark.shape[-2:]
        if hidden.dim() == 4:  # a map
            rows, columns = hidden.shape[-2:]
        else:
            config: Any = self.model.config
            patch = getattr(config, "vision_config", config).patch_size
            patch_height, patch_width = (patch, patch) if isinstance(patch, int) else patch
            rows, columns = height // int(patch_height), width // int(patch_width)
        self.grid = (rows, columns)
        if rows * columns != features.tokens.shape[1]:
            raise ParameterError(
                f"a model of type '{self.kind}' gives {features.tokens.shape[1]} tokens, which lie "
                f"on no grid of {rows} x {columns} over {height} x {width} pixels; name another encoder"
            )
        return features

    def lower(self, pixel_values: Tensor, top_blocks: int) -> Tensor:
        """Everything below the last blocks: pixels (B, 3, H, W) to activations (B, ...)."""
        return self._run(self.blocks[: len(self.blocks) - top_blocks], self.stem(pixel_values))

    def upper(self, hidden: Tensor, top_blocks: int) -> ImageFeatures:
        """The last blocks and the head: activations (B, ...) to features."""
        return self.head(self._run(self.blocks[len(self.blocks) - top_blocks :], hidden))

    def upper_parameters(self, top_blocks: int) -> list[nn.Parameter]:
        """Parameters of the last blocks, the last normalisation and the projection."""
        modules = [*self.blocks[len(self.blocks) - top_blocks :], *self.head_modules]
        return [parameter for module in modules for parameter in module.parameters()]

    @staticmethod
    def _run(blocks: Sequence[nn.Module], hidden: Tensor) -> Tensor:
        for block in blocks:
            # Blocks of transformers take a mask, some of them without a default; no picture is ever masked.
            takes_mask = "attention_mask" in inspect.signature(block.forward).parameters
            output = block(hidden, attention_mask=None) if takes_mask else block(hidden)
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden


class ClipBackbone(Backbone):
    """CLIP: the class token is projected; tokens are taken before the last normalisation."""

    def __init__(self, model: Any) -> None:
        vision = getattr(model, "vision_model", model)
        self.projection = getattr(model, "visual_projection", None)
        super().__init__(model, vision.encoder.layers, [vision.post_layernorm, self.projection])

    def stem(self, pixel_values: Tensor) -> Tensor:
        """Class token and patches after the first normalisation, (B, 1 + P, w)."""
        return self.vision.pre_layrnorm(self.vision.embeddings(pixel_values))

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Projected class token and the other tokens."""
        pooled = self.vision.post_layernorm(hidden[:, 0])
        return ImageFeatures(pooled if self.projection is None else self.projection(pooled), hidden[:, 1:])


class SiglipBackbone(Backbone):
    """SigLIP: no class token; a pooling head attends to all tokens, which are taken before the last normalisation."""

    def __init__(self, model: Any) -> None:
        vision = getattr(model, "vision_model", model)
        super().__init__(model, vision.encoder.layers, [vision.post_layernorm, vision.head])

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Attention-pooled vector and all tokens."""
        return ImageFeatures(self.vision.head(self.vision.post_layernorm(hidden)), hidden)


class VitBackbone(Backbone):
    """ViT, DeiT and DINOv2: class token, then extra tokens (registers, distillation), then patches."""

    def __init__(self, model: Any) -> None:
        self.pooler = getattr(model, "pooler", None)
        layers = getattr(model, "layers", None)
        super().__init__(model, model.encoder.layer if layers is None else layers, [model.layernorm, self.pooler])
        config = model.config
        self.n_extra = 1 + int(getattr(config, "num_register_tokens", 0) or 0) + int(config.model_type == "deit")

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Pooler output, or the normalised class token where there is no trained pooler."""
        hidden = self.vision.layernorm(hidden)
        pooled = hidden[:, 0] if self.pooler is None else self.pooler(hidden)
        return ImageFeatures(pooled, hidden[:, self.n_extra :])


class ConvolutionalBackbone(Backbone):
    """Convolutional networks made of stages or blocks: a feature map and its mean."""

    keeps_shape = takes_any_tokens = False

    def __init__(self, model: Any) -> None:
        is_mobilenet = hasattr(model, "conv_stem")
        self.first = model.conv_stem if is_mobilenet else getattr(model, "embedder", None) or model.embeddings
        self.last_convolution = getattr(model, "conv_1x1", None)
        self.layernorm = getattr(model, "layernorm", None)
        blocks = model.layer if is_mobilenet else model.encoder.stages
        super().__init__(model, blocks, [self.last_convolution, self.layernorm])

    def stem(self, pixel_values: Tensor) -> Tensor:
        """First convolution, (B, C, H, W)."""
        return self.first(pixel_values)

    def head(self, hidden: Tensor) -> ImageFeatures:
        """Mean over the map (normalised where the network does so) and the map, row by row."""
        if self.last_convolution is not None:
            hidden = self.last_convolution(hidden)
        pooled = hidden.mean(dim=(-2, -1))  # (B, C)
        if self.layernorm is not None:
            pooled = self.layernorm(pooled)
        return ImageFeatures(pooled, hidden.flatten(2).transpose(1, 2))  # (B, H*W, C)


_CLIP_TYPES = {"clip", "clip_vision_model", "altclip", "altclip_vision_model", "chinese_clip"}
_CLIP_TYPES |= {"chinese_clip_vision_model", "clipseg", "metaclip_2", "metaclip_2_vision_model"}
_SIGLIP_TYPES = {"siglip", "siglip_vision_model"}
_VIT_TYPES = {"vit", "deit", "dinov2", "dinov2_with_registers", "vit_msn"}
_STAGE_TYPES = {"resnet", "regnet", "convnext", "convnextv2", "mobilenet_v1", "mobilenet_v2"}
_TEXT_PARTS = ("text_model", "text_projection", "logit_scale", "logit_bias")


def make_backbone(model: Any, missing: set[str]) -> Backbone:
    """Choose the family of a model and take it apart.

    Raises:
        ParameterError: the model reads no pictures, or weights that the features need are `missing` and thus random.
    """
    from geocbm.encoders.generic import GenericBackbone

    for text_part in _TEXT_PARTS:
        if hasattr(model, text_part):
            delattr(model, text_part)
    vision = getattr(model, "vision_model", model)
    kind = str(model.config.model_type)
    # A pooler that was never trained is left out; the class token or the mean of the patches stands for the picture.
    untrained_pooler = getattr(vision, "pooler", None) is not None and any("pooler." in name for name in missing)
    if untrained_pooler and kind not in _CLIP_TYPES | _SIGLIP_TYPES:
        vision.pooler = None
    backbone: Backbone
    if kind in _CLIP_TYPES and hasattr(vision, "pre_layrnorm") and hasattr(vision, "post_layernorm"):
        backbone = ClipBackbone(model)
    elif kind in _SIGLIP_TYPES and hasattr(vision, "head"):
        backbone = SiglipBackbone(model)
    elif kind in _VIT_TYPES and hasattr(model, "layernorm"):
        backbone = VitBackbone(model)
    elif kind in _STAGE_TYPES:
        backbone = ConvolutionalBackbone(model)
    elif getattr(model, "main_input_name", "") == "pixel_values" or hasattr(model, "get_image_features"):
        backbone = GenericBackbone(model)
    else:
        raise ParameterError(f"a model of type '{kind}' reads no pictures; name an image encoder")
    used = {name for name, _ in model.named_parameters()}
    # Running statistics of the checkpoint are weights too: their first values, 0 and 1, would be as wrong.
    used |= {name for name, _ in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    lacking = sorted(missing & used)
    if lacking:
        raise ParameterError(
            f"the checkpoint of type '{kind}' lacks {len(lacking)} weights that the features need, such as "
            f"'{lacking[0]}'; they would be random"
        )
    return backbone

"""Tiny untrained models of the families that people name, as their makers would save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from tiny_models import VIT, WORDS

SIZE = (64, 64)
VIT_64 = {**VIT, "image_size": 64, "hidden_size": 24, "num_attention_heads": 3}
TEXT = {**VIT, "vocab_size": len(WORDS), "max_position_embeddings": 8, "pad_token_id": 0}
TEXT |= {"bos_token_id": 2, "eos_token_id": 3, "projection_dim": 12}
TOWERS = {"vision_config": VIT_64, "text_config": TEXT, "projection_dim": 12}
STAGES = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
HEADS = {"depths": [1, 2, 1], "num_heads": [1, 2, 4], "embed_dim": 8}
FOUR = {"num_attention_heads": [1, 2, 3, 4]}


class Family(NamedTuple):
    """A family, and what its encoder must say.

    Attributes:
        make: builds the model.
        stride: pixels of a cell.
        blocks: how many blocks can be trained.
        size: height and width of the picture.
        is_exact: whether a bright patch lights up at its very cell. In networks of strided convolutions the field of a
            cell is centred at its upper left corner or covers the picture: there the light is near, or follows.
    """

    make: Callable[[], torch.nn.Module]
    stride: int
    blocks: int
    size: tuple[int, int] = SIZE
    is_exact: bool = True


def _of(name, **values):
    """Model and configuration of a family by the name that they share."""
    return lambda: getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**values))


def _timm(architecture, **values):
    return _of("TimmWrapper", architecture=architecture, model_args=values, do_pooling=True)


BROAD = (128, 192)
ZOO = {
    "clip": Family(_of("CLIP", **TOWERS), 8, 3),
    "clip_vision": Family(_of("CLIPVision", **VIT_64), 8, 3),
    "clipseg": Family(_of("CLIPSeg", **TOWERS), 8, 3),
    "chinese_clip": Family(_of("ChineseCLIP", **TOWERS), 8, 3),
    "altclip": Family(_of("AltCLIP", **TOWERS), 8, 3),
    "metaclip_2": Family(_of("MetaClip2", **TOWERS), 8, 3),
    "siglip": Family(_of("Siglip", vision_config=VIT_64, text_config=TEXT | {"projection_size": 24}), 8, 3),
    "blip": Family(_of("Blip", **TOWERS), 8, 3),
    "owlvit": Family(_of("OwlViT", **TOWERS), 8, 3),
    "aimv2": Family(_of("Aimv2", **TOWERS), 8, 3),
    "flava": Family(
        _of("Flava", image_config=VIT_64, text_config=TEXT, multimodal_config=VIT_64, projection_dim=12), 8, 3
    ),
    "vit": Family(_of("ViT", **VIT_64), 8, 3),
    "vit_broad": Family(_of("ViT", **{**VIT_64, "image_size": (48, 80)}), 8, 3, (48, 80)),
    "vit_msn": Family(_of("ViTMSN", **VIT_64), 8, 3),
    "vit_mae": Family(_of("ViTMAE", **VIT_64), 8, 3),
    "deit": Family(_of("DeiT", **VIT_64), 8, 3),
    "dinov2": Family(_of("Dinov2", **VIT_64), 8, 3, (48, 80)),
    "dinov2_registers": Family(_of("Dinov2WithRegisters", **VIT_64, num_register_tokens=3), 8, 3, (48, 80)),
    "dinov3_vit": Family(_of("DINOv3ViT", **VIT_64, num_register_tokens=4), 8, 3, (48, 80)),
    "dinov3_convnext": Family(_of("DINOv3ConvNext", **STAGES), 32, 5, BROAD),
    "dinov3_convnext_small": Family(_of("DINOv3ConvNext", **STAGES), 32, 5),
    "ijepa": Family(_of("IJepa", **VIT_64), 8, 3),
    "beit": Family(_of("Beit", **VIT_64, use_relative_position_bias=True), 8, 3),
    "beit_shared": Family(_of("Beit", **VIT_64, use_shared_relative_position_bias=True, use_mean_pooling=False), 8, 3),
    "data2vec_vision": Family(_of("Data2VecVision", **VIT_64, use_relative_position_bias=True), 8, 3),
    "dpt": Family(_of("DPT", **VIT_64), 8, 3),
    "yolos": Family(_of("Yolos", **{**VIT_64, "image_size": [64, 64]}, num_detection_tokens=5), 8, 3),
    "convnext": Family(_of("ConvNext", **STAGES), 32, 4, BROAD),
    "convnextv2": Family(_of("ConvNextV2", **STAGES), 32, 4, BROAD),
    "resnet": Family(_of("ResNet", **STAGES, embedding_size=8), 32, 4, BROAD, False),
    "regnet": Family(_of("RegNet", **STAGES, embedding_size=8, groups_width=8), 32, 4, BROAD, False),
    "bit": Family(_of("Bit", **STAGES, embedding_size=32, num_groups=4), 32, 5, BROAD, False),
    "efficientnet": Family(
        _of("EfficientNet", width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320), 32, 8, BROAD, False
    ),
    "mobilenet_v1": Family(_of("MobileNetV1", depth_multiplier=0.25), 32, 26, BROAD, False),
    "mobilenet_v2": Family(_of("MobileNetV2", depth_multiplier=0.25), 32, 16, BROAD, False),
    "mobilevit": Family(
        _of("MobileViT", hidden_sizes=[12, 12, 12], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16]), 32, 5, BROAD, False
    ),
    "mobilevitv2": Family(_of("MobileViTV2", width_multiplier=0.25), 32, 12, BROAD, False),
    "swin": Family(_of("Swin", image_size=64, **HEADS, window_size=4), 16, 4, BROAD),
    "swinv2": Family(_of("Swinv2", image_size=64, **HEADS, window_size=4), 16, 4, BROAD),
    "hiera": Family(_of("Hiera", image_size=[64, 64], **HEADS, masked_unit_size=[4, 4], num_query_pool=2), 16, 4),
    "focalnet": Family(
        _of("FocalNet", image_size=64, embed_dim=8, depths=[1, 2, 1], focal_levels=[2] * 3), 16, 4, BROAD, False
    ),
    "cvt": Family(_of("Cvt", embed_dim=[16, 48, 96], depth=[1, 2, 3]), 16, 6, BROAD, False),
    "poolformer": Family(_of("PoolFormer", **STAGES), 32, 5, BROAD, False),
    "pvt": Family(
        _of("Pvt", image_size=128, **STAGES, **FOUR, sequence_reduction_ratios=[4, 2, 1, 1]), 32, 5, (128, 128)
    ),
    "pvt_v2": Family(_of("PvtV2", image_size=128, **STAGES, **FOUR), 32, 5, BROAD, False),
    "segformer": Family(_of("Segformer", **STAGES, **FOUR), 32, 5, BROAD, False),
    "swiftformer": Family(_of("SwiftFormer", depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32]), 32, 7, BROAD, False),
    "glpn": Family(_of("GLPN", **STAGES, **FOUR), 32, 5, BROAD, False),
    "timm_vit": Family(_timm("vit_tiny_patch16_224", img_size=64, depth=3, embed_dim=24), 16, 3),
    "timm_dinov3": Family(
        _timm("vit_small_patch16_dinov3", img_size=64, depth=2, embed_dim=24, num_heads=3), 16, 2, (64, 96)
    ),
    "timm_eva": Family(_timm("eva02_tiny_patch14_224", img_size=56, depth=3, embed_dim=24), 14, 3, (56, 56)),
    "timm_beit": Family(_timm("beit_base_patch16_224", img_size=64, depth=2, embed_dim=24, num_heads=3), 16, 2),
    "timm_swin": Family(
        _timm(
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=4,
            depths=(1, 1, 1),
            num_heads=(2, 2, 2),
            embed_dim=8,
        ),
        16,
        3,
    ),
    "timm_resnet": Family(_timm("resnet18"), 32, 8, BROAD, False),
    "timm_mobilenet_v3": Family(_timm("mobilenetv3_small_050"), 32, 12, BROAD, False),
    "timm_efficientnet": Family(_timm("tinynet_e"), 32, 10, BROAD, False),
    "timm_convnext": Family(_timm("convnext_atto", dims=(8, 16, 24, 32)), 32, 13, BROAD),
    "timm_hiera": Family(
        _timm("hiera_tiny_224", img_size=(128, 128), embed_dim=8, num_heads=1, stages=(1, 1, 2, 1)), 32, 5, (128, 128)
    ),
}


def save_zoo(folder: Path, name: str) -> Path:
    """Save one of `ZOO` with preprocessing to its size."""
    family = ZOO[name]
    torch.manual_seed(0)
    model = family.make().eval()
    randomised(model, family.size)
    model.save_pretrained(folder)
    height, width = family.size
    transformers.ViTImageProcessor(size={"height": height, "width": width}).save_pretrained(folder)
    return folder


def randomised(model, size: tuple[int, int]) -> None:
    """Give a model what training would change: signals of one strength at every depth, and scales that are not 0."""
    generator = torch.Generator().manual_seed(1)

    def normal(shape, scale):
        return scale * torch.randn(shape, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                gain = 1.4 if isinstance(module, torch.nn.Conv2d) else 0.3
                module.weight.copy_(normal(module.weight.shape, (gain / module.weight[0].numel()) ** 0.5))
        for parameter in model.parameters():
            if parameter.dim() <= 1:
                parameter.add_(normal(parameter.shape, 0.05))
            if float(parameter.abs().max()) < 1e-3:
                parameter.copy_(normal(parameter.shape, 0.02))
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for module in norms:
            module.momentum = None
            module.train()
        if norms:
            getattr(model, "get_image_features", model)(pixel_values=normal((4, 3, *size), 1.0))
        model.eval()

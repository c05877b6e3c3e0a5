"""Tiny untrained models of every supported family, saved as their makers would save them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SIZE = 32
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIZE,
    "patch_size": 8,
}
WORDS = ["[PAD]", "[UNK]", "<start>", "<end>", "a", "photo", "of", "road", "pole", "sign", "in", "red"]
FAMILIES = {
    "clip": lambda: transformers.CLIPModel(clip_config()),
    "clip_vision": lambda: transformers.CLIPVisionModelWithProjection(clip_config().vision_config),
    "siglip": lambda: transformers.SiglipModel(
        transformers.SiglipConfig(
            vision_config=dict(VIT),
            text_config={**VIT, "vocab_size": len(WORDS), "projection_size": 16, "max_position_embeddings": 8},
        )
    ),
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(**VIT)),
    "deit": lambda: transformers.DeiTModel(transformers.DeiTConfig(**VIT)),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**VIT)),
    "registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=3)
    ),
    "mobilenet": lambda: transformers.MobileNetV2Model(transformers.MobileNetV2Config(depth_multiplier=0.1)),
    "resnet": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic")
    ),
    "regnet": lambda: transformers.RegNetModel(
        transformers.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=8)
    ),
    "convnext": lambda: transformers.ConvNextModel(
        transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    ),
    "swin": lambda: transformers.SwinModel(
        transformers.SwinConfig(
            image_size=SIZE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
        )
    ),
}


def clip_config(**changes):
    text = {**VIT, "vocab_size": len(WORDS), "max_position_embeddings": 8}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    del text["image_size"], text["patch_size"]
    values = {"text_config": text, "vision_config": dict(VIT), "projection_dim": 12} | changes
    values["vision_config"].setdefault("projection_dim", values["projection_dim"])
    return transformers.CLIPConfig(**values)


def save_tokenizer(folder: Path, start: bool = True) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
        )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="<end>", model_max_length=8
    ).save_pretrained(folder)


def save_processor(folder: Path, size: int = SIZE) -> None:
    transformers.CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)


def save_model(folder: Path, family: str, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = FAMILIES[family]().eval()
    for name, buffer in model.named_buffers():  # untrained running statistics would hide mistakes
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    model.save_pretrained(folder)
    save_processor(folder)
    if family in {"clip", "siglip"}:
        save_tokenizer(folder)
    return folder


def pixels(n: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))

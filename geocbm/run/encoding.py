"""Encoding: image and text encoders of a run, its feature stores and text prototypes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from geocbm.data import image_files
from geocbm.data.concepts import META_TEMPLATES, PARENT_TEMPLATES
from geocbm.encoders import ImageEncoder, TextEncoder, load_image_encoder, load_text_encoder, prototypes
from geocbm.encoders.features import FeatureStore, encode_features, re_encode
from geocbm.encoders.processes import join_processes
from geocbm.errors import MismatchError
from geocbm.files import atomic_path, lineage, read_json, write_json
from geocbm.models import loading
from geocbm.models.stage0 import Stage0PretrainingModel
from geocbm.run.run import Run


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoders a run uses and how their features are kept."""

    image_encoder: str = "geolocal/StreetCLIP"  # a Hugging Face name, a local folder, or `atlas` for the embedded one
    text_encoder: str = ""  # the same for the text side; empty means the image model's own text tower
    unfreeze_layers: int = 2  # top vision blocks that Stage 0 trains (specification, section Stage 0)
    batch_size: int = 64  # images per forward pass of the frozen encoder
    max_cache_gb: float = 60.0  # above this size features are encoded on the fly instead of stored


def load_encoder(name: str) -> ImageEncoder:
    """Load the image encoder of a run, frozen."""
    return load_image_encoder(name)


def compute_device() -> torch.device:
    """The accelerator that training uses too, or the CPU where there is none."""
    join_processes()
    return Accelerator().device


def encode_vanilla(files: Run, config: EncoderConfig, encoder: ImageEncoder) -> FeatureStore:
    """Pooled features of every image, and the activations that enter the trainable blocks, of the untouched encoder."""
    files.stores["vanilla"] = encode_features(
        encoder.to(compute_device()),
        image_files(files.table),
        files.table["image_sha256"].tolist(),
        files.cache,
        kinds=("pooled", f"hidden:{config.unfreeze_layers}"),
        batch_size=config.batch_size,
        max_cache_gb=config.max_cache_gb,
    )
    return files.stores["vanilla"]


def encode_adapted(files: Run, vanilla: FeatureStore, config: EncoderConfig, encoder: ImageEncoder) -> FeatureStore:
    """Pooled features and patch tokens of every image, from the stored activations that enter the blocks of Stage 0."""
    files.stores["adapted"] = re_encode(
        vanilla,
        encoder.to(compute_device()),
        config.unfreeze_layers,
        cache_dir=files.cache,
        batch_size=config.batch_size,
        max_cache_gb=config.max_cache_gb,
    )
    return files.stores["adapted"]


def write_features(
    files: Run, name: str, encoders: EncoderConfig, vanilla: FeatureStore, adapted: FeatureStore
) -> None:
    """Note in a file of the run where its features lie, and by which encoders they were made."""
    content: dict[str, Any] = {"encoders": asdict(encoders), lineage.KEY: files.made_from("features.json")}
    for kind, store in (("vanilla", vanilla), ("adapted", adapted)):
        content[kind] = {"folder": store.path.name, "key": store.key}
    write_json(files.path(name), content)


def write_prototypes(files: Run, config: EncoderConfig) -> dict[str, torch.Tensor]:
    """Encode the prompts of all metas and parents once (specification, section Prototype Construction).

    Returns:
        `meta [k_m, text_dim]` and `parent [k_p, text_dim]`, also written to `prototypes.safetensors`.
    """
    text = load_text_encoder(config.text_encoder or None, config.image_encoder)
    base = {
        "meta": prototypes(text, files.concepts.metas, META_TEMPLATES).contiguous(),
        "parent": prototypes(text, files.concepts.parents, PARENT_TEMPLATES).contiguous(),
    }
    made_from = {lineage.KEY: lineage.as_text(files.made_from("prototypes.safetensors"))}
    with atomic_path(files.path("prototypes.safetensors")) as path:
        save_file(base, path, made_from)
    return base


def read_prototypes(files: Run, trained: bool = True) -> dict[str, torch.Tensor]:
    """Read the base prototypes: `meta [k_m, text_dim]`, `parent [k_p, text_dim]`.

    Where Stage 0 trained the text encoder, `trained` reads those it came to instead of the first ones (DECISIONS E4).
    """
    base = load_file(files.need("prototypes.safetensors"))
    described = files.in_use("stage0.json")
    if not trained or not described.exists():
        return base
    if not read_json(described).get("config", {}).get("train_text_encoder", False):
        return base
    return loading.read_base_prototypes(files.need("stage0.safetensors"))


def open_features(files: Run, kind: str) -> FeatureStore:
    """Open the features of a run, see `Run.features`."""
    content = read_json(files.need("features.json"))
    folder = files.cache / content[kind]["folder"]
    if content[kind]["folder"] and (folder / "manifest.json").exists():
        try:
            return FeatureStore.open(folder, digests=files.table["image_sha256"].tolist())
        except MismatchError as error:
            raise MismatchError(f"{error}; that is done by: {files.remedy('features.json')}") from error
    encoders = EncoderConfig(**content["encoders"])
    vanilla = encode_vanilla(files, encoders, load_encoder(encoders.image_encoder))
    return vanilla if kind == "vanilla" else encode_adapted(files, vanilla, encoders, load_stage0(files)[1])


def load_stage0(files: Run, location_encoder: nn.Module | None = None) -> tuple[Stage0PretrainingModel, ImageEncoder]:
    """Load Stage 0 and the encoder with its adapted blocks in place; only embedding places needs `location_encoder`."""
    files.need("stage0.safetensors")  # before the encoder is loaded, which takes a while
    encoder = load_encoder(read_json(files.need("features.json"))["encoders"]["image_encoder"])
    return loading.load_stage0(files.need("stage0.safetensors"), encoder, location_encoder), encoder


def load_words(files: Run) -> TextEncoder:
    """Load the text encoder of a run, with the weights of Stage 0 if that trained it, to encode other words."""
    encoders = EncoderConfig(**read_json(files.need("features.json"))["encoders"])
    text = load_text_encoder(encoders.text_encoder or None, encoders.image_encoder)
    loading.restore_text_encoder(files.need("stage0.safetensors"), text)
    return text

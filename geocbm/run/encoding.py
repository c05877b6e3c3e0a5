"""Encoding: image and text encoders of a run, its feature stores and text prototypes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from geocbm.data import image_files
from geocbm.data.concepts import META_TEMPLATES, PARENT_TEMPLATES
from geocbm.encoders import ImageEncoder, load_image_encoder, load_text_encoder, prototypes
from geocbm.encoders.features import FeatureStore, encode_features, re_encode
from geocbm.encoders.features.store import Batches, manifest_of
from geocbm.encoders.features.writing import open_or_write
from geocbm.encoders.loading import hash_weights
from geocbm.encoders.processes import join_processes, look_ahead
from geocbm.errors import DamagedError, MismatchError, MissingInputError
from geocbm.files import SEAL, lineage, sha256_text, write_json
from geocbm.files.stored import opened, save_tensors
from geocbm.models import loading
from geocbm.models.kept_tokens import KEPT, PatchKeeper
from geocbm.models.stage0 import Stage0PretrainingModel
from geocbm.run.run import Run


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoders a run uses and how their features are kept."""

    image_encoder: str = "geolocal/StreetCLIP"  # a Hugging Face name, a local folder, or `atlas` for the embedded one
    text_encoder: str = ""  # the same for the text side; empty means the image model's own text tower
    unfreeze_layers: int = 2  # top vision blocks that Stage 0 trains (specification, section Stage 0)
    batch_size: int = 64  # images per forward pass of the frozen encoder
    max_cache_gb: float = 60.0  # what a store may take; kinds of features beyond it are encoded at every read


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


def kept_tokens(files: Run, keeper: PatchKeeper | None, features: FeatureStore) -> FeatureStore:
    """The features with the tokens alone that a keeper chooses, `(k, w)` of each picture in the order of the grid.

    They are stored, with which patches they are of (`KEPT`, `(P,)`), in one pass over `features`, whose tokens need not
    be. Without a keeper, or where it keeps all, the features as they are.
    """
    n_patches, width = features.shape("tokens")
    if keeper is None or keeper.kept >= n_patches:
        return features
    encoders = read_encoders(files)
    chosen_by = hash_weights(keeper.state_dict().items())
    fingerprint = sha256_text(f"{features.fingerprint} {chosen_by} {keeper.kept}")

    def encode(keeper: PatchKeeper, rows: np.ndarray, wanted: Sequence[str]) -> Batches:
        device, size = keeper.offset.device, encoders.batch_size
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        for _, tokens in look_ahead(lambda part: features.read("tokens", part, torch.float16), parts, 1, 1):
            kept = keeper(tokens.to(device)).cpu()  # (B, P)
            found = {KEPT: kept.half(), "tokens": tokens[kept].unflatten(0, (len(tokens), -1))}  # (B, P), (B, k, w)
            yield {kind: found[kind].numpy() for kind in wanted}

    if fingerprint not in files.stores:
        manifest = manifest_of({KEPT: (n_patches,), "tokens": (keeper.kept, width)}, features.digests, fingerprint)
        mine = copy.deepcopy(keeper).to(compute_device())
        store = open_or_write(mine, encode, manifest, files.cache, encoders.max_cache_gb, progress=True)
        store.elsewhere["pooled"] = features
        files.stores[fingerprint] = store
    return files.stores[fingerprint]


def write_features(
    files: Run, name: str, encoders: EncoderConfig, vanilla: FeatureStore, adapted: FeatureStore
) -> None:
    """Note in a file of the run where its features lie, and by which encoders they were made."""
    content: dict[str, Any] = {SEAL: "", "encoders": asdict(encoders), lineage.KEY: files.made_from("features.json")}
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
    arrays = {name: value.numpy() for name, value in base.items()}
    save_tensors(files.path("prototypes.safetensors"), arrays, made_from)
    return base


def read_prototypes(files: Run, trained: bool = True) -> dict[str, torch.Tensor]:
    """Read the base prototypes: `meta [k_m, text_dim]`, `parent [k_p, text_dim]`.

    Where Stage 0 trained the text encoder, `trained` reads those it came to instead of the first ones (DECISIONS E4).
    """
    with files.opened("prototypes.safetensors") as (arrays, _):
        base = {name: torch.from_numpy(arrays[name]) for name in ("meta", "parent")}
    described = files.in_use("stage0.json")
    if not trained or not described.exists():
        return base
    with opened(described, partial(files.remedy, "stage0.json")) as content:
        if not content.get("config", {}).get("train_text_encoder", False):
            return base
    return loading.read_base_prototypes(files.need("stage0.safetensors"))


def read_encoders(files: Run) -> EncoderConfig:
    """The encoders by which the features of a run were made."""
    with files.opened("features.json") as content:
        return EncoderConfig(**content["encoders"])


def open_features(files: Run, kind: str) -> FeatureStore:
    """Open the features of a run, see `Run.features`."""
    encoders = read_encoders(files)
    if kind not in files.stores and (folder := store_folder(files, kind)):
        try:
            files.stores[kind] = FeatureStore.open(folder, digests=files.table["image_sha256"].tolist())
        except (DamagedError, MissingInputError):
            pass  # as one that is not there: it is made again
        except MismatchError as error:
            raise MismatchError(f"{error}; that is done by: {files.remedy('features.json')}") from error
    if kind in files.stores:
        return files.stores[kind]
    vanilla = encode_vanilla(files, encoders, load_image_encoder(encoders.image_encoder))
    return vanilla if kind == "vanilla" else encode_adapted(files, vanilla, encoders, load_stage0(files)[1])


def store_folder(files: Run, kind: str) -> Path | None:
    """Folder of a finished feature store of a run; None where there is none, as of features too large to be kept."""
    with files.opened("features.json") as content:
        name = str(content[kind]["folder"])
    return files.cache / name if name and (files.cache / name / "manifest.json").is_file() else None


def load_stage0(files: Run, location_encoder: nn.Module | None = None) -> tuple[Stage0PretrainingModel, ImageEncoder]:
    """Load Stage 0 and the encoder with its adapted blocks in place; only embedding places needs `location_encoder`."""
    files.need("stage0.safetensors")  # before the encoder is loaded, which takes a while
    encoder = load_image_encoder(read_encoders(files).image_encoder)
    return loading.load_stage0(files.need("stage0.safetensors"), encoder, location_encoder), encoder

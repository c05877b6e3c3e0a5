"""From the files of a run to its trained stages: what notebooks 03-05 and `geocbm fit` have in common.

Each function reads its inputs through `RunFiles`, trains one stage and writes its checkpoint; nothing here knows that
it may run in a notebook.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.concepts import META_TEMPLATES, PARENT_TEMPLATES
from geocbm.data import image_files
from geocbm.errors import MismatchError
from geocbm.files import atomic_path, read_json, write_json
from geocbm.processes import join_processes, on_main
from geocbm.runs import RunFiles

if TYPE_CHECKING:
    import torch
    from torch import nn

    from geocbm.encoders import ImageEncoder, TextEncoder
    from geocbm.features import FeatureStore
    from geocbm.stage0 import Stage0Config, Stage0PretrainingModel
    from geocbm.stage1 import Stage1ConceptModel, Stage1Config
    from geocbm.stage2 import NeighbourRefiner, Stage2Config, Stage2CrossAttentionGeoHead
    from geocbm.training import FitResult


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoders a run uses and how their features are kept.

    Attributes:
        image_encoder: a Hugging Face name, a local folder, or `atlas` for the embedded demonstration backbone.
        text_encoder: the same for the text side; empty means the image model's own text tower.
        unfreeze_layers: top vision blocks that Stage 0 trains (specification, section Stage 0: 2).
        batch_size: images per forward pass of the frozen encoder.
        max_cache_gb: above this size features are encoded on the fly instead of stored, GB.
    """

    image_encoder: str = "geolocal/StreetCLIP"
    text_encoder: str = ""
    unfreeze_layers: int = 2
    batch_size: int = 64
    max_cache_gb: float = 60.0


def load_encoder(name: str) -> ImageEncoder:
    """Load the image encoder of a run, frozen."""
    from geocbm.encoders import load_image_encoder

    return load_image_encoder(name)


def compute_device() -> torch.device:
    """The accelerator that training uses too, or the CPU where there is none."""
    from accelerate import Accelerator

    join_processes()
    return Accelerator().device


def encode_vanilla(files: RunFiles, config: EncoderConfig, encoder: ImageEncoder, cache: Path) -> FeatureStore:
    """Encode every image once with the untouched encoder.

    Args:
        files: the run.
        config: how to encode.
        encoder: the image encoder as it came.
        cache: folder of all feature stores.

    Returns:
        A store with the pooled features and the activations that enter the trainable blocks.
    """
    from geocbm.features import encode_features

    return encode_features(
        encoder,
        image_files(files.table),
        files.table["image_sha256"].tolist(),
        cache,
        kinds=("pooled", f"hidden:{config.unfreeze_layers}"),
        batch_size=config.batch_size,
        max_cache_gb=config.max_cache_gb,
        device=compute_device(),
    )


def encode_adapted(vanilla: FeatureStore, config: EncoderConfig, encoder: ImageEncoder, cache: Path) -> FeatureStore:
    """Encode every image with the adapted encoder, from the stored activations that enter its trained blocks.

    Args:
        vanilla: of `encode_vanilla`.
        config: how to encode.
        encoder: the image encoder with the blocks of Stage 0 in place.
        cache: folder of all feature stores.

    Returns:
        A store with the pooled features and the patch tokens.
    """
    from geocbm.features import re_encode

    return re_encode(
        vanilla,
        encoder,
        config.unfreeze_layers,
        ("pooled", "tokens"),
        cache,
        batch_size=config.batch_size,
        max_cache_gb=config.max_cache_gb,
        device=compute_device(),
    )


def write_prototypes(files: RunFiles, config: EncoderConfig) -> dict[str, torch.Tensor]:
    """Encode the prompts of all metas and parents once (specification, section Prototype Construction).

    Returns:
        `meta [k_m, text_dim]` and `parent [k_p, text_dim]`, also written to `prototypes.safetensors`.
    """
    from safetensors.torch import save_file

    from geocbm.encoders import load_text_encoder, prototypes

    text = load_text_encoder(config.text_encoder or None, config.image_encoder)
    base = {
        "meta": prototypes(text, files.concepts.metas, META_TEMPLATES).contiguous(),
        "parent": prototypes(text, files.concepts.parents, PARENT_TEMPLATES).contiguous(),
    }
    with atomic_path(files.path("prototypes.safetensors")) as path:
        save_file(base, path)
    return base


def read_prototypes(files: RunFiles, trained: bool = True) -> dict[str, torch.Tensor]:
    """Read the base prototypes: `meta [k_m, text_dim]`, `parent [k_p, text_dim]`.

    Args:
        files: the run.
        trained: where Stage 0 trained the text encoder, read the prototypes it came to instead of the first ones
            (DECISIONS E4).
    """
    from safetensors.torch import load_file

    from geocbm import stage0

    base = load_file(files.need("prototypes.safetensors"))
    if not trained or not files.path("stage0.json").exists():
        return base
    if not read_json(files.path("stage0.json")).get("config", {}).get("train_text_encoder", False):
        return base
    files.check_labels("stage0.safetensors", ("metas", "parents", "csv_sha256"))
    return stage0.read_base_prototypes(files.need("stage0.safetensors"))


def fit_stage0(
    files: RunFiles,
    config: Stage0Config,
    encoders: EncoderConfig,
    encoder: ImageEncoder,
    vanilla: FeatureStore,
    cache: Path,
) -> tuple[Stage0PretrainingModel, FitResult, FeatureStore]:
    """Train Stage 0 on the stored activations, then encode the whole table with the adapted encoder.

    Returns:
        The model, the history of its training, and the adapted features (`pooled`, `tokens`).
    """
    from geocbm import stage0
    from geocbm.encoders import load_location_encoder, load_text_encoder

    base = read_prototypes(files, trained=False)
    prompts = None
    if config.train_text_encoder:
        text = load_text_encoder(encoders.text_encoder or None, encoders.image_encoder)
        prompts = stage0.PromptPrototypes(text, files.concepts.metas, files.concepts.parents, chunk=config.text_chunk)
    meta, parent = files.meta_and_parent
    model, result = stage0.fit_stage0(
        config,
        encoder,
        load_location_encoder(),
        base["meta"],
        base["parent"],
        vanilla,
        vanilla,
        files.lat,
        files.lng,
        meta,
        parent,
        files.rows["pretrain_train"],
        files.rows["pretrain_val"],
        out=files.path("stage0.safetensors"),
        labels=files.labels,
        row_names=files.table["pano_id"].tolist(),
        prompts=prompts,
    )
    adapted = encode_adapted(vanilla, encoders, encoder, cache)
    content = {
        "encoders": asdict(encoders),
        "vanilla": {"folder": vanilla.path.name, "key": vanilla.key},
        "adapted": {"folder": adapted.path.name, "key": adapted.key},
    }
    on_main(lambda: write_json(files.path("features.json"), content))
    return model, result, adapted


def open_features(files: RunFiles, which: str, cache: Path) -> FeatureStore:
    """Open the features of a run; what is no longer stored, or was too large to be, is encoded again.

    Args:
        files: the run.
        which: `vanilla` (pooled features and activations) or `adapted` (pooled features and patch tokens).
        cache: folder of all feature stores.

    Raises:
        MismatchError: the store holds other images than the table.
    """
    from geocbm.features import FeatureStore

    content = read_json(files.need("features.json"))
    folder = cache / content[which]["folder"]
    if content[which]["folder"] and (folder / "manifest.json").exists():
        try:
            return FeatureStore.open(folder, digests=files.table["image_sha256"].tolist())
        except MismatchError as error:
            raise MismatchError(f"{error}; that is done by: {files.remedy('features.json')}") from error
    encoders = EncoderConfig(**content["encoders"])
    vanilla = encode_vanilla(files, encoders, load_encoder(encoders.image_encoder), cache)
    if which == "vanilla":
        return vanilla
    return encode_adapted(vanilla, encoders, load_stage0(files)[1], cache)


def load_stage0(
    files: RunFiles, location_encoder: nn.Module | None = None
) -> tuple[Stage0PretrainingModel, ImageEncoder]:
    """Load Stage 0 and the encoder with its adapted blocks in place.

    Args:
        files: the run.
        location_encoder: needed only to embed places.
    """
    from geocbm import stage0

    files.check_labels("stage0.safetensors", ("metas", "parents", "csv_sha256"))
    encoder = load_encoder(read_json(files.need("features.json"))["encoders"]["image_encoder"])
    return stage0.load_stage0(files.need("stage0.safetensors"), encoder, location_encoder), encoder


def load_words(files: RunFiles) -> TextEncoder:
    """Load the text encoder of a run, with the weights of Stage 0 if that trained it, to encode other words."""
    from geocbm import stage0
    from geocbm.encoders import load_text_encoder

    encoders = EncoderConfig(**read_json(files.need("features.json"))["encoders"])
    text = load_text_encoder(encoders.text_encoder or None, encoders.image_encoder)
    stage0.restore_text_encoder(files.need("stage0.safetensors"), text)
    return text


def fit_stage1(files: RunFiles, config: Stage1Config, features: FeatureStore) -> tuple[Stage1ConceptModel, FitResult]:
    """Train Stage 1 on the stored pooled features of the adapted encoder."""
    from geocbm import stage1

    base = read_prototypes(files)
    meta, parent = files.meta_and_parent
    return stage1.fit_stage1(
        config,
        features.read_all("pooled"),
        meta,
        parent,
        base["meta"],
        base["parent"],
        files.concepts.parent_index,
        files.rows["train"],
        files.rows["val"],
        out=files.path("stage1.safetensors"),
        stage0=load_stage0(files)[0] if config.init_from_stage0 else None,
        labels=files.labels,
        row_names=files.table["pano_id"].tolist(),
        tokens=features,
    )


def load_stage1(files: RunFiles) -> Stage1ConceptModel:
    """Load the concept model, refused if it was trained with other names."""
    from geocbm import stage1

    files.check_labels("stage1.safetensors", ("metas", "parents", "csv_sha256"))
    return stage1.load_stage1(files.need("stage1.safetensors"))


def fit_stage2(
    files: RunFiles,
    config: Stage2Config,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    name: str = "stage2",
) -> tuple[Stage2CrossAttentionGeoHead, FitResult]:
    """Train Stage 2 on what Stage 1 says of the concepts and on stored patch tokens.

    Args:
        files: the run.
        config: the settings, with the ablation mode.
        concepts: of `predict_concepts`.
        features: the adapted features.
        name: stem of the checkpoint; variants take a name of their own.
    """
    from geocbm import stage2
    from geocbm.processes import is_main_process

    trained = stage2.fit_stage2(
        config,
        stage2.concept_input(config, concepts),
        features,
        files.cells,
        files.cell_label,
        files.lat,
        files.lng,
        files.rows["train"],
        files.rows["val"],
        out=files.path(f"{name}.safetensors"),
        stage0=load_stage0(files)[0] if config.init_from_stage0 else None,
        labels=files.labels,
        row_names=files.table["pano_id"].tolist(),
    )
    if config.refine_cells and is_main_process():
        make_refiner(files, features).save(files.path(f"{name}_neighbours.safetensors"))
    return trained


def make_refiner(files: RunFiles, features: FeatureStore) -> NeighbourRefiner:
    """Training pictures of the run, for the refinement inside the most probable cells."""
    from geocbm.stage2 import NeighbourRefiner

    train = files.rows["train"]
    return NeighbourRefiner(features.read("pooled", train), files.lat[train], files.lng[train], files.cell_label[train])


def load_refiner(files: RunFiles, config: Stage2Config, name: str = "stage2") -> NeighbourRefiner | None:
    """Training pictures that refine the places of a checkpoint; None where its settings use none."""
    from geocbm.stage2 import NeighbourRefiner

    return NeighbourRefiner.load(files.path(f"{name}_neighbours.safetensors")) if config.refine_cells else None


def fit_variant(
    files: RunFiles,
    config: Stage2Config,
    mode: str,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    rows: np.ndarray,
) -> dict[str, np.ndarray]:
    """Train Stage 2 in another ablation mode, all else equal, and predict some rows.

    Returns:
        As `analysis.predict_places`; the checkpoint is `stage2_<mode>.safetensors`.
    """
    from geocbm.analysis import predict_places

    model, _ = fit_stage2(files, replace(config, ablation_mode=mode), concepts, features, f"stage2_{mode}")
    refiner = make_refiner(files, features) if config.refine_cells else None
    return predict_places(files, model, concepts, features, rows, refiner)


def predict_concepts(files: RunFiles, features: FeatureStore) -> dict[str, torch.Tensor]:
    """What Stage 1 says of every row, see `stage1.predict_stage1`; on the CPU."""
    from geocbm import stage1

    return stage1.predict_stage1(load_stage1(files), features.read_all("pooled"), tokens=features)


def load_stage2(files: RunFiles, name: str = "stage2") -> Stage2CrossAttentionGeoHead:
    """Load the geolocation head, refused if it was trained with other cells."""
    from geocbm import stage2

    files.check_labels(f"{name}.safetensors", ("metas", "csv_sha256", "cells_digest"))
    return stage2.load_stage2(files.need(f"{name}.safetensors"))


def config_fields(config_class: type, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of `values` that are settings of a stage, so that a notebook's parameters become its config."""
    return {field.name: values[field.name] for field in fields(config_class) if field.name in values}

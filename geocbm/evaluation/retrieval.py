"""Retrieval of places in the manner of GeoCLIP (Vivanco Cepeda et al., 2023), with Stage 0 or with its own model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geocbm import baselines, pipeline
from geocbm.baselines import Prediction
from geocbm.data import image_files
from geocbm.errors import ParameterError
from geocbm.runs import RunFiles

GEOCLIP_BACKBONE = "openai/clip-vit-large-patch14"


def _by_stage0(files: RunFiles, cache: Path, places: np.ndarray, name: str) -> Prediction:
    """The place among `(n, 2)` whose adapted embedding is most like the adapted image features."""
    from geocbm.encoders import load_location_encoder
    from geocbm.gallery import adapted_gallery, gallery_embeddings

    embeddings = gallery_embeddings(load_location_encoder(), cache, places)
    adapted = adapted_gallery(pipeline.load_stage0(files)[0].gps_adapter, embeddings)
    features = pipeline.open_features(files, "adapted", cache).read("pooled", files.rows["test"])
    return baselines.gallery(features, adapted, places[:, 0], places[:, 1], name=name)


def gallery(files: RunFiles, cache: Path) -> Prediction:
    """The place among 100,000 on Earth that Stage 0 finds most like each test image."""
    from geocbm.encoders import load_gallery

    return _by_stage0(files, cache, load_gallery(), "gallery")


def training_gallery(files: RunFiles, cache: Path) -> Prediction:
    """The training place that Stage 0 finds most like each test image, by its coordinates alone.

    The pictures of the gallery are never looked at, which makes it another method than the nearest neighbour.
    """
    train = files.rows["train"]
    places = np.unique(np.stack([files.lat[train], files.lng[train]], axis=1), axis=0)
    return _by_stage0(files, cache, places, "training_gallery")


def geoclip(files: RunFiles, cache: Path, backbone: str) -> Prediction:
    """GeoCLIP as published: its own backbone, head and gallery of 100,000 places; nothing is learned from this run.

    The backbone's features of the test images are kept in a feature store of their own. Nothing is downloaded, and
    only safetensors are read.

    Args:
        files: the run.
        cache: folder of the feature stores.
        backbone: folder of `openai/clip-vit-large-patch14`, or its name if the local model cache holds it.

    Raises:
        MissingInputError: the backbone is not on this machine.
        ParameterError: it gives features of another width than GeoCLIP's head reads.
    """
    import torch

    from geocbm.encoders import (
        find_model_folder,
        load_gallery,
        load_geoclip_head,
        load_image_encoder,
        load_location_encoder,
    )
    from geocbm.features import encode_features
    from geocbm.gallery import gallery_embeddings

    head = load_geoclip_head()
    wanted = int(next(head.parameters()).shape[1])
    encoder = load_image_encoder(find_model_folder(backbone, download=False))
    if encoder.pooled_dim != wanted:
        raise ParameterError(
            f"geoclip_backbone={backbone!r} gives {encoder.pooled_dim} numbers per image, GeoCLIP's head reads "
            f"{wanted}; give {GEOCLIP_BACKBONE} with its visual projection"
        )
    shown = files.table.iloc[files.rows["test"]]
    store = encode_features(
        encoder,
        image_files(shown),
        shown["image_sha256"].tolist(),
        cache,
        kinds=("pooled",),
        device=pipeline.compute_device(),
    )
    places = load_gallery()
    with torch.inference_mode():
        pictures = head(store.read_all("pooled"))
    embeddings = gallery_embeddings(load_location_encoder(), cache, places)
    return baselines.gallery(pictures, embeddings, places[:, 0], places[:, 1], name="geoclip")

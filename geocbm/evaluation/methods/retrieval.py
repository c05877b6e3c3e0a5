"""Retrieval of places in the manner of GeoCLIP (Vivanco Cepeda et al., 2023), with Stage 0 or with its own model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geocbm import pipeline
from geocbm.data import image_files
from geocbm.errors import ParameterError
from geocbm.evaluation import baselines
from geocbm.evaluation.baselines import Prediction
from geocbm.evaluation.methods.decodings import Validation, decoded, own_place
from geocbm.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from geocbm.models.point_estimates import Points

GEOCLIP_BACKBONE = "openai/clip-vit-large-patch14"


VOTERS = 200
"""Places of a gallery that vote for cells, at most."""


def voted(
    validation: Validation,
    test: Prediction,
    near: tuple[np.ndarray, np.ndarray],
    place: tuple[np.ndarray, np.ndarray],
    cell: np.ndarray,
    own: tuple[dict[str, Points], dict[str, Points]],
) -> Prediction:
    """A retrieval method decoded like the others: what is most similar votes for cells (`baselines.Votes`).

    Args:
        validation: the validation split.
        test: what the method says of the test images.
        near: `[v, K]` and `[n, K]` similarities, the most similar first.
        place: `[v, K]` and `[n, K]` which places these are.
        cell: cells of all places.
        own: points that do not come from the votes, of both splits.
    """
    prior = np.bincount(validation.places.training_cell, minlength=len(validation.places.centers)).astype(float)
    votes = baselines.choose_votes(near[0], cell[place[0]], validation.cell, prior / prior.sum())
    logits = [votes.logits(likeness, cell[found]) for likeness, found in zip(near, place, strict=True)]
    return decoded(validation, test, (logits[0], logits[1]), own)


def _decoded_gallery(
    files: Run,
    validation: Validation,
    pictures: tuple[Tensor, Tensor],
    embeddings: Tensor,
    places: np.ndarray,
    name: str,
) -> Prediction:
    """The most similar place, or what the most similar places say together, whichever is best on validation.

    Args:
        files: the run.
        validation: its validation split.
        pictures: `(v, d)` and `(n, d)` of the validation and the test images.
        embeddings: `(g, d)` of the places.
        places: `(g, 2)` latitudes and longitudes, degrees.
        name: name of the method.
    """
    import torch

    from geocbm.encoders.gallery import nearest_places

    units = torch.nn.functional.normalize(embeddings.float(), dim=-1)
    found = [nearest_places(split.float(), units, min(VOTERS, len(places))) for split in pictures]
    place, near = ((found[0][part].numpy(), found[1][part].numpy()) for part in (0, 1))
    own = [{"own": (places[rows[:, 0], 0], places[rows[:, 0], 1])} for rows in place]
    cell = files.cells.assign(places[:, 0], places[:, 1], np.full(len(places), ""))
    return voted(validation, Prediction(name, *own[1]["own"]), near, place, cell, (own[0], own[1]))


def _by_stage0(files: Run, cache: Path, validation: Validation, places: np.ndarray, name: str) -> Prediction:
    """The places among `(g, 2)` whose adapted embeddings are most like the adapted image features."""
    from geocbm.encoders import load_location_encoder
    from geocbm.encoders.gallery import adapted_gallery, gallery_embeddings

    embeddings = gallery_embeddings(load_location_encoder(), cache, places)
    adapted = adapted_gallery(pipeline.load_stage0(files)[0].gps_adapter, embeddings)
    store = files.features("adapted")
    pictures = store.read("pooled", files.rows["val"]), store.read("pooled", files.rows["test"])
    return _decoded_gallery(files, validation, pictures, adapted, places, name)


def gallery(files: Run, cache: Path, validation: Validation) -> Prediction:
    """The place among 100,000 on Earth that Stage 0 finds most like each test image."""
    from geocbm.encoders import load_gallery

    return _by_stage0(files, cache, validation, load_gallery(), "gallery")


def training_gallery(files: Run, cache: Path, validation: Validation) -> Prediction:
    """The training place that Stage 0 finds most like each test image, by its coordinates alone.

    The pictures of the gallery are never looked at, which makes it another method than the nearest neighbour.
    """
    train = files.rows["train"]
    places = np.unique(np.stack([files.lat[train], files.lng[train]], axis=1), axis=0)
    return _by_stage0(files, cache, validation, places, "training_gallery")


def geoclip(files: Run, cache: Path, backbone: str) -> Prediction:
    """GeoCLIP as published: its own backbone, head and gallery of 100,000 places; nothing is learned from this run.

    The backbone's features of the validation and test images are kept in a feature store of their own. Nothing is
    downloaded, and only safetensors are read.

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
    from geocbm.encoders.features import encode_features
    from geocbm.encoders.gallery import gallery_embeddings

    head = load_geoclip_head()
    wanted = int(next(head.parameters()).shape[1])
    encoder = load_image_encoder(find_model_folder(backbone, download=False))
    if encoder.pooled_dim != wanted:
        raise ParameterError(
            f"geoclip_backbone={backbone!r} gives {encoder.pooled_dim} numbers per image, GeoCLIP's head reads "
            f"{wanted}; give {GEOCLIP_BACKBONE} with its visual projection"
        )
    shown = files.table.iloc[np.concatenate([files.rows["val"], files.rows["test"]])]
    store = encode_features(
        encoder.to(pipeline.compute_device()),
        image_files(shown),
        shown["image_sha256"].tolist(),
        cache,
        kinds=("pooled",),
    )
    places = load_gallery()
    with torch.inference_mode():
        pictures = head(store.read_all("pooled"))
    embeddings = gallery_embeddings(load_location_encoder(), cache, places)
    split = len(files.rows["val"])
    val, test = (
        baselines.gallery(some, embeddings, places[:, 0], places[:, 1], name="geoclip") if len(some) else None
        for some in (pictures[:split], pictures[split:])
    )
    assert test is not None
    return test if val is None else own_place(Validation.of(files), val, test)

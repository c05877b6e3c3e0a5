"""Retrieval of places in the manner of GeoCLIP (Vivanco Cepeda et al., 2023), with Stage 0 or with its own model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from geocbm import encoders
from geocbm.data import image_files
from geocbm.encoders.features import encode_features
from geocbm.encoders.location import adapted_gallery, gallery_embeddings, nearest_places
from geocbm.errors import ParameterError
from geocbm.evaluation.baselines.base import Labels, Prediction
from geocbm.evaluation.baselines.neighbours import VOTERS, cell_prior, choose_votes
from geocbm.geocells import Geocells
from geocbm.models.loading import Stage0Layers
from geocbm.run import Run
from geocbm.run.encoding import compute_device

GEOCLIP_BACKBONE = "openai/clip-vit-large-patch14"


class Gallery:
    """The most similar place `[g, 2]` (degrees) of a gallery, or the `votes` of the most similar ones for cells.

    `embeddings` `(g, d)` of the places may have any length; they lie in the space of the features.
    """

    def __init__(self, name: str, embeddings: Tensor, places: np.ndarray, votes: bool = True) -> None:
        self.name, self.embeddings, self.places, self.votes = name, embeddings, places, votes

    def fit(self, features: np.ndarray, labels: Labels, cells: Geocells) -> Gallery:
        """Find the cells of the places; the features are not looked at."""
        self.units_ = normalize(self.embeddings.float(), dim=-1)
        self.k_ = min(VOTERS[-1], len(self.places)) if self.votes else 1
        if self.votes:
            self.cell_ = cells.assign(self.places[:, 0], self.places[:, 1], np.full(len(self.places), ""))
            self.prior_ = cell_prior(labels, cells)
        return self

    def tune(self, features: np.ndarray, labels: Labels) -> None:
        """Choose how many places vote for cells with which kernel."""
        if self.votes:
            found, similarity = self._nearest(features)
            self.votes_ = choose_votes(similarity, self.cell_[found], labels.cell, self.prior_)

    def predict(self, features: np.ndarray) -> Prediction:
        """The most similar place, and votes for cells."""
        found, similarity = self._nearest(features)
        lat, lng = self.places[found[:, 0]].T
        logits = self.votes_.logits(similarity, self.cell_[found]) if self.votes else None
        return Prediction(self.name, lat, lng, cell_logits=logits)

    def _nearest(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, similarity = nearest_places(torch.from_numpy(np.asarray(features)).float(), self.units_, self.k_)
        return found.numpy(), similarity.numpy()


def stage0_galleries(run: Run, cache: Path) -> list[Gallery]:
    """Galleries whose places Stage 0 embeds: 100,000 places on Earth, and the training places by coordinates alone.

    The pictures of the second gallery are never looked at, which makes it another method than the nearest neighbour.
    """
    train = run.pictures["train"]
    own = np.unique(np.stack([run.lat[train], run.lng[train]], axis=1), axis=0)
    adapter, encoder = Stage0Layers(run.need("stage0.safetensors")).gps_adapter, encoders.load_location_encoder()
    return [
        Gallery(name, adapted_gallery(adapter, gallery_embeddings(encoder, cache, places)), places)
        for name, places in (("gallery", encoders.load_gallery()), ("training_gallery", own))
    ]


def geoclip(run: Run, cache: Path, backbone: str) -> tuple[Gallery, np.ndarray]:
    """GeoCLIP as published: its own backbone, head and gallery of 100,000 places; nothing is learned from this run.

    With the method comes what it reads, `[n, d]` of all rows (zeros for the training split, which it does not look at).
    These features are kept in a store of their own under `cache`. `backbone` is a folder of
    `openai/clip-vit-large-patch14`, or its name if the local model cache holds it; nothing is downloaded.

    Raises:
        MissingInputError: the backbone is not on this machine.
        ParameterError: it gives features of another width than GeoCLIP's head reads.
    """
    head = encoders.load_geoclip_head()
    wanted = int(next(head.parameters()).shape[1])
    encoder = encoders.load_image_encoder(encoders.find_model_folder(backbone, download=False))
    if encoder.pooled_dim != wanted:
        raise ParameterError(
            f"geoclip_backbone={backbone!r} gives {encoder.pooled_dim} numbers per image, GeoCLIP's head reads "
            f"{wanted}; give {GEOCLIP_BACKBONE} with its visual projection"
        )
    asked = np.concatenate([run.pictures["val"], run.pictures["test"]])
    shown = run.table.iloc[asked]
    keys = shown["image_sha256"].tolist()
    store = encode_features(encoder.to(compute_device()), image_files(shown), keys, cache, kinds=("pooled",))
    places = encoders.load_gallery()
    with torch.inference_mode():
        pictures = head(store.read_all("pooled")).numpy()
    features = np.zeros((len(run.table), pictures.shape[1]), dtype=np.float32)
    features[asked] = pictures
    embeddings = gallery_embeddings(encoders.load_location_encoder(), cache, places)
    return Gallery("geoclip", embeddings, places, votes=False), features

"""What the encoder and its stored features are, and what the test split holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.geodesy import haversine_km
from geocbm.runs import RunFiles

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder
    from geocbm.features import FeatureStore


def describe_encoder(encoder: ImageEncoder) -> pd.DataFrame:
    """Geometry of an image encoder: columns `figure, value`."""
    rows = [
        ("name", encoder.name),
        ("picture", f"{encoder.image_size} x {encoder.image_size} pixels"),
        ("pooled features", f"{encoder.pooled_dim:,}"),
        ("patch tokens", f"{encoder.grid[0]} x {encoder.grid[1]} of {encoder.token_dim:,}"),
        ("blocks", f"{encoder.n_blocks:,}"),
        ("parameters", f"{sum(parameter.numel() for parameter in encoder.parameters()):,}"),
    ]
    return pd.DataFrame(rows, columns=["figure", "value"])


def describe_store(store: FeatureStore) -> pd.DataFrame:
    """What a feature store holds: columns `kind, shape of one image, megabytes`."""
    rows = []
    for kind in store.kinds:
        shape = store.shape(kind)
        size = store.n * int(np.prod(shape)) * 2 / 1e6
        rows.append(
            {"kind": kind, "shape of one image": " x ".join(f"{side:,}" for side in shape), "megabytes": round(size, 1)}
        )
    return pd.DataFrame(rows)


def nearest_neighbour_km(pooled: np.ndarray, files: RunFiles, rows: np.ndarray) -> np.ndarray:
    """Error in km of taking the place of the most similar training image (cosine), for the given rows."""
    unit = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    train = files.rows["train"]
    nearest = train[np.argmax(unit[rows] @ unit[train].T, axis=1)]
    return haversine_km(files.lat[rows], files.lng[rows], files.lat[nearest], files.lng[nearest])


def test_remark(files: RunFiles) -> str:
    """What the figures of a page are measured on, in a sentence."""
    if n := len(files.rows["test"]):
        return f"Figures of the test split are of {n:,} images."
    return (
        "The test split is empty, so that there are no figures of it. Concepts with one image are in the training "
        "split, those with two in training and validation. For a test split give some at least three images, or leave "
        "out a whole country (notebook 01)."
    )

"""What tells one model from another, so that answers of two models never end up in one file."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from geocbm import __version__
from geocbm.files import sha256_file

if TYPE_CHECKING:
    from geocbm.predict.model import GeoCBM

_FILES = (
    *("stage?.safetensors", "stage?.json", "stage2_neighbours.safetensors", "stage2_decoding.json"),
    *("geocells.npz", "cell_scores.npz", "novelty.safetensors", "concepts.json", "splits.json", "table.parquet"),
    "*_adopted.*",
)
"""Files of a run that an answer depends on: weights, cells, stored scores, what is unlike, names."""


def model_digest(model: GeoCBM) -> str:
    """16 hexadecimal digits that change whenever an answer of the model might.

    They are made from the weights of the encoder, the files of the run and the version of this package.
    """
    digest = hashlib.sha256(f"{__version__} {model.encoder.fingerprint()}".encode())
    folder = model.files.folder
    for file in sorted({file for pattern in _FILES for file in folder.glob(pattern)}):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()[:16]

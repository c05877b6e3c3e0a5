"""A gallery of places, embedded once: retrieval in the manner of GeoCLIP without its cost (Vivanco et al., 2023).

The location encoder is frozen and the places are fixed, so their embeddings are computed once, kept on disk and read
through a memory map. What a run trains is one linear layer, which is applied once per evaluation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.encoders.location import in_chunks, location_embeddings
from geocbm.errors import MismatchError, ParameterError
from geocbm.files import atomic_path

_FORMAT = "gallery 1, float32"


def gallery_embeddings(location_encoder: nn.Module, cache_folder: str | Path, places: np.ndarray) -> Tensor:
    """Embeddings of the places of a gallery, from disk if this encoder has embedded these places before.

    Args:
        location_encoder: frozen module `(B, 2)` of `[lat, lng]` degrees -> `(B, g)`.
        cache_folder: folder of the feature stores; the file in it is named after weights and coordinates.
        places: `(n, 2)` latitudes and longitudes, degrees.

    Returns:
        `(n, g)` float32 on the CPU, backed by the file: what is not read takes no memory.

    Raises:
        ParameterError: `places` is no table of coordinates.
    """
    places = np.ascontiguousarray(places, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise ParameterError(f"places has shape {places.shape}; give a row of latitude and longitude per place, (n, 2)")
    file = Path(cache_folder) / f"gallery-{_digest(location_encoder, places)[:32]}.npy"
    stored = _opened(file, len(places))
    if stored is None:
        embedded = location_embeddings(location_encoder, places[:, 0], places[:, 1])  # (n, g)
        with atomic_path(file) as temporary:
            np.save(temporary, embedded.numpy(), allow_pickle=False)
        stored = _opened(file, len(places))
        assert stored is not None
    return torch.from_numpy(stored)


def _opened(file: Path, n: int) -> np.ndarray | None:
    """The memory map of a stored gallery; None if there is none, or only one that a full disk cut short."""
    try:
        # Copy on write: torch warns of maps that cannot be written; nobody writes to this one.
        stored = np.load(file, mmap_mode="c", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return stored if stored.ndim == 2 and len(stored) == n and stored.dtype == np.float32 else None


def _digest(location_encoder: nn.Module, places: np.ndarray) -> str:
    """Hash of everything the embeddings depend on."""
    digest = hashlib.sha256(f"{_FORMAT} {type(location_encoder).__qualname__}".encode())
    for name, value in sorted(location_encoder.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(places.data)
    return digest.hexdigest()


def adapted_gallery(gps_adapter: nn.Module, embeddings: Tensor) -> Tensor:
    """Bring the places into the space of a run's image features, at length 1, ready for `nearest_places`.

    Args:
        gps_adapter: of Stage 0, `(B, g)` -> `(B, d)`.
        embeddings: `(n, g)` of `gallery_embeddings`.

    Returns:
        `(n, d)` float32 on the CPU.
    """
    return functional.normalize(in_chunks(gps_adapter, embeddings), dim=-1)


def nearest_places(image_features: Tensor, embeddings: Tensor, k: int = 1, chunk: int = 256) -> tuple[Tensor, Tensor]:
    """The places most like each image.

    Args:
        image_features: `(n, d)` of any length.
        embeddings: `(g, d)` places at length 1.
        k: places per image, at most g.
        chunk: images compared at once; bounds the memory (256 x 100,000 similarities are 100 MB).

    Returns:
        `(n, k)` rows of the gallery, best first, and their `(n, k)` cosine similarities.

    Raises:
        MismatchError: features and places differ in width.
        ParameterError: `k` is below 1 or above the number of places.
    """
    if image_features.shape[-1] != embeddings.shape[-1]:
        raise MismatchError(
            f"image_features have width {image_features.shape[-1]}, the places {embeddings.shape[-1]}; adapt the "
            "gallery with the GPS adapter of the run that made the features"
        )
    if not 1 <= k <= len(embeddings):
        raise ParameterError(f"k={k} is impossible with {len(embeddings)} places; give 1 to {len(embeddings)}")
    rows, likeness = [], []
    with torch.no_grad():
        for start in range(0, max(len(image_features), 1), chunk):
            part = image_features[start : start + chunk].to(embeddings)
            similarity = functional.normalize(part, dim=-1) @ embeddings.T  # (chunk, g)
            best = similarity.max(dim=-1, keepdim=True) if k == 1 else similarity.topk(k, dim=-1)
            rows.append(best.indices)
            likeness.append(best.values)
    return torch.cat(rows), torch.cat(likeness)

"""Places: GeoCLIP's location encoder, head and gallery, embedded once and searched (Vivanco et al., 2023).

The location encoder is frozen and the places of a gallery are fixed, so their embeddings are computed once, kept on
disk and read through a memory map. What a run trains is one linear layer, which is applied once per evaluation.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from geocbm.encoders.loading import hash_weights
from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import atomic_path

PLACES_AT_ONCE = 8192
IMAGES_AT_ONCE = 256
"""Images that are compared with a gallery at once: with 100,000 places that takes 100 MB."""


def _bundled(*parts: str) -> Path:
    """Path of a file inside the installed geoclip package, found without importing it."""
    spec = find_spec("geoclip")
    if spec is None or not spec.submodule_search_locations:
        raise MissingInputError("the package geoclip is not installed; install it with `pip install geoclip`")
    path = Path(next(iter(spec.submodule_search_locations))).joinpath("model", *parts)
    if not path.is_file():
        raise MissingInputError(f"the installed geoclip lacks its file {'/'.join(parts)}; install it again")
    return path


def _bundled_weights(file: str) -> dict[str, Tensor]:
    """Weights that come with geoclip; nothing in the file can be executed, for the reader is restricted to tensors."""
    return torch.load(_bundled("weights", file), map_location="cpu", weights_only=True)


def load_location_encoder() -> nn.Module:
    """GeoCLIP's location encoder, frozen: `(B, 2)` float32 `[lat, lng]` degrees -> `(B, 512)`."""
    with warnings.catch_warnings():
        # geoclip imports torchvision, which compiles with torch.jit and is told that this is deprecated.
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        from geoclip import LocationEncoder

    encoder = LocationEncoder(from_pretrained=False)
    encoder.load_state_dict(_bundled_weights("location_encoder_weights.pth"))
    return encoder.requires_grad_(False).eval()


def load_geoclip_head() -> nn.Module:
    """The two layers that bring pictures from CLIP into GeoCLIP's space of places, frozen.

    From projected features `(B, 768)` of `openai/clip-vit-large-patch14` to embeddings `(B, 512)`, which are compared
    by cosine with those of `load_location_encoder`.
    """
    weights = _bundled_weights("image_encoder_mlp_weights.pth")
    inner, outer = weights["0.weight"], weights["2.weight"]  # (h, d), (512, h)
    head = nn.Sequential(
        nn.Linear(inner.shape[1], inner.shape[0]), nn.ReLU(), nn.Linear(outer.shape[1], outer.shape[0])
    )
    head.load_state_dict(weights)
    return head.requires_grad_(False).eval()


def load_gallery() -> np.ndarray:
    """Coordinates of 100,000 real places, (100000, 2) float64: latitude and longitude in degrees."""
    import pandas as pd

    table = pd.read_csv(_bundled("gps_gallery", "coordinates_100K.csv"))
    return table[["LAT", "LON"]].to_numpy(dtype=np.float64)


def location_embeddings(location_encoder: nn.Module, lat: np.ndarray, lng: np.ndarray) -> Tensor:
    """Embed coordinates `(n,)` degrees each with a frozen location encoder: `(n, g)` float32 on the CPU."""
    coordinates = torch.from_numpy(np.stack([lat, lng], axis=1).astype(np.float32))  # (n, 2)
    return _in_chunks(location_encoder, coordinates)


def _in_chunks(module: nn.Module, rows: Tensor) -> Tensor:
    """What a module gives for rows `(n, ...)`, some at a time on its device: `(n, ...)` float32 on the CPU."""
    device = next((parameter.device for parameter in module.parameters()), rows.device)
    with torch.no_grad():
        return torch.cat([module(part.to(device)).float().cpu() for part in rows.split(PLACES_AT_ONCE)])


def gallery_embeddings(location_encoder: nn.Module, cache_folder: str | Path, places: np.ndarray) -> Tensor:
    """Embeddings `(n, g)` of the places of a gallery, from disk if this encoder has embedded these places before.

    The location encoder is frozen, `(B, 2)` of `[lat, lng]` in degrees -> `(B, g)`; the file in the `cache_folder` is
    named after its weights and the `places` `(n, 2)`, degrees. The result is float32 on the CPU and backed by the file:
    what is not read takes no memory.
    """
    places = np.ascontiguousarray(places, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise ParameterError(f"places has shape {places.shape}; give a row of latitude and longitude per place, (n, 2)")
    held = {**location_encoder.state_dict(), "places": torch.from_numpy(places)}
    key = hash_weights(held.items(), type(location_encoder).__qualname__)
    file = Path(cache_folder) / f"gallery-{key[:32]}.npy"
    stored = _opened(file, len(places))
    if stored is None:
        embedded = location_embeddings(location_encoder, *places.T)  # (n, g)
        with atomic_path(file, embedded.nbytes) as temporary:
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


def adapted_gallery(gps_adapter: nn.Module, embeddings: Tensor) -> Tensor:
    """Bring places `(n, g)` by Stage 0's adapter into the space of a run's image features: `(n, d)` at length 1."""
    return normalize(_in_chunks(gps_adapter, embeddings), dim=-1)


def nearest_places(image_features: Tensor, embeddings: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Rows `(n, k)` of the places `(g, d)` most like each image `(n, d)`, the best first, and their cosines `(n, k)`.

    The embeddings have length 1, the image features any.

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
        for part in image_features.split(IMAGES_AT_ONCE):
            similarity = normalize(part.to(embeddings), dim=-1) @ embeddings.T  # (chunk, g)
            best = similarity.max(dim=-1, keepdim=True) if k == 1 else similarity.topk(k, dim=-1)
            rows.append(best.indices)
            likeness.append(best.values)
    return torch.cat(rows), torch.cat(likeness)

"""Turning what callers pass into checked NumPy arrays."""

from typing import Any

import numpy as np


def array(values: Any, name: str, dtype: Any = np.float64) -> np.ndarray:
    """Bring numbers, arrays, series or tensors to a NumPy array; with None for the type each keeps its own."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy does not know bfloat16, whose numbers are all exact in single precision.
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers: {error}") from error


def column(values: Any, name: str, dtype: Any = np.float64, empty: bool = False) -> np.ndarray:
    """Bring a sequence to a one-dimensional array; one without rows is refused unless `empty` allows it."""
    checked = array(values, name, dtype)
    if checked.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, its shape is {checked.shape}; pass one value per photograph")
    if not len(checked) and not empty:
        raise ValueError(f"{name} is empty: there is nothing to measure; check that the split has rows")
    return checked


def coordinates(lat: Any, lng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes as columns of one length, perhaps without rows."""
    latitude, longitude = column(lat, "lat", empty=True), column(lng, "lng", empty=True)
    same_length(lat=latitude, lng=longitude)
    return latitude, longitude


def same_length(**columns: np.ndarray) -> None:
    """Refuse columns of different lengths."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"one value per photograph is needed in each argument, but {listed}")

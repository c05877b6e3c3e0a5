"""Batch: a few rows of a run with everything that is known of them, by the names that models and losses use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from geocbm.encoders.features import FeatureStore

LABELS = {
    "row": "position in the table",
    "lat": "latitude, degrees",
    "lng": "longitude, degrees",
    "concept_idx": "labelled concept (meta)",
    "parent_idx": "its parent concept",
    "cell_label": "geocell that holds the place",
}
"""Targets and what each means; every loader reads those that the run has."""

FEATURES = {
    "pooled": "pooled features of the image encoder",
    "patch_tokens": "patch features of the adapted encoder",
    "hidden": "activations that enter the blocks which Stage 0 trains",
}
TEXTS = {
    "pano_id": "name of the panorama",
    "meta_name": "labelled concept",
    "parent_concept": "its parent concept",
    "country": "country of the label",
}
MEANING = {"image": "picture as it lies on disk, upright RGB", **TEXTS, **LABELS, **FEATURES}
STAGE_FEATURES = {"stage0": ("hidden",), "stage1": ("pooled", "patch_tokens"), "stage2": ("patch_tokens",)}
"""Features that the model of a stage may read."""


class Batch(dict[str, Any]):
    """Rows of a run by name: tensors `(B, ...)`, lists of texts and pictures."""

    def shapes(self) -> pd.DataFrame:
        """Shape, dtype and meaning of each entry, by its name."""
        import pandas as pd

        lines = [
            (
                name,
                tuple(value.shape) if hasattr(value, "shape") else (len(value),),
                str(value.dtype).removeprefix("torch.") if hasattr(value, "dtype") else f"list of {_kind(value)}",
                MEANING.get(name, ""),
            )
            for name, value in self.items()
        ]
        return pd.DataFrame(lines, columns=["name", "shape", "dtype", "meaning"]).set_index("name")

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device."""
        return Batch({name: value.to(device) if hasattr(value, "to") else value for name, value in self.items()})

    def __repr__(self) -> str:
        return f"Batch\n{self.shapes().to_string()}"

    def _repr_html_(self) -> str:
        return str(self.shapes().to_html())


def feature_reader(store: FeatureStore, name: str, half: bool = False) -> Callable[[np.ndarray], torch.Tensor]:
    """A function from row positions to one of `FEATURES`, `(B, ...)` in single precision, or half as it is stored."""
    import torch

    kind = {"patch_tokens": "tokens"}.get(name, name)
    if name == "hidden":  # kept as "hidden:N" for the last N blocks
        kind = next(each for each in store.kinds if each.startswith("hidden:"))
    return lambda rows: store.read(kind, rows, torch.float16 if half else torch.float32)


def _kind(values: list[Any]) -> str:
    return type(values[0]).__name__ if values else "nothing"

"""The data set: validated tables, splits without leaks, and samples as the specification describes them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the fingerprint of a stage follows imports as they are written
    from geocbm.data import quality, samples, simulated, splits, table
    from geocbm.data.images import photographs

_NAMES = {
    "images.photographs": ("open_picture",),
    "quality": ("quality_report",),
    "samples": ("PanoramaCBMDataset", "collate_panoramas"),
    "simulated": ("picture_noun",),
    "splits": ("load_splits", "make_splits", "nearest_train_km", "require_test_split", "save_splits", "split_rows"),
    "table": ("SCHEMA", "first_of_picture", "image_files", "load_table", "read_table", "save_table"),
}


def __getattr__(name: str) -> Any:
    """What the package shows, imported when it is asked for: reading a photograph needs no pandas."""
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"geocbm.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

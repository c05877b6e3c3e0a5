"""Samples: rows of a table as the specification describes them, one by one or joined to batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.data.images.photographs import open_picture
from geocbm.data.table import SCHEMA, image_files
from geocbm.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd

    from geocbm.data.concepts import ConceptVocabulary


class PanoramaCBMDataset:
    """Samples one by one, for torch's `DataLoader` or a plain loop (specification, section Sample Format).

    A sample is a dict with the columns of the schema (`image_path` is the file, `lat` and `lng` are degrees), the
    indices `concept_idx` and `parent_idx`, with `[n]` cells also `cell_label`, and with a transform also `image`: what
    it makes of the picture, upright 8-bit RGB. Without a transform no image is opened.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        concepts: ConceptVocabulary,
        cell_label: Sequence[int] | np.ndarray | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if cell_label is not None and len(cell_label) != len(table):
            raise ParameterError(
                f"cell_label has {len(cell_label)} entries for {len(table)} rows; give one for each row."
            )
        self.transform = transform
        columns: dict[str, list[Any]] = {name: table[name].tolist() for name in SCHEMA}
        columns["image_path"] = image_files(table)
        columns["concept_idx"], columns["parent_idx"] = (index.tolist() for index in concepts.encode(table))
        if cell_label is not None:
            columns["cell_label"] = np.asarray(cell_label, dtype=np.int64).tolist()
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns["pano_id"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index is {index}; the data set has {len(self)} samples.")
        sample = {name: values[index] for name, values in self._columns.items()}
        if self.transform is not None:
            sample["image"] = self.transform(open_picture(sample["image_path"]))
        return sample


def collate_panoramas(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join samples to a batch: floats (to float32), integers and tensors are stacked, all else stays a list.

    torch's own collation refuses paths.
    """
    import torch

    batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]}
    for name, values in batch.items():
        if isinstance(values[0], torch.Tensor):
            batch[name] = torch.stack(values)
        elif isinstance(values[0], int | float):
            batch[name] = torch.tensor(values)
    return batch

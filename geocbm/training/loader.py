"""Loaders: from table rows to batches of tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocbm.training.batches import Batch, batches_of


class RowLoader:
    """Batches of table rows, in the order of the rows; `fit` draws an order of its own for each epoch.

    Args:
        rows: `(n,)` row positions in the table.
        read: `rows -> dict of tensors` with the rows first, on the CPU; called from a second thread in training.
        batch_size: rows at a time when it is iterated by hand; `fit` takes that of its settings.
        names: `pano_id` of each row of the table, for messages.
        digest: of all that `read` gives (see `digest_of`); without it a training that goes on after an
            interruption compares a few rows only.
    """

    def __init__(
        self,
        rows: np.ndarray,
        read: Callable[[np.ndarray], Batch],
        batch_size: int = 64,
        names: Sequence[str] | None = None,
        digest: str = "",
    ) -> None:
        self.rows, self.read = np.asarray(rows, dtype=np.int64), read
        self.batch_size, self.names, self.digest = batch_size, names, digest

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for part in batches_of(self.rows, self.batch_size) if len(self.rows) else ():
            yield self.read(part)

    def with_columns(self, **columns: Tensor) -> RowLoader:
        """The same loader with further entries in each batch.

        Args:
            columns: `(n, ...)` of all rows of the table, such as the concept embeddings that Stage 2 reads.
        """
        read = self.read
        digest = self.digest and digest_of(self.digest, *(each for pair in sorted(columns.items()) for each in pair))

        def both(rows: np.ndarray) -> Batch:
            return read(rows) | {name: values[rows] for name, values in columns.items()}

        return RowLoader(self.rows, both, self.batch_size, self.names, digest)

    def of(self, rows: np.ndarray) -> RowLoader:
        """The same loader over other rows."""
        return RowLoader(rows, self.read, self.batch_size, self.names, self.digest)


def digest_of(*values: Any) -> str:
    """Digest of what a training reads (hexadecimal SHA-256).

    Args:
        values: tensors and arrays of any type, objects with a `key` that stands for their content (feature stores),
            and whatever JSON holds.
    """
    total = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            held = value.detach().cpu().contiguous()
            total.update(f"{held.dtype}{tuple(held.shape)}".encode())
            total.update(held.reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, np.ndarray):
            total.update(f"{value.dtype}{value.shape}".encode())
            total.update(np.ascontiguousarray(value).data if value.dtype != object else repr(value.tolist()).encode())
        else:
            content = value.key if hasattr(value, "key") else value
            total.update(json.dumps(content, sort_keys=True, default=lambda each: type(each).__name__).encode())
        total.update(b"\0")
    return total.hexdigest()

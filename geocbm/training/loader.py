"""Loaders: from table rows to batches of tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from geocbm.encoders.processes import look_ahead

Batch = dict[str, Tensor]


class RowSource(Protocol):
    """Anything that reads features of table rows, such as a feature store."""

    def read(self, kind: str, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return features `(len(rows), ...)` of one kind."""


def row_reader(
    source: Tensor | np.ndarray | RowSource, kind: str, half: bool = False
) -> Callable[[np.ndarray], Tensor]:
    """Make a function `rows -> (len(rows), ...)` on the CPU of a tensor or array `(n, ...)`, or of a kind of a store.

    Everything is read as float32; with `half`, numbers of half precision stay as they are.
    """
    if isinstance(source, np.ndarray):
        source = torch.from_numpy(source)
    if isinstance(source, Tensor):
        held = source.detach().cpu()
        dtype = held.dtype if half and held.dtype == torch.float16 else torch.float32
        return lambda rows: held[torch.as_tensor(rows, dtype=torch.long)].to(dtype)
    store = source
    if half:
        return lambda rows: store.read(kind, np.asarray(rows), torch.float16)
    return lambda rows: store.read(kind, np.asarray(rows))


class RowLoader:
    """Batches of table rows, in the order of the rows; `fit` draws an order of its own for each epoch.

    `read(rows)` gives tensors with the rows first, on the CPU; in training a second thread calls it. `batch_size` is
    for iteration by hand; `names` of all rows are for messages. Without the `digest` of all that `read` gives (see
    `digest_of`) a training that goes on after an interruption compares a few rows only.
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
        """The same loader with further entries in each batch: columns `(n, ...)` of all rows of the table."""
        read = self.read
        digest = self.digest and digest_of(self.digest, *(each for pair in sorted(columns.items()) for each in pair))

        def both(rows: np.ndarray) -> Batch:
            return read(rows) | {name: values[rows] for name, values in columns.items()}

        return RowLoader(self.rows, both, self.batch_size, self.names, digest)

    def of(self, rows: np.ndarray) -> RowLoader:
        """The same loader over other rows."""
        return RowLoader(rows, self.read, self.batch_size, self.names, self.digest)


def digest_of(*values: Any) -> str:
    """Digest of what a training reads (hexadecimal SHA-256): tensors and arrays of any type, and whatever JSON holds.

    Objects with a `key` (feature stores) count by that.
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch and choose its reproducible algorithms inside the block, and put both back afterwards."""
    # Otherwise the gradient of an index is summed in another order each time, on several threads or a GPU.
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def batches_of(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut rows into nearly equal batches, so that no contrastive loss meets a batch of one or two rows."""
    return np.array_split(rows, max(1, -(-len(rows) // batch_size)))


def parts_of(rows: np.ndarray, n_parts: int) -> list[np.ndarray]:
    """Cut rows into nearly equal parts, none of them empty: as many as asked for, or as there are rows."""
    return np.array_split(rows, max(1, min(n_parts, len(rows))))


def prefetched(batch: Callable[[np.ndarray], Batch], parts: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Batch]]:
    """Read the next batch from disk while the current one is computed."""
    # A second team of threads would contend with the first for the cores: small steps then take nearly twice as long.
    return look_ahead(batch, parts, 1, 1, partial(torch.set_num_threads, 1))

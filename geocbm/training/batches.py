"""From table rows to batches of tensors, and what is computed of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]


class Step(NamedTuple):
    """What a stage computes for one batch.

    Attributes:
        losses: scalars by name; `loss` is the one that is minimised.
        predictions: per-row tensors that `measure` reads after a pass over the validation rows.
    """

    losses: dict[str, Tensor]
    predictions: dict[str, Tensor]


class RowSource(Protocol):
    """Anything that reads features of table rows, such as a feature store."""

    def read(self, kind: str, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return features `(len(rows), ...)` of one kind."""


def row_reader(
    source: Tensor | np.ndarray | RowSource, kind: str, half: bool = False
) -> Callable[[np.ndarray], Tensor]:
    """Make a function from row positions to features, for a tensor in memory or a feature store.

    Args:
        source: `(n, ...)` tensor or array, or an object with `read(kind, rows, dtype)`.
        kind: kind of feature to ask a store for.
        half: leave numbers of half precision, such as those of a store, as they are; else everything is float32.

    Returns:
        A function `rows -> (len(rows), ...)` on the CPU.
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block and put its random state back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def batches_of(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut rows into nearly equal batches, so that no contrastive loss meets a batch of one or two rows."""
    return np.array_split(rows, max(1, -(-len(rows) // batch_size)))


def parts_of(rows: np.ndarray, n_parts: int) -> list[np.ndarray]:
    """Cut rows into nearly equal parts, none of them empty: as many as asked for, or as there are rows."""
    return np.array_split(rows, max(1, min(n_parts, len(rows))))


def prefetched(batch: Callable[[np.ndarray], Batch], parts: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Batch]]:
    """Read the next batch from disk while the current one is computed."""
    # A second team of threads would contend with the first for the cores: small steps then take nearly twice as long.
    with ThreadPoolExecutor(max_workers=1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = None
        for rows in parts:
            upcoming = (rows, pool.submit(batch, rows))
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = upcoming
        if waiting is not None:
            yield waiting[0], waiting[1].result()

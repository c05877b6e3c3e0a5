"""Training in several processes: each computes its share of a batch, all compute the loss of the whole batch.

The rows that a loss needs are gathered, with gradients, so that a contrastive loss meets the negatives of the global
batch. `DistributedDataParallel` then averages the gradients of parameters over the processes. Every process computes
the same loss from the same rows, hence the same gradient `G` of them; the sum over W processes of the gradient of one's
own rows, `W * G[own]`, divided by W in that average, is the gradient of a single process with the whole batch. A
parameter that enters the loss without rows, such as a prototype, has its full gradient in every process, and the
average keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from geocbm.encoders.processes import all_gather_object, broadcast_object, gather_parts, process_count, process_index
from geocbm.training.loader import Batch

Output = TypeVar("Output")

BORROWED = "borrowed"
"""Entry of a batch whose rows stand in for none: its process had no row of the global batch."""


class _Gather(torch.autograd.Function):
    """Rows of all processes, one below the other."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        parts = gather_parts(value)
        context.start = sum(len(part) for part in parts[: process_index()])
        context.length = len(value)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        own = gradients[0][context.start : context.start + context.length]
        # The others' gradients of these rows equal this one's, for their losses do: no need to ask them.
        return own * process_count()


def gather_rows(value: Tensor) -> Tensor:
    """Bring together the rows `(b, ...)` of all processes, in their order, as `(B, ...)`; `b` may differ and be 0.

    Differentiable where `value` is, provided that every process computes the same scalar from the result.
    """
    if process_count() == 1:
        return value
    if value.requires_grad and torch.is_grad_enabled():
        return _Gather.apply(value)
    return torch.cat(gather_parts(value))


class GatheredBatch(Mapping[str, Any]):
    """A share of a batch whose entries become those of the global batch where a loss asks, in each process alike.

    No dictionary, of which `items()`, `|` and others would give the share itself. Only entries that are read are
    exchanged: the tokens of all pictures stay where they are unless a loss wants them.
    """

    def __init__(self, batch: Mapping[str, Any], gather: Callable[[Any], Any]) -> None:
        # Not every process has a mark of borrowed rows.
        self._share = {name: value for name, value in batch.items() if name != BORROWED}
        self._gather, self._whole = gather, dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._whole:
            self._whole[name] = self._gather(self._share[name])
        return self._whole[name]

    def __contains__(self, name: object) -> bool:
        return name in self._share

    def __iter__(self) -> Iterator[str]:
        return iter(self._share)

    def __len__(self) -> int:
        return len(self._share)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self}

    def copy(self) -> dict[str, Any]:
        """The global batch as a dictionary."""
        return dict(self)


def gather_batch(output: Output, batch: Batch) -> tuple[Output, Mapping[str, Any]]:
    """Make of a share's output and batch those of the global batch, for its loss.

    In evaluation nothing is gathered: there a process has whole batches of its own (see `loop.evaluate`), which is
    told by the absence of gradients. An output is a tensor, a dictionary, or a named tuple, whose attribute `per_row`
    names the fields that have a row for each row of the batch and enter the loss; without it all fields of that length
    do. Other fields stay as they are, for they are equal in all processes (prototypes) or not used by the loss.
    """
    if process_count() == 1 or not torch.is_grad_enabled():
        return output, batch
    n_rows = len(next(iter(batch.values())))
    n_own = 0 if BORROWED in batch else None  # a borrowed row gives its gradient of zero and no more

    def whole(value: Any) -> Any:
        return gather_rows(value[:n_own]) if isinstance(value, Tensor) else value

    def has_rows(value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == n_rows

    given: Any = output
    if isinstance(given, Tensor):
        return whole(given), GatheredBatch(batch, whole)
    fields = dict(given) if isinstance(given, dict) else given._asdict()
    named = getattr(given, "per_row", None) or [name for name, value in fields.items() if has_rows(value)]
    replaced = {name: whole(fields[name]) for name in named}
    gathered: Any = fields | replaced if isinstance(given, dict) else given._replace(**replaced)
    return gathered, GatheredBatch(batch, whole)


def own_share(rows: np.ndarray) -> np.ndarray:
    """Rows of a global batch that this process computes; where there is none, one is borrowed for the average."""
    share = rows[process_index() :: process_count()]
    return share if len(share) else rows[:1]


def shared(batch: Callable[[np.ndarray], Batch]) -> Callable[[np.ndarray], Batch]:
    """Make of `read(rows)` a function that reads this process' share of them, with `BORROWED` if it has none."""
    index, count = process_index(), process_count()
    if count == 1:
        return batch

    def read(rows: np.ndarray) -> Batch:
        content = batch(own_share(rows))
        return content | ({BORROWED: torch.ones(1, dtype=torch.bool)} if len(rows) <= index else {})

    return read


def own_batches(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Whole batches that this process evaluates; at least one, so that every process has something to gather."""
    mine = list(parts[process_index() :: process_count()])
    return mine or [parts[0]]


def merge_batches(values: Sequence[Tensor], parts: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Bring together on `device` what the processes computed of their `own_batches`: a CPU tensor per batch."""
    if process_count() == 1:
        return list(values)
    own = values if process_index() < len(parts) else [values[0][:0]]
    lengths = all_gather_object([len(value) for value in own])
    merged: list[Tensor] = [values[0]] * len(parts)
    for index, part in enumerate(gather_parts(torch.cat(list(own)).to(device))):
        # In the order of the process' own batches, which are every W-th of all.
        for place, value in zip(
            range(index, len(parts), process_count()), part.cpu().split(lengths[index]), strict=False
        ):
            merged[place] = value
    return merged


def agreed(values: dict[str, float]) -> dict[str, float]:
    """The main process' values, so that all processes decide alike in the last digit too."""
    return values if process_count() == 1 else broadcast_object(values)

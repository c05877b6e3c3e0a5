"""Processes of a distributed launch (`accelerate launch`): who this one is, and how they agree; and threads in each.

Everything here works in a single process too, where nobody has to be asked. Processes that belong together call the
functions of this module in the same order.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from geocbm.errors import UserError
from geocbm.files import owners

Item = TypeVar("Item")
Result = TypeVar("Result")

# One process may wait for another that still encodes its share of a large table; when one dies, the launcher ends all.
_PATIENCE = timedelta(hours=24)
_OF_BACKEND = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset)|by peer")
_SECONDS_TO_BE_SEEN = 5.0


def join_processes() -> None:
    """Join the other processes of a launch, once; does nothing in a single process."""
    if not _launched() or _joined():
        return
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # Left alone, Accelerate overlooks the processes of a machine without accelerator.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    PartialState(cpu=on_cpu, timeout=_PATIENCE)


def process_count() -> int:
    """Number of processes that work together; joins them at the first call if a launcher started several."""
    join_processes()
    return distributed.get_world_size() if _joined() else 1


def process_index() -> int:
    """Number of this process, from 0."""
    join_processes()
    return distributed.get_rank() if _joined() else 0


def is_main_process() -> bool:
    """Whether this process prints and writes for all."""
    return process_index() == 0


def launched_index() -> int | None:
    """Number that a launcher gave this process among several, known without joining them; None without launcher."""
    return int(os.environ.get("RANK", "0")) if _launched() else None


def leave_processes(status: int = 0) -> None:
    """Part from the other processes and end this one; does nothing in a single one.

    The process ends here, after what is registered for the exit: threads of the backend may still run, and the C++
    clean-up of an ordinary exit now and then aborts a process whose work is done.
    """
    if not _joined():
        return
    distributed.destroy_process_group()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def gather_parts(value: Tensor) -> list[Tensor]:
    """The rows `(n, ...)` of each process, in their order; n may differ and be 0, and no gradient flows back."""
    value = value.detach().contiguous()
    if process_count() == 1:
        return [value]
    from accelerate.utils import gather

    counts = gather(torch.tensor([len(value)], device=value.device)).tolist()
    # A collective needs equal shapes: shorter parts are filled up and cut again.
    padded = value.new_zeros((max(counts), *value.shape[1:]))
    padded[: len(value)] = value
    parts = gather(padded).view(len(counts), *padded.shape)
    return [part[:count] for part, count in zip(parts, counts, strict=True)]


def all_gather_object(message: Any) -> list[Any]:
    """Messages that can be pickled, of all processes in their order; `UserError` when one of them has ended."""
    if process_count() == 1:
        return [message]
    from accelerate.utils import gather_object

    with said_when_left():
        return gather_object([message])


@contextmanager
def said_when_left() -> Iterator[None]:
    """Say in one sentence (`UserError`) that another process has ended, which the backend tells in its own way."""
    try:
        yield
    except RuntimeError as problem:
        of_backend = isinstance(problem, distributed.DistError) or _OF_BACKEND.search(str(problem))
        if not (_joined() and of_backend):
            raise
        raise UserError(
            "another of the processes has ended before its work was done; start the same command again, what was "
            f"finished is kept ({str(problem).splitlines()[0][:80]})"
        ) from None


def check_shared(folder: Path) -> None:
    """Refuse (`UserError`) a folder that is not the same for all processes, as on nodes with disks of their own."""
    if process_count() == 1:
        return
    with tempfile.NamedTemporaryFile(prefix=f".{owners.owner()}", dir=folder if is_main_process() else None) as mark:
        name = broadcast_object(Path(mark.name).name)
        end = time.monotonic() + _SECONDS_TO_BE_SEEN  # a network disk may show it late
        while not (is_seen := (folder / name).exists()) and time.monotonic() < end:
            time.sleep(0.1)
        if blind := [str(index) for index, seen in enumerate(all_gather_object(is_seen)) if not seen]:
            raise UserError(
                f"process {', '.join(blind)} does not see {folder} of the main process; all nodes must share the "
                "folder that GEOCBM_DATA names"
            )


def broadcast_object(message: Any) -> Any:
    """The main process' message, in every process."""
    return all_gather_object(message if is_main_process() else None)[0]


def raise_together(act: Callable[[], Result]) -> Result:
    """Do something that waits for nobody in every process; if it fails in one, it fails in all as `UserError`."""
    problem: Exception | None = None
    try:
        result = act()
    except Exception as error:  # raised below, once the other processes have been told
        problem = error
    told = "" if problem is None else str(problem) or type(problem).__name__
    failures = [text for text in all_gather_object(told) if text]
    if problem is not None:
        raise problem
    if failures:
        raise UserError(failures[0])
    return result


def on_main(act: Callable[[], Result]) -> Result | None:
    """Do something in the main process while the others wait and get None; its failure is theirs."""
    return raise_together(lambda: act() if is_main_process() else None)


def look_ahead(
    act: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    initializer: Callable[[], None] | None = None,
) -> Iterator[tuple[Item, Result]]:
    """Items with what `act` gives of them, in order, while threads already work on up to `ahead` of the next ones."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=initializer)
    try:
        for item in items:
            waiting.append((item, pool.submit(act, item)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()

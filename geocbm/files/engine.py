"""Engines: pieces of work on worker processes, of this machine or of a cluster, through joblib.

Whoever works in a notebook chooses the engine with `joblib.parallel_config(backend="loky", n_jobs=4)` or
`backend="dask"`; on the command line its text is `loky:4` or `dask://HOST:8786`. Without either there are no workers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from geocbm.errors import ParameterError, UserError, first_line

Result = TypeVar("Result")

ENGINE = "GEOCBM_ENGINE"
"""Environment variable with the text of the engine that a notebook of the chain uses."""
_TEXT = re.compile(r"loky:(?P<jobs>[1-9]\d{0,3})|dask://(?P<address>[\w.\-\[\]:]+:\d{1,5})")
_RETRIES = 3  # of a range whose worker ended or whose disk failed
_SECONDS_IDLE, _SECONDS_TO_ANSWER, _SECONDS_FOR_WORKERS = 30, 10, 60


def checked(text: str) -> str:
    """The text of an engine as it is.

    Raises:
        ParameterError: it names none, or one whose package is not installed.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ParameterError(f"--engine={text} is no engine; give loky:N for N processes here, or dask://HOST:PORT")
    if found["address"]:
        from importlib.util import find_spec

        if find_spec("distributed") is None:
            raise ParameterError(f"--engine={text} needs dask; install it with: pip install 'geocbm[cluster]'")
    return text


@contextmanager
def engine(text: str) -> Iterator[None]:
    """Use an engine inside the block; an empty text leaves what `joblib.parallel_config` has chosen."""
    import joblib

    found = _TEXT.fullmatch(checked(text)) if text else None
    if found is None:
        yield
    elif jobs := int(found["jobs"] or 0):
        # Otherwise each worker would take the threads that the environment gives to a single process.
        threads = max(1, (os.cpu_count() or 1) // jobs)
        with joblib.parallel_config(
            "loky", n_jobs=jobs, inner_max_num_threads=threads, idle_worker_timeout=_SECONDS_IDLE
        ):
            yield
    else:
        from dask.distributed import Client

        try:
            client = Client(f"tcp://{found['address']}", timeout=_SECONDS_TO_ANSWER, set_as_default=False)
        except OSError as problem:
            raise UserError(
                f"no scheduler of dask answers at {found['address']} ({first_line(problem)}); start one with `dask "
                "scheduler`, and workers with `dask worker`"
            ) from None
        with (
            client,
            joblib.parallel_config(
                "dask", client=client, retries=_RETRIES, wait_for_workers_timeout=_SECONDS_FOR_WORKERS
            ),
        ):
            yield


def engine_of_environment() -> AbstractContextManager[None]:
    """Use the engine that the environment names, if it names one."""
    return engine(os.environ.get(ENGINE, ""))


def is_chosen() -> bool:
    """Whether the environment names an engine, or `joblib.parallel_config` one with several workers or a cluster."""
    from joblib.parallel import get_active_backend

    backend, jobs = get_active_backend()
    return bool(os.environ.get(ENGINE)) or (backend.default_n_jobs if jobs is None else jobs) != 1


def workers() -> int:
    """Number of pieces that the engine works on at once."""
    import joblib

    return max(1, joblib.effective_n_jobs(None))


def in_any_order(act: Callable[..., Result], pieces: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """What a function that workers can import gives for each tuple of arguments, as soon as it is there.

    Raises:
        UserError: what the function raised, or that workers have ended; the other pieces are given up.
    """
    import joblib

    try:
        yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(act)(*piece) for piece in pieces)
    except Exception as problem:  # raised again, but for what says that workers ended: dask's kinds have no common base
        if not (isinstance(problem, BrokenProcessPool) or type(problem).__module__.startswith("distributed")):
            raise
        raise UserError(
            f"the workers of the engine have ended before their work was done ({first_line(problem)}); start the same "
            "command again, what was finished is kept"
        ) from problem

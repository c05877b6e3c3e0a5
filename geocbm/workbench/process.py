"""A child process with a limit: no grandchild outlives it, and its memory is watched."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from geocbm.files.owners import die_with_parent

_WATCHES = "GEOCBM_ENDS_WITH_PARENT"  # set for the children of `run_limited`
_TICK = 0.2  # seconds between looks at the memory
_TAIL_BYTES = 8000  # of what a child wrote


@dataclass(frozen=True)
class Outcome:
    """How a child process ended."""

    code: int  # exit status; negative when a signal ended it
    seconds: float  # of wall-clock time
    peak_bytes: int  # largest resident memory of the process and its descendants together, as sampled
    timed_out: bool  # it ran into a limit and was killed
    tail: str  # end of what it wrote to the terminal

    @property
    def cause(self) -> str:
        """What ended it, in words."""
        return f"signal {-self.code}" if self.code < 0 else f"exit status {self.code}"


def run_limited(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    limit: float,
    watch: Callable[[float], bool] = lambda _seconds: True,
) -> Outcome:
    """Run a command; when it ends, for whatever reason, all of its descendants are gone.

    A kernel starts a session of its own, so killing the process group alone would leave it running; descendants are
    therefore looked up while the child lives. An interrupt of this process kills them as well; when it is killed
    itself, the pipe on the child's standard input closes (see `end_with_parent`).

    It is ended after `limit` seconds, or when `watch`, asked at each look with the seconds so far, says False.
    """
    began = time.monotonic()
    peak, timed_out = 0, False
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment, _WATCHES: "1"},
            stdin=subprocess.PIPE,  # never written to
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        family: dict[int, psutil.Process] = {}
        try:
            while True:
                peak = max(peak, _look_around(child.pid, family))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_TICK)
                    break
                seconds = time.monotonic() - began
                if not watch(seconds) or seconds > limit:
                    timed_out = True
                    break
        finally:
            _kill(child, family)
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        tail = log.read().decode("utf-8", errors="replace")
    return Outcome(child.returncode, time.monotonic() - began, peak, timed_out, tail)


def end_with_parent() -> None:
    """End this process and all that it started as soon as the process that runs it with `run_limited` is gone.

    Whatever ends that one, the operating system then closes the pipe that is our standard input. Processes that were
    started in another way go on.
    """
    if not os.environ.pop(_WATCHES, ""):
        return
    die_with_parent()  # where this is all that is needed, it also ends a process that is stopped

    def wait() -> None:
        while os.read(0, 1):
            pass
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _look_around(pid: int, family: dict[int, psutil.Process]) -> int:
    """Remember all descendants of a process and return their resident memory in bytes, its own included."""
    total = 0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            family.setdefault(process.pid, process)
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def _kill(child: "subprocess.Popen[bytes]", family: dict[int, psutil.Process]) -> None:
    """Kill what is left of a child and its descendants; a psutil process never mistakes a reused id for its own."""
    _look_around(child.pid, family)
    for process in family.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def child_environment(roots: Mapping[str, str], shares: int = 1) -> dict[str, str]:
    """Environment of a notebook's process, of which `shares` run side by side.

    Threads are capped to the processors this process may use, or a share of them, unless the user set a number: each of
    several libraries would otherwise start that many, and they would wait for one another.
    """
    environment = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // shares))
    if "OMP_NUM_THREADS" not in environment:  # which the libraries of the others follow too, unless they have their own
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
            environment.setdefault(name, threads)
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA sums are repeatable only with this
    environment.setdefault("WANDB_SILENT", "true")
    environment.setdefault("JUPYTER_PLATFORM_DIRS", "1")
    environment.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    environment["PYTHONHASHSEED"] = "0"
    environment["PYTHONIOENCODING"] = "utf-8:backslashreplace"  # what they print is read as UTF-8, whatever our console
    environment.pop("JPY_SESSION_NAME", None)  # of the page that started the chain; these kernels have none
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
    environment.update(roots)
    return environment

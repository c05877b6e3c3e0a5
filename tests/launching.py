"""Programs in two processes, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(
    script: Path, *arguments: str, data: Path, nodes: Sequence[Mapping[str, str]] = ()
) -> list[subprocess.CompletedProcess[str]]:
    """Run a program in two processes, as a launcher would start it; or one on each of two nodes."""
    common = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    common |= {"PYTHONPATH": str(ROOT), "GEOCBM_ROOT": str(ROOT), "GEOCBM_DATA": str(data), "ACCELERATE_USE_CPU": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env=common
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
            | ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", **nodes[rank]} if nodes else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outcomes = []
    for process in running:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            for other in running:
                other.kill()
            out, err = process.communicate()
        outcomes.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return outcomes


def end_after_a_batch() -> None:
    """Let the process in which this is called end in its second batch, as if it had been killed."""
    from geocbm.encoders.features import encoding

    whole = encoding.encode_files

    def ending(*arguments):
        for number, batch in enumerate(whole(*arguments)):
            if number == 1:
                os._exit(9)
            yield batch

    encoding.encode_files = ending

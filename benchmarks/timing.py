"""How the benchmarks measure: interleaved rounds, ratios with quartiles, and the rates of the machine as floors.

Two implementations are timed in turn, round by round, so that whatever else the machine does meets both alike. The
ratio is taken within each round and its median and quartiles are printed, never the best of anything.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor


class Spread(NamedTuple):
    """Quartiles of repeated measurements.

    Attributes:
        low: lower quartile.
        median: median.
        high: upper quartile.
    """

    low: float
    median: float
    high: float

    def text(self, unit: str = "", scale: float = 1.0, digits: int = 1) -> str:
        """`median unit (low to high)` with all three multiplied by `scale`."""
        low, median, high = (f"{value * scale:,.{digits}f}" for value in self)
        return f"{median}{' ' if unit and unit != 'x' else ''}{unit} ({low} to {high})"


def spread(values: Sequence[float]) -> Spread:
    """Quartiles of `values`."""
    return Spread(*(float(value) for value in np.quantile(np.asarray(values, dtype=float), (0.25, 0.5, 0.75))))


def timed(action: Callable[[], object]) -> float:
    """Seconds that one call of `action` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def interleaved(
    actions: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, repeats: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    """Time several actions in turn.

    Args:
        actions: what to time, by name; every round calls each of them in this order.
        rounds: measured rounds.
        warmup: rounds before them that are not measured.
        repeats: calls per round of actions too short for the clock; their mean counts as one measurement.

    Returns:
        Seconds of each action, one number per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(warmup + rounds):
        for name, action in actions.items():
            calls = (repeats or {}).get(name, 1)
            taken = timed(lambda action=action, calls=calls: [action() for _ in range(calls)])  # type: ignore[misc]
            if turn >= warmup:
                seconds[name].append(taken / calls)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], rival: str, ours: str) -> Spread:
    """How many times longer `rival` took than `ours`, within each round."""
    return spread([theirs / mine for theirs, mine in zip(seconds[rival], seconds[ours], strict=True)])


def agree(ours: Tensor, rival: Tensor, tolerance: float, what: str) -> float:
    """Check that two results are the same numbers before their times are compared.

    Args:
        ours: of any shape.
        rival: of the same shape.
        tolerance: largest difference, as a share of the largest number of `rival`.
        what: name of the result, for the message.

    Returns:
        The largest difference as such a share.

    Raises:
        AssertionError: when they differ by more, in shape, or by a NaN.
    """
    if ours.shape != rival.shape:
        raise AssertionError(f"{what}: ours has shape {tuple(ours.shape)}, the rival {tuple(rival.shape)}")
    ours, rival = ours.detach().double(), rival.detach().double()
    differ = float((ours - rival).abs().max() / rival.abs().max().clamp_min(1e-30)) if rival.numel() else 0.0
    if not differ <= tolerance:
        raise AssertionError(f"{what}: ours and the rival differ by {differ:.2g} of the largest number")
    return differ


def matmul_rate(m: int = 2048, n: int = 2048, k: int = 2048, seconds: float = 0.5) -> float:
    """Operations per second of one float32 matrix product `(m, k) @ (k, n)`, the median over repeated calls.

    Args:
        m: rows of the result.
        n: columns of the result.
        k: length of the sums.
        seconds: how long to measure.
    """
    left, right = torch.randn(m, k), torch.randn(k, n)
    out = torch.empty(m, n)
    for _ in range(3):
        torch.mm(left, right, out=out)
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 5:
        taken.append(timed(lambda: torch.mm(left, right, out=out)))
    return 2.0 * m * n * k / float(np.median(taken))


def memory_rate(megabytes: int = 256, seconds: float = 0.5) -> float:
    """Bytes per second at which a sum reads numbers that are in no cache, the median over repeated calls.

    Args:
        megabytes: size of what is read; must be larger than the caches.
        seconds: how long to measure.
    """
    numbers = torch.ones(megabytes * 250_000)
    taken: list[float] = []
    numbers.sum()
    while sum(taken) < seconds or len(taken) < 5:
        taken.append(timed(lambda: numbers.sum()))
    return 4.0 * len(numbers) / float(np.median(taken))


def floor(moved: float, operations: float) -> str:
    """The time that reading `moved` bytes and doing `operations` takes at the measured rates, in words."""
    of_memory, of_products = memory_rate(), matmul_rate()
    return (
        f"{moved / 1e6:.0f} MB at {of_memory / 1e9:.1f} GB/s = {moved / of_memory * 1e3:.1f} ms; "
        f"{operations / 1e9:.2f} GFLOP at {of_products / 1e9:.0f} GFLOP/s = {operations / of_products * 1e3:.1f} ms"
    )


def machine() -> str:
    """The machine in one line: cores, processor, torch, threads and the date; no names, no paths."""
    processor = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        lines = [line for line in described.read_text().splitlines() if line.startswith("model name")]
        processor = " ".join(lines[0].split(":", 1)[1].split()) if lines else processor
    kind = "AVX-512" if "AVX512" in torch.backends.cpu.get_cpu_capability() else torch.backends.cpu.get_cpu_capability()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"machine: {cores} cores, {processor}, {kind}, {memory:.0f} GiB; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {date.today().isoformat()}"
    )

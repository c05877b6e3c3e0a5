"""Feature store against one tensor file per picture: writing once and reading random batches, in the same run.

Run `python benchmarks/feature_store.py [pictures] [tokens] [width]`. Both sides hold the same half-precision numbers;
the rival saves each picture with safetensors and reads a batch by stacking. Timings take turns and the median counts.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from geocbm.features.writing import open_or_write

BATCH = 32
ROUNDS = 7


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def main(n: int, n_tokens: int, width: int) -> None:
    """Write and read on both sides, check that they give the same numbers, print medians and ratios."""
    generator = np.random.default_rng(0)
    numbers = generator.standard_normal((n, n_tokens, width), dtype=np.float32).astype(np.float16)

    def batches(encoder, rows, kinds):
        for start in range(0, len(rows), BATCH):
            yield {"tokens": numbers[rows[start : start + BATCH]]}

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        digests = [str(row) for row in range(n)]
        write_store, write_files = [], []
        for turn in range(3):
            files = root / f"files{turn}"
            files.mkdir()
            name = f"weights {turn}"
            shapes = {"tokens": (n_tokens, width)}
            write_store.append(
                timed(lambda: open_or_write(None, batches, shapes, digests, name, root / "cache", 1e6, False))  # noqa: B023
            )
            write_files.append(
                timed(
                    lambda: [
                        save_file({"tokens": torch.from_numpy(numbers[row])}, files / f"{row}.safetensors")  # noqa: B023
                        for row in range(n)
                    ]
                )
            )
        store = open_or_write(None, batches, shapes, digests, name, root / "cache", 1e6, False)

        def read_files(rows):
            return torch.stack([load_file(files / f"{row}.safetensors")["tokens"] for row in rows]).float()

        read_store, read_each = [], []
        for _ in range(ROUNDS):
            rows = generator.permutation(n)[:BATCH]
            assert torch.equal(store.read("tokens", rows), read_files(rows))
            read_store.append(timed(lambda: store.read("tokens", rows)))  # noqa: B023
            read_each.append(timed(lambda: read_files(rows)))  # noqa: B023
    print(f"{n} pictures of {n_tokens} x {width} numbers, {numbers.nbytes / 1e6:.0f} MB, batches of {BATCH}")
    for label, ours, theirs in (("write all", write_store, write_files), ("read batch", read_store, read_each)):
        mine, other = statistics.median(ours), statistics.median(theirs)
        print(f"{label:10}: store {mine * 1e3:8.2f} ms, one file each {other * 1e3:8.2f} ms, ratio {other / mine:5.1f}")


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:4] or ("400", "144", "128"))))

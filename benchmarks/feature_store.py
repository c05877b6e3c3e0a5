"""Feature store against one `.pt` file per image: writing once and reading random batches.

Run `python -m benchmarks.feature_store`. Both sides hold the same half-precision numbers and give float32 batches; the
rival uses `torch.save` and `torch.load(weights_only=True)`. Beside them stands the rate at which the disk writes and
reads one large file of the same size in the same folder, once with the file in the page cache and once after asking
the system to forget it (`posix_fadvise`).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks import timing
from geocbm.encoders.features import FeatureStore
from geocbm.encoders.features.store import manifest_of
from geocbm.encoders.features.writing import open_or_write

TARGET = 5.0
BLOCK = 8 * 2**20


def forget(files: Iterable[Path]) -> None:
    """Ask the system to drop files from the page cache; without `posix_fadvise` nothing happens."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def write_one(file: Path, numbers: np.ndarray) -> None:
    """Write one large file from end to end, and wait for the disk."""
    with file.open("wb", buffering=0) as stream:
        content = memoryview(numbers).cast("B")
        for start in range(0, len(content), BLOCK):
            stream.write(content[start : start + BLOCK])
        os.fsync(stream.fileno())


def read_one(file: Path, buffer: bytearray) -> None:
    """Read one large file from end to end into a buffer that is used again."""
    with file.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


class Sides:
    """The same numbers in a feature store, in one file per image and in one large file.

    Args:
        root: folder for all of them.
        numbers: `(n, P, w)` half precision.
        batch: images written or read at a time.
    """

    def __init__(self, root: Path, numbers: np.ndarray, batch: int) -> None:
        self.root, self.numbers, self.batch = root, numbers, batch
        self.digests = [str(row) for row in range(len(numbers))]
        self.large, self.files = root / "large", root / "files"
        self.files.mkdir()
        self.paths = [self.files / f"{row}.pt" for row in range(len(numbers))]

    def write_store(self, name: str) -> FeatureStore:
        """Write a store, or open it if it is there."""

        def batches(encoder, rows, kinds):
            for start in range(0, len(rows), self.batch):
                yield {"tokens": self.numbers[rows[start : start + self.batch]]}

        manifest = manifest_of({"tokens": self.numbers.shape[1:]}, self.digests, name)
        return open_or_write(None, batches, manifest, self.root / "cache", 1e6, False)

    def write_files(self) -> None:
        """Write one file per image."""
        for path, row in zip(self.paths, self.numbers, strict=True):
            torch.save(torch.from_numpy(row), path)

    def sync_files(self) -> None:
        """Write one file per image and wait for the disk, as the store and the large file do."""
        self.write_files()
        for path in self.paths:
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)

    def read_files(self, rows: np.ndarray) -> torch.Tensor:
        """A batch of the rival, float32."""
        return torch.stack([torch.load(self.paths[row], weights_only=True) for row in rows]).float()


def rate(seconds: list[float], size: float) -> str:
    """Median throughput in words, with quartiles."""
    return timing.spread([size / each for each in seconds]).text("MB/s", 1e-6, digits=0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--patches", type=int, default=576)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=None, help="folder on the disk to measure")
    given = parser.parse_args(arguments)
    generator = np.random.default_rng(0)
    shape = (given.images, given.patches, given.width)
    numbers = generator.integers(0, 15_000, shape, dtype=np.uint16).view(np.float16)  # any finite numbers will do
    print(timing.machine())
    print(f"feature store: {given.images} images of {given.patches} x {given.width}, {numbers.nbytes / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        sides = Sides(Path(folder), numbers, given.batch)
        written = timing.interleaved(
            {
                "large": lambda: write_one(sides.large, numbers),
                "store": lambda: sides.write_store("weights"),
                "files": sides.sync_files,
            },
            rounds=1,
            warmup=0,
        )
        store = sides.write_store("weights")
        data = next(path for path in store.path.iterdir() if path.suffix == ".float16")
        size = numbers.nbytes
        print(
            "write, each waiting for the disk: "
            + "; ".join(f"{name} {rate(each, size)}" for name, each in written.items())
            + f"; the store {written['files'][0] / written['store'][0]:.1f}x the files, "
            f"{written['store'][0] / written['large'][0]:.2f}x the time of the large file"
        )
        buffer = bytearray(BLOCK)
        half = min(given.batch, given.images)
        batch_bytes = half * numbers[0].nbytes

        def measure(cold: bool) -> None:
            """Random batches of the store and of the files, and the large file, in turn."""
            seconds: dict[str, list[float]] = {"float32": [], "half": [], "files": [], "large": []}
            for turn in range(given.rounds + 1):
                rows = generator.permutation(given.images)[:half]
                actions: dict[str, Callable[[], object]] = {
                    "float32": lambda rows=rows: store.read("tokens", rows),  # type: ignore[misc]
                    "half": lambda rows=rows: store.read("tokens", rows, torch.float16),  # type: ignore[misc]
                    "files": lambda rows=rows: sides.read_files(rows),  # type: ignore[misc]
                    "large": lambda: read_one(sides.large, buffer),
                }
                for name, action in actions.items():
                    if name == "large" and turn % 4:
                        continue
                    if cold:
                        forget([sides.large] if name == "large" else [data, *(sides.paths[row] for row in rows)])
                    taken = timing.timed(action)
                    if turn or name == "large":
                        seconds[name].append(taken)
                if not turn and not torch.equal(store.read("tokens", rows), sides.read_files(rows)):
                    raise AssertionError("the store and the files give different numbers")
            large = float(np.median([size / each for each in seconds["large"]]))
            ours = float(np.median([batch_bytes / each for each in seconds["half"]]))
            cache = "files forgotten before each" if cold else "files in the page cache"
            print(
                f"read random batches of {half}, {cache}: "
                f"store to float32 {rate(seconds['float32'], batch_bytes)}, store as stored "
                f"{rate(seconds['half'], batch_bytes)}, one file each {rate(seconds['files'], batch_bytes)}; ratio "
                f"to float32 {timing.ratios(seconds, 'files', 'float32').text('x')}, as stored (what Stage 2 reads) "
                f"{timing.ratios(seconds, 'files', 'half').text('x')}, to reach {TARGET:g}x; floor: the large file "
                f"{rate(seconds['large'], size)}, {large / ours:.2f}x of the store, to stay within 2x"
            )

        measure(cold=False)
        measure(cold=True)


if __name__ == "__main__":
    main()

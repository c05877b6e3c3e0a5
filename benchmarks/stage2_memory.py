"""Memory of training Stage 2 on stored patch tokens: does it grow with the number of images?

Run `python -m benchmarks.stage2_memory`. A feature store of the given numbers of images is laid out as a sparse file
(43,040 images are 50.8 GB of zeros that take no disk), and a process of its own trains Stage 2 on random rows of
it, with the tables of all images in memory as a real run has them. The system's own counters are sampled every 20 ms:
`RssAnon` is memory the process needs, `RssFile` the pages of the memory map that are in the page cache at that moment,
which the system takes back whenever it wants. A straightforward run that loads the tokens needs their whole size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks import timing
from geocbm.encoders.features import FeatureStore
from geocbm.encoders.features.store import (
    BYTES_PER_NUMBER,
    CHECKSUMS,
    checksums,
    file_of,
    manifest_of,
    write_digests,
)
from geocbm.files import write_json
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead
from geocbm.models.stage_losses import Stage2Loss
from geocbm.training import RowLoader, fit
from geocbm.training.loader import row_reader

LIMIT_GB = 4.0
CONCEPT_DIM, CELLS = 512, 1048


@dataclass(frozen=True)
class RandomCells:
    """Geocells as Stage 2 sees them."""

    centers: np.ndarray
    scale_km: np.ndarray
    digest: str = "random"


def sparse_store(folder: Path, n: int, patches: int, width: int) -> FeatureStore:
    """A finished store of `n` images whose tokens are zeros that take no room on the disk."""
    digests = [f"{row:064x}" for row in range(n)]
    manifest = manifest_of({"tokens": (patches, width)}, digests, "sparse")
    path = folder / manifest["key"][:32]
    path.mkdir(parents=True)
    tokens = file_of(path, "tokens")
    tokens.touch()
    os.truncate(tokens, n * patches * width * BYTES_PER_NUMBER)
    write_digests(path, digests)
    write_json(path / "manifest.json", manifest | {CHECKSUMS: {"tokens": checksums(tokens)}})
    return FeatureStore.open(path)


class Watch:
    """Peaks of this process' anonymous and file-backed memory, bytes, sampled in a thread."""

    def __init__(self) -> None:
        self.peaks = {"RssAnon": 0, "RssFile": 0}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def look(self) -> dict[str, int]:
        """Look at the counters now; gives the peaks so far."""
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in self.peaks:
                self.peaks[name] = max(self.peaks[name], int(value.split()[0]) * 1024)
        return dict(self.peaks)

    def _sample(self) -> None:
        while not self._done.is_set():
            self.look()
            time.sleep(0.02)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def train(store_path: Path, steps: int, batch: int) -> dict[str, float]:
    """Train on random rows of a store and give the peaks of memory."""
    with Watch() as watch:
        store = FeatureStore.open(store_path)
        before = watch.look()
        generator = np.random.default_rng(0)
        torch.manual_seed(0)
        n = store.n
        rows = generator.choice(n, min(n, steps * batch), replace=False)
        centers = functional.normalize(torch.randn(CELLS, 3), dim=-1).numpy()
        started = time.perf_counter()
        columns = {
            "concept_emb": torch.randn(n, CONCEPT_DIM),
            "cell_label": torch.as_tensor(generator.integers(0, CELLS, n)),
            "lat": torch.as_tensor(generator.uniform(-60, 70, n)),
            "lng": torch.as_tensor(generator.uniform(-180, 180, n)),
        }
        read = row_reader(store, "tokens", half=True)
        loaders = [
            RowLoader(part, lambda chosen: {"patch_tokens": read(chosen)}).with_columns(**columns)
            for part in (rows, rows[: 2 * batch])
        ]
        config = Stage2Config(batch_size=batch, epochs=1)
        head = Stage2CrossAttentionGeoHead(CONCEPT_DIM, read(rows[:1]).shape[-1], CELLS, centers, config)
        loss = Stage2Loss(config, RandomCells(centers, np.full(CELLS, 50.0)))
        fit(head, loss, *loaders, config, report=lambda line: None)
        seconds = time.perf_counter() - started
    return {"n": n, "steps": len(rows) // batch, "seconds": seconds, "start": before["RssAnon"], **watch.peaks}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_760, 21_520, 43_040])
    parser.add_argument("--patches", type=int, default=576)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--folder", type=Path, default=None, help="folder for the sparse files")
    parser.add_argument("--train", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.train is not None:
        print(json.dumps(train(given.train, given.steps, given.batch)))
        return
    print(timing.machine())
    found: list[dict[str, float]] = []
    for n in given.sizes:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            store = sparse_store(Path(folder), n, given.patches, given.width)
            command = [sys.executable, "-m", "benchmarks.stage2_memory", "--train", str(store.path)]
            command += ["--steps", str(given.steps), "--batch", str(given.batch)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
            if done.returncode:
                raise RuntimeError(f"training with {n} images failed: {done.stderr[-2000:]}")
        found.append(json.loads(done.stdout.splitlines()[-1]))
        tokens = n * given.patches * given.width * BYTES_PER_NUMBER
        print(
            f"{n:,} images, {tokens / 1e9:.1f} GB of tokens, {found[-1]['steps']} steps of {given.batch}: peak needed "
            f"(RssAnon) {found[-1]['RssAnon'] / 1e9:.2f} GB, of it {found[-1]['start'] / 1e9:.2f} GB before the "
            f"training; page cache of the map (RssFile) {found[-1]['RssFile'] / 1e9:.2f} GB"
        )
    if len(found) > 1:
        slope = np.polyfit([each["n"] for each in found], [each["RssAnon"] for each in found], 1)[0]
        per_image = given.patches * given.width * BYTES_PER_NUMBER
        print(f"slope: {slope / 1e3:.1f} kB for each further image; its tokens are {per_image / 1e3:,.0f} kB")
    print(f"to stay below {LIMIT_GB:g} GB: {'yes' if found[-1]['RssAnon'] < LIMIT_GB * 1e9 else 'NO'}")


if __name__ == "__main__":
    main()

"""Answers for a user's own photographs: the time of one, and the rate of many against that of the encoder alone.

Run `python -m benchmarks.predict`; it needs a trained run. The encoder alone gets its input ready-made, in batches of
the same size with all threads. Predicting starts from files: threads share the cores, each reads a batch, brings it to
size and answers for it, so that reading is overlapped and counted within the time of predicting. The rival answers for
one photograph after the other. A second part does the same with photographs of a camera's size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import timing
from geocbm.data import image_files
from geocbm.predict import GeoCBM
from geocbm.predict.model import BATCH

SECONDS_FOR_ONE, SHARE_OF_ENCODER = 3.0, 0.8
CAMERA = (4032, 3024)


def load_seconds(run: str) -> float:
    """Seconds that a new process takes to import everything and load the run."""
    code = f"from geocbm.predict import GeoCBM; GeoCBM.load({run!r})"
    return timing.timed(lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True))


def camera_photographs(files: Sequence[Path], folder: Path, size: tuple[int, int]) -> list[Path]:
    """The same scenes at a camera's size, with a little noise, as JPEG."""
    generator = np.random.default_rng(0)
    noise = generator.integers(-8, 9, (size[1], size[0], 1), dtype=np.int16)
    made = []
    for number, file in enumerate(files):
        with Image.open(file) as picture:
            large = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        made.append(folder / f"{number:03}.jpg")
        Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(made[-1], quality=90)
    return made


def measure(model: GeoCBM, files: Sequence[Path], rounds: int, what: str) -> None:
    """Rates of the encoder alone, of predicting, and of predicting one by one, in turn."""
    from geocbm.data.images.photographs import read_photograph
    from geocbm.predict.views import OVERSAMPLED

    side = OVERSAMPLED * model.encoder.image_size

    def read() -> torch.Tensor:
        return torch.cat([model.encoder.preprocess([read_photograph(file, least_side=side).picture]) for file in files])

    pixels = read().to(model.device)

    def encode() -> None:
        with torch.inference_mode():
            for start in range(0, len(pixels), BATCH):
                model.encoder(pixels[start : start + BATCH])

    together = model.predict(files)
    alone = [model.predict(file)[0] for file in files]
    places = [torch.tensor([(each.lat, each.lng) for each in answers]) for answers in (together, alone)]
    agreement = timing.agree(places[0], places[1], 1e-3, "places")
    actions = {
        "encoder": encode,
        "predict": lambda: model.predict(files),
        "one by one": lambda: [model.predict(file) for file in files],
        "reading": read,
    }
    seconds = timing.interleaved(actions, rounds)
    rates = {name: timing.spread([len(files) / each for each in taken]) for name, taken in seconds.items()}
    share = timing.ratios(seconds, "encoder", "predict")
    floor = timing.spread(
        [(a + b) / c for a, b, c in zip(seconds["encoder"], seconds["reading"], seconds["predict"], strict=True)]
    )
    print(f"{len(files)} {what}; places agree within {agreement:.1g}")
    print("  photographs a second: " + "; ".join(f"{name} {rate.text()}" for name, rate in rates.items()))
    print(
        f"  predict reaches {share.text(digits=2)} of the rate of the encoder alone, to reach {SHARE_OF_ENCODER:g}; "
        f"encoder and reading one after the other take {floor.text('x', digits=2)} the time of predict"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="demo", help="name or folder of a trained run")
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--camera", type=int, default=16, help="photographs of a camera's size")
    parser.add_argument("--width", type=int, default=CAMERA[0], help="their width in pixels")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args(arguments)
    print(timing.machine())
    print(f"a new process loads the run in {load_seconds(given.run):.1f} s")
    model = GeoCBM.load(given.run)
    files = [Path(file) for file in image_files(model.files.table)][: given.photographs]
    first = timing.timed(lambda: model.predict(files[0]))
    later = timing.spread([timing.timed(lambda file=file: model.predict(file)) for file in files])  # type: ignore[misc]
    print(
        f"one photograph after loading: the first {first * 1e3:.0f} ms, later ones {later.text('ms', 1e3)}, to stay "
        f"below {SECONDS_FOR_ONE:g} s"
    )
    measure(model, files, given.rounds, "photographs as they are in the run")
    with tempfile.TemporaryDirectory() as folder:
        size = given.width, given.width * CAMERA[1] // CAMERA[0]
        large = camera_photographs(files[: given.camera], Path(folder), size)
        measure(model, large, given.rounds, f"photographs of {size[0] * size[1] / 1e6:.0f} megapixels")


if __name__ == "__main__":
    main()

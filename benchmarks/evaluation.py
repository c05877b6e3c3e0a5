"""Evaluation of many predictions with bootstrap intervals, against resamples that are built one by one.

Run `python -m benchmarks.evaluation`, or with `--rows 5000 --resamples 100` for a quick look. Places are those of the
bundled gallery, and predictions lie around them at distances from streets to continents, one in a hundred missing. Both
sides draw the same blocks with the same seed; the rival puts the rows of every resample together and takes the figure
of what is there, for each figure anew. The second part measures seconds and memory of everything that a page says of
one method, and the third of how sure a run is, each in a process of its own; memory is what is added to the inputs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import psutil
from scipy.special import softmax

from benchmarks.geocells import peak_bytes
from geocbm import geocells, metrics
from geocbm.evaluation.uncertainty import assessment, measures
from geocbm.files.stored import opened

SECONDS, MEMORY_GB = 10.0, 1.0
PARENTS = 12


class Answers(NamedTuple):
    """True and answered places.

    Attributes:
        lat: `[n]` true latitudes, degrees.
        lng: `[n]` true longitudes, degrees.
        pred_lat: `[n]` answered latitudes, NaN for one in a hundred.
        pred_lng: `[n]` answered longitudes.
    """

    lat: np.ndarray
    lng: np.ndarray
    pred_lat: np.ndarray
    pred_lng: np.ndarray


def draw_answers(n: int, seed: int = 0) -> Answers:
    """Draw `n` places of the gallery, without repeats while they last, and an answer for each."""
    from geocbm.encoders import load_gallery

    generator = np.random.default_rng(seed)
    places = load_gallery().astype(np.float64)
    lat, lng = places[generator.permutation(np.resize(np.arange(len(places)), n))].T
    off = np.exp(generator.uniform(np.log(0.005), np.log(30.0), n))  # degrees
    pred_lat = np.clip(lat + off * generator.normal(size=n), -89.9, 89.9)
    pred_lng = (lng + off * generator.normal(size=n) + 180) % 360 - 180
    pred_lat[generator.random(n) < 0.01] = np.nan
    return Answers(lat, lng, pred_lat, pred_lng)


def plain_intervals(answers: Answers, n: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """What `geolocation_intervals` says, by resamples that are put together row by row."""
    from scipy.stats import norm, t

    km = metrics.error_km(answers.pred_lat, answers.pred_lng, answers.lat, answers.lng)
    block = metrics.spatial_blocks(answers.lat, answers.lng)
    count = int(block.max()) + 1
    figures: dict[str, tuple[np.ndarray, Any]] = {
        "median_km": (km, np.median),
        "mean_km": (np.where(np.isfinite(km), km, np.nan), np.nanmean),
    }
    figures |= {f"acc_{limit}km": ((km <= limit).astype(float), np.mean) for limit in metrics.THRESHOLDS_KM}
    figures |= {"geoscore": (metrics.geoscore(km), np.mean)}
    found = {}
    # Student's quantile instead of the normal one, and the exact ends of a share without a hit or a miss.
    tail = norm.sf(t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1)))
    reach = 0.025 ** (1 / count)
    for name, (values, statistic) in figures.items():
        generator = np.random.default_rng(seed)
        draws = [
            statistic(np.repeat(values, generator.multinomial(count, np.full(count, 1 / count))[block]))
            for _ in range(n)
        ]
        ordered = np.sort(draws)
        low, high = ordered[int(tail * (n - 1))], ordered[int(np.ceil((1 - tail) * (n - 1)))]
        if name.startswith("acc_"):
            low, high = min(low, reach), max(high, 1 - reach)
        found[name] = {"value": float(statistic(values)), "low": float(low), "high": float(high)}
    return found


def compare(n: int, resamples: int, rounds: int) -> None:
    """Time `geolocation_intervals` against the plain way, after both gave the same numbers."""
    import torch

    from benchmarks import timing

    answers = draw_answers(n)

    def ours() -> dict[str, dict[str, float]]:
        places = (answers.pred_lat, answers.pred_lng, answers.lat, answers.lng)
        return metrics.geolocation_intervals(*places, n=resamples)

    def numbers(figures: dict[str, dict[str, float]]) -> torch.Tensor:
        return torch.tensor([list(figure.values()) for figure in figures.values()], dtype=torch.float64)

    agreement = timing.agree(numbers(ours()), numbers(plain_intervals(answers, resamples)), 1e-12, "intervals")
    seconds = timing.interleaved({"plain": lambda: plain_intervals(answers, resamples), "ours": ours}, rounds, warmup=0)
    blocks = len(np.unique(metrics.spatial_blocks(answers.lat, answers.lng)))
    print(
        f"intervals of {n:,} predictions in {blocks:,} blocks, {resamples:,} resamples, 8 figures; agreement: values "
        f"and ends within {agreement:.1e} of the largest number"
    )
    print(
        f"  ours {timing.spread(seconds['ours']).text('s')}, resamples one by one "
        f"{timing.spread(seconds['plain']).text('s')}, ratio {timing.ratios(seconds, 'plain', 'ours').text('x')}"
    )


class Meter:
    """Seconds of the parts of a computation, and the most memory it added to what the process held before it."""

    def __init__(self) -> None:
        forget = Path("/proc/self/clear_refs")
        if forget.exists():
            forget.write_text("5", encoding="ascii")  # the peak so far, that of drawing the inputs, is forgotten
        self.before = psutil.Process().memory_info().rss
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Give the time since the last lap to a part."""
        now = time.perf_counter()
        self.parts[part], self._last = now - self._last, now

    def report(self) -> dict[str, Any]:
        """Seconds of the parts, and the added memory in GB."""
        return {"parts": self.parts, "added_gb": max(0, peak_bytes() - self.before) / 1e9}


def measure_evaluation(n: int, resamples: int, metas: int) -> dict[str, Any]:
    """Everything that the evaluation page says of one method, in this process."""
    answers = draw_answers(n)
    generator = np.random.default_rng(1)
    meta, owner = generator.integers(0, metas, n), np.arange(metas) % PARENTS
    logits = generator.normal(size=(n, metas)).astype(np.float32)
    logits[np.arange(n), meta] += 2
    named = softmax(logits, axis=1)
    del logits
    parents = softmax(generator.normal(size=(n, PARENTS)).astype(np.float32), axis=1)
    words = generator.normal(size=(metas, 8))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    confidence = generator.random(n)
    right = generator.random(n) < confidence
    places = (answers.pred_lat, answers.pred_lng, answers.lat, answers.lng)
    meter = Meter()
    draws = metrics.Resamples(metrics.spatial_blocks(answers.lat, answers.lng), resamples)
    metrics.geolocation_intervals(*places, blocks=draws)
    meter.lap("places")
    draws.estimate(metrics.country_of(*places[:2]) == metrics.country_of(*places[2:]))
    meter.lap("country by polygon")
    metrics.concept_intervals(named, meta, draws, parents, owner, words @ words.T)
    meter.lap("concepts")
    metrics.expected_calibration_error(confidence, right)
    metrics.calibration_error_by_chance(confidence)
    meter.lap("calibration")
    return meter.report()


def measure_sure(n: int, resamples: int, cells: int) -> dict[str, Any]:
    """How sure a run is, in this process: `n` test images, a fifth as many for calibration; the logits count too."""
    answers = draw_answers(n)
    country = metrics.country_of(answers.lat, answers.lng)
    world = geocells.build_geocells(answers.lat, answers.lng, country, max(1, n // cells))
    label = world.assign(answers.lat, answers.lng, country)
    generator = np.random.default_rng(2)
    rows = {"train": np.arange(n), "val": np.arange(0, n, 5), "test": np.arange(n)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cell_scores.npz"
        content: dict[str, Any] = {
            f"{split}_logits": _logits(world.centers, label[rows[split]], generator) for split in ("val", "test")
        }
        np.savez(path, cells_digest=world.digest, val_rows=rows["val"], test_rows=rows["test"], **content)
        named = content["test_logits"].argmax(axis=1)
        del content
        run: Any = SimpleNamespace(run="benchmark", cells=world, pictures=rows, cell_label=label, country=country)
        run.lat, run.lng, run.need = answers.lat, answers.lng, lambda name: path
        run.remedy, run.path = (lambda name: "geocbm run --only 05"), (lambda name: Path(folder) / name)
        run.opened = lambda name: opened(path, run.remedy(name))
        lat, lng = world.latlng
        meter = Meter()
        found = assessment.assess(run, lat[named], lng[named], n_resamples=resamples)
        meter.lap("assessment")
        figures = measures.measure(found)
        meter.lap("figures and intervals")
        measures.records(figures)
        measures.risk_curves(found), measures.localizability(found)
        meter.lap("tables and records")
    return meter.report() | {"cells": len(world)}


def _logits(centers: np.ndarray, label: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Logits `[n, N]` in half precision, counted from the highest, that are high near the true cell."""
    logits = np.empty((len(label), len(centers)), dtype=np.float16)
    for start in range(0, len(label), 2000):
        near = centers[label[start : start + 2000]] @ centers.T
        drawn = 8 * near + 2 * generator.normal(size=near.shape)
        logits[start : start + 2000] = drawn - drawn.max(axis=1, keepdims=True)
    return logits


def alone(what: str, n: int, resamples: int, size: int) -> dict[str, Any]:
    """One of the measurements in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--alone", what, "--rows", str(n)]
    command += ["--resamples", str(resamples), "--size", str(size)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="predictions")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--metas", type=int, nargs="+", default=[80, 1000])
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", choices=("evaluation", "sure"), help="one part: print seconds and memory as JSON")
    parser.add_argument("--size", type=int, default=80, help="metas or cells of that part")
    given = parser.parse_args(arguments)
    if given.alone:
        measure = measure_evaluation if given.alone == "evaluation" else measure_sure
        print(json.dumps(measure(given.rows, given.resamples, given.size)))
        return
    from benchmarks import timing

    print(timing.machine())
    compare(given.rows, given.resamples, given.rounds)
    for metas in given.metas:
        took = alone("evaluation", given.rows, given.resamples, metas)
        print(f"evaluation of one method, {given.rows:,} predictions, {metas:,} metas: {_in_words(took)}")
        print(f"  to stay below {SECONDS:g} s and {MEMORY_GB:g} GB")
    took = alone("sure", given.rows, given.resamples, given.cells)
    print(f"how sure, {given.rows:,} predictions over {took['cells']:,} cells: {_in_words(took)}")


def _in_words(took: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took["parts"].items())
    return f"{sum(took['parts'].values()):.1f} s ({parts}), {took['added_gb']:.2f} GB beyond the inputs"


if __name__ == "__main__":
    main()

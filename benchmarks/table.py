"""A table of many rows on its way to training: checked, split, cut into cells, audited, written and read again.

Run `python -m benchmarks.table`. Rows are made up round the towns of the world, with names, notes and identifiers of
usual lengths; there are no pictures. Each size is a process of its own, whose peak memory is what the system says. The
straightforward way is `pandas.read_csv` of the same file, which checks nothing, in a process before it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOALS = {43_040: (5, 0.4), 1_000_000: (60, 1.5), 5_000_000: (180, 4.0)}
"""Seconds and gigabytes (10^9) in which a table of so many rows is to be checked, split, cut and audited."""
METAS, PARENTS, NOTES, PER_CELL = 900, 60, 5000, 500
COUNTED = ("check", "splits", "cells", "audit")


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Write a CSV of made-up rows: every panorama once, concepts of unequal frequency, true countries."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv as pa_csv

    from geocbm.metrics.country_names import names_by_code
    from geocbm.metrics.places import read_towns

    generator = np.random.default_rng(seed)
    towns = [town for town in json.loads(read_towns()) if town["country_code"] in names_by_code()]
    word = [f"{kind} {number}" for number in range(30) for kind in ("pole", "bollard", "road line", "sign", "fence")]
    notes = [f"Seen from the road, {', '.join(generator.choice(word, 6))}; nothing else." for _ in range(NOTES)]
    place = [np.array([town[name] for town in towns]) for name in ("latitude", "longitude")]
    country = pa.array([names_by_code()[town["country_code"]] for town in towns])
    with pa_csv.CSVWriter(path, _schema(pa)) as writer:
        for start in range(0, rows, 100_000):
            number = np.arange(start, min(rows, start + 100_000))
            town = generator.integers(len(towns), size=len(number))
            meta = (METAS * generator.random(len(number)) ** 2.5).astype(int)
            where = (np.round(axis[town] + generator.normal(0, 0.01, len(number)), 6) for axis in place)
            lat, lng = (np.clip(axis, -limit, limit) for axis, limit in zip(where, (90, 180), strict=True))
            key = np.char.zfill((number * 2654435761 % 2**40).astype(str), 13)
            writer.write_table(
                pa.table(
                    [
                        [f"pano_{each}" for each in key],
                        [f"images/{each[-3:]}/{each}.jpg" for each in key],
                        [f"{word[each % len(word)]}, kind {each}" for each in meta],
                        [f"family {each % PARENTS}" for each in meta],
                        country.take(pa.array(town)),
                        lat,
                        lng,
                        [notes[each] for each in generator.integers(NOTES, size=len(number))],
                    ],
                    schema=_schema(pa),
                )
            )


def _schema(pa: Any) -> Any:
    from geocbm.data.table import SCHEMA

    return pa.schema([(name, pa.float64() if name in ("lat", "lng") else pa.string()) for name in SCHEMA])


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Seconds of each step on a table, of the clock and of the processor, and the peak memory up to its end."""
    from benchmarks.geocells import peak_bytes

    found: dict[str, dict[str, float]] = {}

    def step(name: str, action: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        started, worked = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            result = action(*arguments, **named)
        own = found.setdefault(name, {"seconds": 0.0, "work": 0.0})
        own["seconds"] += time.perf_counter() - started
        own["work"] += time.process_time() - worked
        own["gigabytes"] = peak_bytes() / 1e9
        return result

    from geocbm import data
    from geocbm.data.quality import audit_concepts, findings
    from geocbm.geocells import build_geocells

    table = step("check", data.load_table, path, check_images=False)
    splits = step("splits", data.make_splits, table)
    train = step("splits", data.split_rows, splits, table)["train"]
    places = [table[name].to_numpy()[train] for name in ("lat", "lng", "country")]
    step("cells", build_geocells, *places, min_samples_per_cell=PER_CELL)
    del train, places
    step("audit", audit_concepts, table)
    step("audit", findings, table, images=False)
    stored, listed = path.with_suffix(".parquet"), path.with_suffix(".json")
    step("write", data.save_table, table, stored)
    step("write", data.save_splits, splits, listed, table, "stratified", 0)
    del table, splits
    step("read", data.load_splits, listed, step("read", data.read_table, stored))
    return found


def plain(path: Path) -> dict[str, dict[str, float]]:
    """The same of `pandas.read_csv`."""
    import pandas as pd

    from benchmarks.geocells import peak_bytes

    started, worked = time.perf_counter(), time.process_time()
    pd.read_csv(path)
    taken = {"seconds": time.perf_counter() - started, "work": time.process_time() - worked}
    return {"read_csv": taken | {"gigabytes": peak_bytes() / 1e9}}


def alone(path: Path, how: str) -> dict[str, dict[str, float]]:
    """A measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.table", f"--{how}", str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def report(rows: int, folder: Path) -> None:
    """Measure a table of so many rows and print what came out, with the goals."""
    path = folder / "table.csv"
    write_rows(path, rows)
    rival, ours = alone(path, "plain")["read_csv"], alone(path, "measure")
    steps = ", ".join(f"{name} {_written(each)}" for name, each in ours.items())
    together = {unit: sum(ours[name][unit] for name in COUNTED) for unit in ("seconds", "work")}
    together["gigabytes"] = ours["audit"]["gigabytes"]
    goal = GOALS.get(rows)
    to_reach = f", to reach {goal[0]} s and {goal[1]:g} GB" if goal else ""
    print(f"{rows:,} rows ({path.stat().st_size / 1e6:,.0f} MB): {steps}")
    print(f"  {', '.join(COUNTED)} together {_written(together)}{to_reach}")
    print(
        f"  pandas.read_csv of the same file: {_written(rival)}; reading and checking takes "
        f"{ours['check']['work'] / rival['work']:.1f} times its processor seconds",
        flush=True,
    )


def _written(measured: dict[str, float]) -> str:
    return "{seconds:.1f} s ({work:.1f} of the processor, {gigabytes:.2f} GB)".format(**measured)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=list(GOALS))
    parser.add_argument("--measure", type=Path, help="ours only, of a CSV: print seconds and peak memory as JSON")
    parser.add_argument("--plain", type=Path, help="pandas.read_csv only: the same")
    given = parser.parse_args(arguments)
    if given.measure or given.plain:
        print(json.dumps(measure(given.measure) if given.measure else plain(given.plain)))
        return
    from benchmarks import timing

    print(timing.machine())
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as folder:
            report(rows, Path(folder))


if __name__ == "__main__":
    main()

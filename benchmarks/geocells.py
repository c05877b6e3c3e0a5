"""Geocells against one `sklearn.cluster.KMeans` with its defaults per country, at equal sums of squares.

Run `python -m benchmarks.geocells`, or with `--points 50000 --countries 50` for a quick look. Countries are as unequal
as Zipf's law makes them. Their points lie in towns of very different width, along roads between them and anywhere, a
twentieth of them on the spot of another point; the second world is even over each country. Both sides have the same
points and the same number of threads; the time of ours is that of all of `build_geocells`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geocbm.geocells import Geocells, build_geocells
from geocbm.geocells.kmeans import nearest, spatial_order, threads
from geocbm.geodesy import latlng_to_cartesian

TARGET = 5.0
EQUAL = 1.01
MEMORY_GB = 2.0


class World(NamedTuple):
    """Points on the sphere.

    Attributes:
        lat: `[n]` degrees.
        lng: `[n]` degrees.
        country: `[n]` number of each point's country, the largest country first.
        names: `[C]` the countries' names.
    """

    lat: np.ndarray
    lng: np.ndarray
    country: np.ndarray
    names: np.ndarray


def draw_world(n: int, countries: int, kind: str, seed: int = 0) -> World:
    """Draw `n` points in `countries` countries; `kind` is "towns" or "even"."""
    generator = np.random.default_rng(seed)
    share = 1 / np.arange(1, countries + 1)
    sizes = np.maximum(1, np.floor(n * share / share.sum()).astype(int))
    sizes[0] += n - sizes.sum()
    lat, lng = [], []
    for number, size in enumerate(sizes):
        middle_lat = np.rad2deg(np.arcsin(generator.uniform(-0.8, 0.8)))
        middle_lng = generator.uniform(-180, 180)
        half = 12.0 if number == 0 else float(np.exp(generator.uniform(np.log(1.5), np.log(12))))  # degrees
        place = draw_towns(size, half, generator) if kind == "towns" else generator.uniform(-half, half, (size, 2))
        lat.append(np.clip(middle_lat + place[:, 0], -89, 89))
        lng.append((middle_lng + place[:, 1] / np.cos(np.deg2rad(middle_lat)) + 180) % 360 - 180)
    names = np.array([f"Country {number:03d}" for number in range(countries)], dtype=object)
    return World(np.concatenate(lat), np.concatenate(lng), np.repeat(np.arange(countries), sizes), names)


def draw_towns(n: int, half: float, generator: np.random.Generator) -> np.ndarray:
    """`[n, 2]` degrees north and east: 60 % in towns, 25 % along roads, the rest anywhere within `half` degrees."""
    count = max(3, n // 400)
    town = generator.uniform(-half, half, (count, 2))
    width = np.exp(generator.uniform(np.log(0.01), np.log(0.5), count))
    weight = generator.pareto(1.1, count) + 0.2
    own = generator.choice(count, n, p=weight / weight.sum())
    place = town[own] + generator.standard_normal((n, 2)) * width[own, None]
    kind = generator.random(n)
    road = (kind >= 0.60) & (kind < 0.85)
    way = generator.random((int(road.sum()), 1))
    place[road] = town[own[road]] * (1 - way) + town[(own[road] + 1) % count] * way
    place[road] += generator.standard_normal((int(road.sum()), 2)) * 0.01
    anywhere = kind >= 0.85
    place[anywhere] = generator.uniform(-half, half, (int(anywhere.sum()), 2))
    again = generator.random(n) < 0.05
    return np.where(again[:, None], place[generator.integers(0, n, n)], place)


def fit_sklearn(points: np.ndarray, country: np.ndarray, per_cell: int, seed: int) -> np.ndarray:
    """`[C]` sum of squared chords of each country, by `KMeans` with its defaults."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    squares = []
    bounds = np.searchsorted(country, np.arange(country[-1] + 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for first, last in itertools.pairwise(bounds):
            model = KMeans(max(1, int(last - first) // per_cell), random_state=seed).fit(points[first:last])
            squares.append(model.inertia_)
    return np.array(squares)


def squares_of(cells: Geocells, points: np.ndarray, country: np.ndarray) -> np.ndarray:
    """`[C]` sum of squared chords of each country to the centres as they are stored."""
    off = points - cells.centers[cells.sample_to_cell]
    return np.bincount(country, weights=np.einsum("nd,nd->n", off, off))


def compare(n: int, countries: int, kind: str, per_cell: int, rounds: int) -> None:
    """Time both sides in turn, with another seed each round, and print what came out."""
    from benchmarks import timing

    world = draw_world(n, countries, kind)
    points = latlng_to_cartesian(world.lat, world.lng)  # (n, 3)
    names = world.names[world.country]
    seconds: dict[str, list[float]] = {"ours": [], "rival": []}
    work: dict[str, list[float]] = {"ours": [], "rival": []}  # processor seconds of all threads
    total, largest, least = [], [], []
    cells = build_geocells(world.lat[:500], world.lng[:500], names[:500], per_cell)  # both import what they need
    fit_sklearn(points[:500], world.country[:500], per_cell, 0)
    for turn in range(rounds):
        started = time.perf_counter(), time.process_time()
        cells = build_geocells(world.lat, world.lng, names, per_cell, seed=turn)
        seconds["ours"].append(time.perf_counter() - started[0])
        work["ours"].append(time.process_time() - started[1])
        ours = squares_of(cells, points, world.country)
        started = time.perf_counter(), time.process_time()
        theirs = fit_sklearn(points, world.country, per_cell, turn)
        seconds["rival"].append(time.perf_counter() - started[0])
        work["rival"].append(time.process_time() - started[1])
        total.append(ours.sum() / theirs.sum())
        largest.append(float((ours[:10] / np.maximum(theirs[:10], 1e-300)).max()))
        least.append(float((ours[:10] / np.maximum(theirs[:10], 1e-300)).min()))
    wanted = np.maximum(1, np.bincount(world.country) // per_cell)
    print(
        f"{n:,} points, {countries} countries, {kind}: {len(cells):,} cells of {wanted.sum():,} asked for, "
        f"{wanted[0]:,} in the largest country"
    )
    print(
        f"  ours {timing.spread(seconds['ours']).text('s')}, KMeans {timing.spread(seconds['rival']).text('s')}, "
        f"ratio {timing.ratios(seconds, 'rival', 'ours').text('x')}, to reach {TARGET:g}x"
    )
    print(
        f"  in processor seconds: ours {timing.spread(work['ours']).text('s')}, KMeans "
        f"{timing.spread(work['rival']).text('s')}, ratio {timing.ratios(work, 'rival', 'ours').text('x')}"
    )
    print(
        f"  squares, ours over KMeans: all {max(total):.4f} at worst of {rounds} seeds, ten largest countries "
        f"{min(least):.4f} to {max(largest):.4f}, to stay below {EQUAL:g}"
    )
    print(floor_line(cells, points, world.country, float(np.median(work["ours"]))))


def floor_line(cells: Geocells, points: np.ndarray, country: np.ndarray, taken: float) -> str:
    """What no k-means can do without: the points read once, and each assigned once to the centres it ends with."""
    from benchmarks import timing

    bounds = np.searchsorted(country, np.arange(country[-1] + 2))
    pairs = []
    for first, last in itertools.pairwise(bounds):
        own = points[first:last]
        cell = cells.sample_to_cell[first:last]
        pairs.append((cells.centers[cell.min() : cell.max() + 1], own[spatial_order(own)]))
    searches = []
    for _ in range(3):
        started = time.process_time()
        for centers, own in pairs:
            nearest(centers, own)
        searches.append(time.process_time() - started)
    search = float(np.median(searches))
    read = points.nbytes / timing.memory_rate()
    return (
        f"  floor: {points.nbytes / 1e6:.0f} MB of points read in {read * 1e3:.1f} ms; one search of the nearest "
        f"centre of every point {search * 1e3:.1f} ms of processor time, ours {taken / search:.0f} times as much"
    )


def measure_alone(n: int, countries: int, per_cell: int) -> dict[str, float]:
    """Seconds and processor seconds of ours, and peak memory in GB of this process, drawing the world included."""
    world = draw_world(n, countries, "towns")
    names = world.names[world.country]
    build_geocells(world.lat[:500], world.lng[:500], names[:500], per_cell)  # imports what it needs
    started = time.perf_counter(), time.process_time()
    build_geocells(world.lat, world.lng, names, per_cell)
    seconds, work = time.perf_counter() - started[0], time.process_time() - started[1]
    return {"seconds": seconds, "work": work, "peak_gb": peak_bytes() / 1e9}


def peak_bytes() -> int:
    """Most memory this process has held at once. The common call also counts what it was started from, on Linux."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def alone(n: int, countries: int, per_cell: int) -> dict[str, float]:
    """`measure_alone` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.geocells", "--alone", "--points", str(n)]
    command += ["--countries", str(countries), "--per-cell", str(per_cell)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--countries", type=int, default=200)
    parser.add_argument("--per-cell", type=int, default=100, help="min_samples_per_cell")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="ours only: print seconds and peak memory as JSON")
    given = parser.parse_args(arguments)
    if given.alone:
        print(json.dumps(measure_alone(given.points, given.countries, given.per_cell)))
        return
    from benchmarks import timing

    print(timing.machine())
    print(f"geocells: min_samples_per_cell {given.per_cell}, {threads()} threads on both sides")
    compare(given.points, given.countries, "towns", given.per_cell, given.rounds)
    compare(given.points // 5, given.countries, "even", given.per_cell, given.rounds)
    once, larger = (alone(size, given.countries, given.per_cell) for size in (given.points, 5 * given.points))
    for size, took in ((given.points, once), (5 * given.points, larger)):
        print(
            f"ours alone, {size:,} points: {took['seconds']:.1f} s, {took['work']:.1f} processor seconds, peak "
            f"{took['peak_gb']:.2f} GB, to stay below {MEMORY_GB:g} GB"
        )
    print(
        f"5 times the points take {larger['seconds'] / once['seconds']:.1f} times as long and "
        f"{larger['work'] / once['work']:.1f} times the processor time"
    )


if __name__ == "__main__":
    main()

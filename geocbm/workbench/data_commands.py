"""`geocbm data ...`: public data sets into the project's schema, and predictions scored against them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from geocbm.errors import ParameterError

if TYPE_CHECKING:
    from geocbm.data.public import Conversion

PARENTS = ("land_cover", "climate", "soil", "drive_side", "road_index", "dist_sea", "all")


def _configure_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, required=True, help="the unpacked data set")
    parser.add_argument("--out", type=Path, metavar="CSV", help="the table to write (default: in the folder)")
    parser.add_argument(
        "--on-bad",
        choices=("error", "drop"),
        default="error",
        help="refuse bad rows and missing pictures, or leave them out (default: error)",
    )


def configure_osv5m(parser: argparse.ArgumentParser) -> None:
    """Arguments of `geocbm data osv5m`."""
    _configure_source(parser)
    parser.add_argument("--split", choices=("train", "test"), default="train", help="as published (default: train)")
    parser.add_argument("--parent", choices=PARENTS, default="all", help="whose values become concepts (default: all)")
    parser.add_argument("--legend", type=Path, metavar="JSON", help="names for codes and bands, see data/README.md")


def osv5m(arguments: argparse.Namespace) -> int:
    """Write the table of a split of OSV-5M."""
    from geocbm.data.public import convert_osv5m

    done = convert_osv5m(
        arguments.folder, arguments.split, arguments.parent, arguments.out, arguments.on_bad, arguments.legend
    )
    print(in_words(done))
    return 0


def configure_benchmark(parser: argparse.ArgumentParser) -> None:
    """Arguments of `geocbm data im2gps3k` and `geocbm data yfcc4k`."""
    _configure_source(parser)
    parser.add_argument("--csv", type=Path, help="the benchmark's CSV (default: NAME_places365.csv in the folder)")


def benchmark(name: str) -> Callable[[argparse.Namespace], int]:
    """The command that writes the table of a photo benchmark."""

    def act(arguments: argparse.Namespace) -> int:
        from geocbm.data.public import convert_benchmark

        done = convert_benchmark(name, arguments.folder, arguments.out, arguments.on_bad, arguments.csv)
        print(in_words(done))
        print("for evaluation only, it has no concepts: geocbm predict PICTURES --json FILE, then geocbm data score")
        return 0

    return act


def configure_score(parser: argparse.ArgumentParser) -> None:
    """Arguments of `geocbm data score`."""
    parser.add_argument("--csv", type=Path, required=True, help="a table in the project's schema")
    parser.add_argument(
        "--predictions", type=Path, required=True, metavar="FILE", help="from geocbm predict --json or --parquet"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (default: 1000)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file; - prints them")


def score(arguments: argparse.Namespace) -> int:
    """Print how far the predictions lie from the places of a table."""
    from geocbm.data import load_table
    from geocbm.data.public import read_predictions, score_predictions, scores_in_words
    from geocbm.files import write_json
    from geocbm.metrics import recordable

    if arguments.resamples < 1:
        raise ParameterError(f"--resamples={arguments.resamples} gives no interval; give at least 1")
    answers = read_predictions(arguments.predictions)
    to_stdout = arguments.json == Path("-")
    with redirect_stdout(sys.stderr) if to_stdout else nullcontext():  # what the table's reader remarks is no JSON
        scores = score_predictions(load_table(arguments.csv, check_images=False), answers, arguments.resamples)
    # Strict JSON: a figure without an interval is a number, one without a value null.
    written = {name: recordable(value) if isinstance(value, dict) else value for name, value in scores.items()}
    if to_stdout:
        print(json.dumps(written, indent=2, sort_keys=True, allow_nan=False))
        return 0
    print(scores_in_words(scores))
    if arguments.json:
        write_json(arguments.json, written)
    return 0


def in_words(done: Conversion) -> str:
    """What a reader wrote and left out, as lines of text."""
    dropped = f", {done.n_dropped:,} rows of the source left out" if done.n_dropped else ""
    return "\n".join([*done.notices, f"{done.path}: {done.n_rows:,} rows, {done.n_images:,} pictures{dropped}"])

"""Arguments of `geocbm predict`."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure_predict(parser: argparse.ArgumentParser) -> None:
    """Arguments of `geocbm predict`."""
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="pictures, folders of pictures, or - for one from standard input")
    add("--run", default="demo", help="the trained run that answers (default: demo)")
    add("--top", type=int, default=5, help="how many places, countries and concepts to name (default: 5)")
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write the answers to this file: a list, or one a line where it ends with .jsonl; - writes the "
        "list to standard output instead of text",
    )
    add("--parquet", type=Path, metavar="FILE", help="also write the answers to this table")
    add("--html", type=Path, metavar="FILE", help="also write one page with maps and pictures, complete in itself")


def predict(arguments: argparse.Namespace) -> int:
    """Answer for pictures, see `geocbm.predict.command.predict`."""
    from geocbm.predict import command
    from geocbm.workbench import paths, state

    folder = paths.run_folder(arguments.run)
    given = {name: value for name, value in vars(arguments).items() if name != "act"}
    changed = state.remark(folder)
    return command.predict(command.PredictRequest(**given, remarks=(changed,) if changed else ()), folder)

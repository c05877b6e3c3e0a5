"""Simulated worlds: known by the mark that their maker leaves beside the pictures, and the truth of what these show."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import MissingInputError
from geocbm.files import read_json_or_empty

if TYPE_CHECKING:
    import pandas as pd

MARK = "atlas.json"
"""File that a simulator writes into the folder of its world; its entry `simulated` is true."""

MOST_BYTES = 1 << 20  # of that file; a longer one is no mark
BANNER = (
    "Simulated world: the pictures of this run are scenes drawn by the atlas simulator. What is measured here says how "
    "the method behaves in that world, and nothing about real streets."
)
TRAINED_ON = "this run was trained on drawn scenes of a simulated world; its answer for a real picture means little"


def from_simulator(folder: str | Path, image_paths: Iterable[str]) -> bool:
    """Whether a table, or any of its pictures, lies in the folder of a simulated world.

    A table that somebody made of the pictures of such a world is recognised too, wherever it lies; paths of pictures
    are absolute or seen from the folder of the table.
    """
    home, one_of = Path(folder), {os.path.dirname(path): path for path in image_paths if "\0" not in path}
    places = {(home / path).parent.resolve() for path in one_of.values()}
    return any(_marked(place / MARK) for place in {home, *places, *(place.parent for place in places)})


def _marked(file: Path) -> bool:
    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            return False
    except (OSError, ValueError):
        return False
    return read_json_or_empty(file).get("simulated") is True


def is_simulated(table: pd.DataFrame) -> bool:
    """Whether the pictures of a validated table are simulated; `load_table` has kept it in `attrs["simulated"]`."""
    return bool(table.attrs.get("simulated"))


def picture_noun(table: pd.DataFrame) -> str:
    """What a picture of the table is called: "scene" in a simulated world, else "photograph"."""
    return "scene" if is_simulated(table) else "photograph"


GROUND_TRUTH = "ground_truth.jsonl.gz"
"""File of what can really be seen in each picture, and where."""


def has_ground_truth(folder: str | Path) -> bool:
    """Whether a data set comes with ground truth; no real one does."""
    return (Path(folder) / GROUND_TRUTH).is_file()


def load_ground_truth(folder_or_csv: str | Path) -> dict[str, dict[str, Any]]:
    """Read what can really be seen in each picture of a data set, from its folder or the folder of its CSV.

    By `pano_id` `{"country", "region", "labelled", "concepts"}`, where `concepts` lists `{"meta_name",
    "parent_concept", "box", "area", "boxes"}` with boxes in parts of the picture. No real data set has it
    (MissingInputError).
    """
    path = Path(folder_or_csv)
    file = (path if path.is_dir() else path.parent) / GROUND_TRUTH
    if not file.is_file():
        raise MissingInputError(
            f"{file} is missing: only a data set made by `geocbm atlas make` knows what can be seen in its pictures"
        )
    truth = {}
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            entry = json.loads(line)
            truth[entry.pop("pano_id")] = entry
    return truth

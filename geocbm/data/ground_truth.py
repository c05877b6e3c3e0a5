"""Ground truth of a data set: which concepts can really be seen in each picture, and where."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError

FILE = "ground_truth.jsonl.gz"


def has_ground_truth(folder: str | Path) -> bool:
    """Whether a data set comes with ground truth; no real one does."""
    return (Path(folder) / FILE).is_file()


def load_ground_truth(folder_or_csv: str | Path) -> dict[str, dict[str, Any]]:
    """Read what can really be seen in each picture of a data set, from its folder or the folder of its CSV.

    Returns:
        `pano_id` -> `{"country", "region", "labelled", "concepts"}`, where `concepts` lists
        `{"meta_name", "parent_concept", "box", "area", "boxes"}` with boxes in parts of the picture.

    Raises:
        MissingInputError: if there is no ground truth, as for any real data set.
    """
    path = Path(folder_or_csv)
    file = (path if path.is_dir() else path.parent) / FILE
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

"""The files of one run, read together and checked against one another.

The notebooks, `geocbm fit` and the prediction object all come through here, so that a file made from another table,
other cells or other labels is refused in one place, with the command that makes the right one.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm import data
from geocbm.concepts import ConceptVocabulary
from geocbm.errors import MismatchError, MissingInputError
from geocbm.files import read_json, sha256_text
from geocbm.geocells import Geocells
from geocbm.simulated import is_simulated, picture_noun

if TYPE_CHECKING:
    import pandas as pd

MADE_BY = {
    "table.parquet": "01",
    "concepts.json": "01",
    "splits.json": "01",
    "geocells.npz": "02",
    "prototypes.safetensors": "03",
    "features.json": "03",
    "stage0.safetensors": "03",
    "stage1.safetensors": "04",
    "concept_scores.npz": "04",
    "stage1_floor.json": "04",
    "stage2.safetensors": "05",
    "predictions.parquet": "05",
    "cell_scores.npz": "05",
    "novelty.safetensors": "05",
    "evaluation.parquet": "06",
    "trust.parquet": "07",
    "interventions.parquet": "08",
    "field_guide.parquet": "09",
}
"""Which notebook writes which file of a run; the files beside a checkpoint and its variants begin with its stem."""

PROFILES = ("smoke", "demo", "full")
"""Runs that are named after their profile unless the user names them."""


class RunFiles:
    """The files in the folder of one run, loaded on first use.

    Args:
        folder: `data/runs/<run>`.

    Attributes:
        folder: the same.
        run: name of the run, the folder's own name.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.run = self.folder.name

    def path(self, name: str) -> Path:
        """Path of a file of the run, whether or not it exists."""
        return self.folder / name

    def need(self, name: str) -> Path:
        """Path of a file that must exist.

        Raises:
            MissingInputError: it does not; the message names the command that makes it.
        """
        path = self.path(name)
        if not path.exists():
            raise MissingInputError(f"{name} of run {self.run!r} does not exist yet; make it with: {self.remedy(name)}")
        return path

    def remedy(self, name: str) -> str:
        """The command that makes a file of this run."""
        profile = f"--profile {self.run} " if self.run in PROFILES else ""
        notebook = next((number for file, number in MADE_BY.items() if name.startswith(Path(file).stem)), "01")
        return f"geocbm run {profile}--run {self.run} --only {notebook}"

    @cached_property
    def table(self) -> pd.DataFrame:
        """The validated table, one row per image and labelled concept."""
        return data.read_table(self.need("table.parquet"))

    @property
    def simulated(self) -> bool:
        """Whether the pictures of the run come from a simulated world."""
        return is_simulated(self.table)

    @property
    def noun(self) -> str:
        """What a picture of the run is called: "scene" in a simulated world, else "photograph"."""
        return picture_noun(self.table)

    @cached_property
    def concepts(self) -> ConceptVocabulary:
        """Metas, parents and the hierarchy."""
        vocabulary = ConceptVocabulary.load(self.need("concepts.json"))
        if vocabulary.meta_to_parent != ConceptVocabulary.from_table(self.table).meta_to_parent:
            raise MismatchError(
                f"concepts.json of run {self.run!r} has other names or parents than its table; make both again with: "
                f"{self.remedy('concepts.json')}"
            )
        return vocabulary

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Row positions of each split: train, val, test, pretrain_train, pretrain_val."""
        return data.split_rows(data.load_splits(self.need("splits.json"), self.table), self.table)

    @cached_property
    def cells(self) -> Geocells:
        """The geocells, fitted on the training split of this very table."""
        cells = Geocells.load(self.need("geocells.npz"))
        train = self.rows["train"]
        again = f"make it again with: {self.remedy('geocells.npz')}"
        if len(cells.sample_to_cell) != len(train):
            raise MismatchError(
                f"geocells.npz of run {self.run!r} was made from {len(cells.sample_to_cell)} training rows, the table "
                f"has {len(train)}; {again}"
            )
        now = cells.assign(self.lat[train], self.lng[train], self.country[train])
        if not np.array_equal(now, cells.sample_to_cell):
            raise MismatchError(
                f"geocells.npz of run {self.run!r} was made from other training rows: "
                f"{int((now != cells.sample_to_cell).sum())} of {len(train)} lie in another cell now; {again}"
            )
        return cells

    @cached_property
    def lat(self) -> np.ndarray:
        """Latitudes in degrees, one per row, writable (torch refuses read-only memory)."""
        return self.table["lat"].to_numpy(dtype=np.float64, copy=True)

    @cached_property
    def lng(self) -> np.ndarray:
        """Longitudes in degrees, one per row."""
        return self.table["lng"].to_numpy(dtype=np.float64, copy=True)

    @cached_property
    def country(self) -> np.ndarray:
        """Country names, one per row."""
        return self.table["country"].to_numpy(dtype=str)

    @cached_property
    def meta_and_parent(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the labelled meta and of its parent, one per row."""
        meta, parent = self.concepts.encode(self.table)
        # Columns of a table may be read-only views, which torch refuses to share.
        return meta.copy(), parent.copy()

    @cached_property
    def cell_label(self) -> np.ndarray:
        """Index of the cell of each row (`cell_label` of the specification)."""
        return self.cells.assign(self.lat, self.lng, self.country)

    def oracle_error_km(self, cells: Geocells, rows: np.ndarray) -> np.ndarray:
        """Error of a classifier that always names the right cell, in km, for the given rows."""
        from geocbm.geocells import oracle_error_km

        return oracle_error_km(cells, self.lat[rows], self.lng[rows], self.country[rows])

    @property
    def labels(self) -> dict[str, Any]:
        """What a checkpoint must agree on with the run: names of classes and digests of what they were made from."""
        labels: dict[str, Any] = {
            "metas": list(self.concepts.metas),
            "parents": list(self.concepts.parents),
            "meta_to_parent": dict(self.concepts.meta_to_parent),
            "csv_sha256": self.table.attrs["csv_sha256"],
            "splits_sha256": sha256_text(self.need("splits.json").read_text(encoding="utf-8")),
        }
        if self.path("geocells.npz").exists():
            labels["cells_digest"] = self.cells.digest
        return labels

    def check_labels(self, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
        """Read the JSON beside a checkpoint and hold its labels against this run.

        Args:
            name: the checkpoint, such as `stage1.safetensors`.
            keys: which labels must agree.

        Returns:
            The JSON.

        Raises:
            MissingInputError: the checkpoint, its JSON or the cells are not there.
            MismatchError: a label differs.
        """
        self.need(name)
        content = read_json(self.need(Path(name).with_suffix(".json").name))
        if "cells_digest" in keys:
            self.need("geocells.npz")
        labels = self.labels
        for key in keys:
            if content["labels"].get(key) != labels[key]:
                raise MismatchError(
                    f"{name} of run {self.run!r} was trained with another {key} than the run has now; train it again "
                    f"with: {self.remedy(name)}"
                )
        return content

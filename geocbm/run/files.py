"""Files of a run, held against one another: one that was made from something else is refused, with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm import data
from geocbm.data.concepts import GUESSED, ConceptVocabulary
from geocbm.data.simulated import is_simulated, picture_noun
from geocbm.errors import MismatchError, MissingInputError
from geocbm.files import lineage, makers, run_command, sha256_file, stored
from geocbm.geocells import Geocells
from geocbm.metrics.places import CountryNames

if TYPE_CHECKING:
    import pandas as pd


class RunFiles:
    """The files in the folder of one run, `data/runs/<run>`, loaded on first use."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = self.folder.name
        self._digests: dict[tuple[str, int, int], str] = {}
        self._checking: list[Path] = []  # files whose records are being held against one another

    def path(self, name: str) -> Path:
        """Path of a file of the run, whether or not it exists."""
        return self.folder / name

    def in_use(self, name: str) -> Path:
        """Path of a file of the run, or of the one that was taken from another run in its place."""
        return makers.in_use(self.folder, name)

    def need(self, name: str) -> Path:
        """Path of a file that must exist and must have been made from the run as it is now.

        Raises:
            MissingInputError: it does not exist; the message names the command that makes it.
            MismatchError: it, or what it was made from, was made from something else; the same.
        """
        path = self.in_use(name)
        self._exists(path, name)
        if path in self._checking:  # another file in its place
            raise self.mismatch(path.name, "says that it was made from itself")
        if parts := lineage.parts_of(name):
            self._checking.append(path)
            try:
                self._check(path, parts)
            finally:
                self._checking.pop()
        return path

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """Content of a file that `need` gives, see `files.stored.opened`."""
        with stored.opened(self.need(name), partial(self.remedy, name)) as content:
            yield content

    def read(self, name: str) -> Any:
        """Content of a file, see `opened`."""
        with self.opened(name) as content:
            return content

    def _exists(self, path: Path, name: str) -> None:
        stored.refuse_folder(path, partial(self.remedy, name))
        if not path.exists():
            raise MissingInputError(
                f"{path.name} of run {self.name!r} does not exist yet; make it with: {self.remedy(name)}"
            )

    def belongs(self, name: str) -> bool:
        """Whether a file exists and was made from the run as it is now."""
        try:
            self.need(name)
        except (MissingInputError, MismatchError):
            return False
        return True

    def remedy(self, name: str) -> str:
        """The command that makes a file of this run, with the options that the run was made with.

        It begins with the earliest notebook that the file depends on and whose files are missing.
        """
        return run_command(self.folder, makers.maker(name))

    def made_from(self, name: str, *more: str) -> lineage.Record:
        """What a file that is about to be written is made from, `more` checkpoints too; all of it must fit together."""
        return {part: self.digest(part) for part in dict.fromkeys((*lineage.parts_of(name), *more))}

    def digest(self, part: str) -> str:
        """Digest of a part of the run, see `files.lineage`; a part that is a file must itself belong to the run."""
        if part in ("table", "splits"):
            return self._table_digest if part == "table" else self._splits_digest
        if part == "names":
            return lineage.names_digest(self.concepts.metas, self.concepts.parents, self.concepts.meta_to_parent)
        if part == "cells":
            self.need("geocells.npz")
            return self.cells.digest
        path = self.need(f"{part}.safetensors")
        status = path.stat()
        mark = (str(path), status.st_size, status.st_mtime_ns)
        if mark not in self._digests:
            self._digests[mark] = sha256_file(path)
        return self._digests[mark]

    def _check(self, path: Path, parts: tuple[str, ...]) -> None:
        """Hold the record of a file against the run, what it was made from first."""
        holder = path.with_suffix(".json") if lineage.is_checkpoint(path.name) else path
        self._exists(holder, path.name)
        now = {part: self.digest(part) for part in parts}
        record = lineage.read_record(holder)
        if record is None:
            raise self.mismatch(path.name, "is damaged, or does not say what it was made from")
        for part in record:
            # Further checkpoints, such as those of the ablation modes, count for as long as they are there.
            further = self.in_use(f"{part}.safetensors")
            if further in self._checking:  # which asked for this file
                raise self.mismatch(path.name, f"says that it was made from {further.name}, which is made from it")
            if part not in now and further.exists():
                now[part] = self.digest(part)
        for part, digest in now.items():
            if record.get(part) != digest:
                raise self.mismatch(path.name, f"was made from {lineage.spoken(part)} than the run has now")

    def mismatch(self, name: str, what: str) -> MismatchError:
        """What to raise of a file of this run that `what` is wrong with: says how to make it again."""
        return MismatchError(f"{name} of run {self.name!r} {what}; make it again with: {self.remedy(name)}")

    @cached_property
    def _table_digest(self) -> str:
        return lineage.table_digest(self.table)

    @cached_property
    def _splits_digest(self) -> str:
        return lineage.splits_digest(self.splits)

    @cached_property
    def table(self) -> pd.DataFrame:
        """The validated table, one row per image and labelled concept."""
        return data.read_table(self.need("table.parquet"))

    @property
    def simulated(self) -> bool:
        """Whether the pictures of the run come from a simulated world."""
        return is_simulated(self.table)

    @property
    def guessed(self) -> bool:
        """Whether the concepts of the run are no labels of people but guesses, see `run.guessing`."""
        return bool(self.table.attrs.get(GUESSED))

    @property
    def label_words(self) -> str:
        """What metrics on concepts count against, in words."""
        return "guesses" if self.guessed else "labels"

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
                f"concepts.json of run {self.name!r} has other names or parents than its table; make both again with: "
                f"{self.remedy('concepts.json')}"
            )
        return vocabulary

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """Names of the panoramas of each split."""
        return data.load_splits(self.need("splits.json"), self.table)

    @cached_property
    def rows(self) -> dict[str, np.ndarray]:
        """Row positions of each split: train, val, test, pretrain_train, pretrain_val; see also `pictures`."""
        return data.split_rows(self.splits, self.table)

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """The first row of each picture of each split: what places are learned from and measured on.

        A panorama with several concepts has a row for each of them, and lies in one place.
        """
        first = data.first_of_picture(self.table)
        return {split: rows[first[rows]] for split, rows in self.rows.items()}

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
    def country_names(self) -> CountryNames:
        """The countries' names in the table for those of the geocoder, by the training split."""
        train = self.pictures["train"]
        return CountryNames.fit(self.lat[train], self.lng[train], self.country[train])

    @cached_property
    def cells(self) -> Geocells:
        """The geocells, fitted on the training split of this very table."""
        cells = Geocells.load(self.need("geocells.npz"))
        train = self.pictures["train"]
        if len(cells.sample_to_cell) != len(train):
            found = f"{len(cells.sample_to_cell)} training pictures, the table has {len(train)}"
            raise self.mismatch("geocells.npz", f"was made from {found}")
        now = cells.assign(self.lat[train], self.lng[train], self.country[train])
        if not np.array_equal(now, cells.sample_to_cell):
            moved = f"{int((now != cells.sample_to_cell).sum())} of {len(train)} lie in another cell now"
            raise self.mismatch("geocells.npz", f"was made from other training rows: {moved}")
        return cells

    def labels(self, name: str) -> dict[str, Any]:
        """What a checkpoint says of its run: the names of its classes, and digests of what it is made from."""
        return {
            "metas": list(self.concepts.metas),
            "parents": list(self.concepts.parents),
            "meta_to_parent": dict(self.concepts.meta_to_parent),
            "csv_sha256": self.table.attrs["csv_sha256"],
            lineage.KEY: self.made_from(name),
        }

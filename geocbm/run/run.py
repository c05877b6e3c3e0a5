"""Run: table, splits, cells, concepts, features, batches and loaders of one run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm import data
from geocbm.data.concept_list import ABSENT
from geocbm.data.concepts import GUESSED, SEPARATOR
from geocbm.errors import MissingInputError, ParameterError, did_you_mean
from geocbm.files import paths
from geocbm.geocells import Geocells, oracle_error_km
from geocbm.run.files import RunFiles

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor, nn

    from geocbm.encoders.features import FeatureStore
    from geocbm.training.loader import RowLoader


LABELS = {
    "row": "position in the table",
    "lat": "latitude, degrees",
    "lng": "longitude, degrees",
    "concept_idx": "labelled concept (meta)",
    "parent_idx": "its parent concept",
    "cell_label": "geocell that holds the place",
}
"""Targets and what each means; every loader reads those that the run has."""

FEATURES = {
    "pooled": "pooled features of the image encoder",
    "patch_tokens": "patch features of the adapted encoder",
    "hidden": "activations that enter the blocks which Stage 0 trains",
}
TEXTS = {
    "pano_id": "name of the panorama",
    "meta_name": "labelled concept",
    "parent_concept": "its parent concept",
    "country": "country of the label",
}
OF_STAGES = {
    "gps": "embedding of the place by GeoCLIP's location encoder",
    "concept_emb": "embedding of the concepts by Stage 1",
}
MEANING = {"image": "picture as it lies on disk, upright RGB", **TEXTS, **LABELS, **FEATURES, **OF_STAGES}

FEW_PICTURES = 10
"""Labelled training pictures of a country below which nothing follows from the names that it never has."""


class Batch(dict[str, Any]):
    """Rows of a run by name: tensors `(B, ...)`, lists of texts and pictures."""

    def shapes(self) -> pd.DataFrame:
        """Shape, dtype and meaning of each entry, by its name."""
        import pandas as pd

        lines = []
        for name, value in self.items():
            if hasattr(value, "dtype"):
                shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
            else:
                shape, dtype = (len(value),), f"list of {type(value[0]).__name__ if value else 'nothing'}"
            lines.append((name, shape, dtype, MEANING.get(name, "")))
        return pd.DataFrame(lines, columns=["name", "shape", "dtype", "meaning"]).set_index("name")

    @property
    def captions(self) -> list[str]:
        """Labelled concept and country of each picture."""
        return [f"{meta}, {country}" for meta, country in zip(self["meta_name"], self["country"], strict=True)]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device."""
        return Batch({name: value.to(device) if hasattr(value, "to") else value for name, value in self.items()})

    def __repr__(self) -> str:
        return f"Batch\n{self.shapes().to_string()}"

    def _repr_html_(self) -> str:
        return str(self.shapes().to_html())


class Run(RunFiles):
    """A run: what its notebooks wrote, read on first use and checked.

    All feature stores lie in the folder `cache`, by default beside the folder `runs`, else beside the run.
    """

    def __init__(self, folder: str | Path, cache: str | Path | None = None) -> None:
        super().__init__(folder)
        runs = self.folder.absolute().parent
        self.cache = Path(cache or (runs.parent if runs.name == "runs" else runs) / "cache")
        self.stores: dict[str, FeatureStore] = {}

    def __repr__(self) -> str:
        return f"Run({self.name!r})"

    @cached_property
    def meta_and_parent(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the labelled meta and of its parent, one per row; -1 where none is known, see `labelled`."""
        meta, parent = self.concepts.encode(self.table)
        # Columns of a table may be read-only views, which torch refuses to share.
        return meta.copy(), parent.copy()

    @cached_property
    def named_metas(self) -> np.ndarray:
        """Metas that are named of the picture of each row: `labels_at`, and further guesses; `[n, k_m]` booleans."""
        named = self.labels_at(np.arange(len(self.table)))
        return named | self._listed(GUESSED) if self.guessed else named

    def labels_at(self, rows: np.ndarray) -> np.ndarray:
        """Labelled metas of the pictures in some rows `[m]`, by all rows with their `pano_id`: `[m, k_m]` booleans."""
        asked, picture = np.unique(self._picture[rows], return_inverse=True)
        labels = np.zeros((len(asked), len(self.concepts.metas)), dtype=bool)
        known = self.labelled(np.flatnonzero(np.isin(self._picture, asked)))
        labels[np.searchsorted(asked, self._picture[known]), self.meta_and_parent[0][known]] = True
        return labels[picture]

    def likeliest_label(self, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The label with the highest of the `scores` `[n, k_m]` of each picture in some rows, `[m]`; -1 without one.

        It is what counts of the labels of a picture that has several: a model that names any of them is right.
        """
        labels = self.labels_at(rows)
        return np.where(labels.any(axis=1), np.where(labels, scores[rows], -np.inf).argmax(axis=1), -1)

    @cached_property
    def _picture(self) -> np.ndarray:
        """Number of the picture of each row, `[n]`."""
        return np.asarray(self.table["pano_id"].factorize()[0])

    @cached_property
    def absent_metas(self) -> np.ndarray:
        """Metas that were looked for in the picture of each row and not seen, `[n, k_m]`; others may be there."""
        return self._listed(ABSENT) & ~self.named_metas

    @cached_property
    def foreign_metas(self) -> np.ndarray:
        """Metas that no training picture of the country of each row names, `[n, k_m]`, where the country has enough."""
        train = self.labelled(self.rows["train"])
        country, index = np.unique(self.country, return_inverse=True)
        named = np.zeros((len(country), self.named_metas.shape[1]), dtype=bool)
        np.logical_or.at(named, index[train], self.named_metas[train])
        pictures = np.bincount(index[train], minlength=len(country))
        return (~named & (pictures >= FEW_PICTURES)[:, None])[index]

    def _listed(self, column: str) -> np.ndarray:
        """Which metas a column lists in each row, `[n, k_m]`; none without the column."""
        index, found = self.concepts.concept_to_idx, np.zeros((len(self.table), len(self.concepts.metas)), dtype=bool)
        for row, text in enumerate(self.table.get(column, ())):
            found[row, [index[name] for name in text.split(SEPARATOR) if name in index]] = True
        return found

    def labelled(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows `[m]` whose concept is known; of the others the place alone is."""
        return rows[self.meta_and_parent[0][rows] >= 0]

    @cached_property
    def cell_label(self) -> np.ndarray:
        """Index of the cell of each row (`cell_label` of the specification)."""
        return self.cells.assign(self.lat, self.lng, self.country)

    def oracle_error_km(self, cells: Geocells, rows: np.ndarray) -> np.ndarray:
        """Error of a classifier that always names the right cell, in km, for the given rows."""
        return oracle_error_km(cells, self.lat[rows], self.lng[rows], self.country[rows])

    def features(self, kind: str = "adapted") -> FeatureStore:
        """Features of every row; what is no longer stored, or was too large to be, is encoded again.

        They are `vanilla` (kinds `pooled (n, d)` and `hidden:N`, what enters the N blocks that Stage 0 trains) or
        `adapted` (kinds `pooled (n, d)` and `tokens (n, P, w)`).
        """
        from geocbm.run.encoding import open_features

        if kind not in ("vanilla", "adapted"):
            raise ParameterError(f"features({kind!r}): the kinds are 'vanilla' and 'adapted'")
        return open_features(self, kind)

    def batch(
        self, split: str = "train", n: int = 8, seed: int = 0, features: bool = True, labelled: bool = False
    ) -> Batch:
        """Up to `n` pictures of a split with their first rows' texts, labels and, unless they are not wanted, features.

        What the run has not yet is left out, and rows without a known concept where only `labelled` ones are wanted.

        Returns:
            `image` (list of PIL images), `pano_id`, `meta_name`, `parent_concept`, `country` (lists of texts) and
            tensors of B rows: `row`, `lat`, `lng`, `concept_idx`, `parent_idx`, `cell_label` `(B,)`, `pooled (B, d)`,
            `patch_tokens (B, P, w)`, `hidden (B, 1 + P, w)`.
        """
        self._rows_of(split)
        rows = self.labelled(self.pictures[split]) if labelled else self.pictures[split]
        rows = np.sort(np.random.default_rng(seed).choice(rows, min(n, len(rows)), replace=False))
        chosen = self.table.iloc[rows]
        pictures = data.image_files(self.table)
        texts = {name: chosen[name].astype(str).tolist() for name in TEXTS}
        labels = {name: values[rows] for name in LABELS if (values := self._label(name)) is not None}
        wanted = FEATURES if features else ()
        stores = {name: store for name in wanted if (store := self._store_of(name)) is not None}
        return Batch(
            {"image": [data.open_picture(pictures[row]) for row in rows]}
            | texts
            | labels
            | {name: _feature_reader(store, name)(rows) for name, store in stores.items()}
        )

    def loader(
        self,
        split: str,
        batch_size: int = 32,
        columns: nn.Module | Iterable[str] = ("pooled",),
        features: FeatureStore | None = None,
        half: bool = False,
        **own: Tensor,
    ) -> RowLoader:
        """Batches of a split for `training.fit`: all labels that the run has, and the features that are asked for.

        Args:
            split: train, val, test, pretrain_train or pretrain_val.
            batch_size: rows at a time when it is iterated by hand; `fit` takes that of its settings.
            columns: features to read (`pooled`, `patch_tokens`, `hidden`), or a model, for those that its `forward`
                names.
            features: a store to read them from; by default the run's own.
            half: leave patch tokens in the half precision in which they are stored.
            own: further tensors of all rows of the table `(n, ...)`, such as `concept_emb`.

        Raises:
            MissingInputError: a feature is not there yet.
            ParameterError: an unknown split or column, or a tensor of one's own that has not a row for each image.
        """
        from geocbm.training.loader import RowLoader, digest_of

        held = {name: values for name in LABELS if (values := self._label(name)) is not None} | own
        for name, values in held.items():
            if len(values) != len(self.table):
                raise ParameterError(f"{name} has {len(values)} rows for a table of {len(self.table)}; give all rows")
        content: list[object] = [each for pair in sorted(held.items()) for each in pair]
        readers: dict[str, Callable[[np.ndarray], Tensor]] = {}
        for name in _feature_names(columns):
            store = features or self._store_of(name)
            if store is None:
                raise MissingInputError(
                    f"run {self.name!r} has no {name} yet; make them with: {self.remedy('features.json')}"
                )
            content += [name, store]
            if name == "pooled":  # small, and a store that encodes on the fly would encode it again for each batch
                held[name] = store.read_all("pooled").float()
            else:
                readers[name] = _feature_reader(store, name, half and name == "patch_tokens")

        def read(rows: np.ndarray) -> dict[str, Tensor]:
            return {name: values[rows] for name, values in held.items()} | {
                name: reader(rows) for name, reader in readers.items()
            }

        names = self.table["pano_id"].tolist()
        return RowLoader(self._rows_of(split), read, batch_size, names, digest_of(*content))

    def _rows_of(self, split: str) -> np.ndarray:
        if split not in self.rows:
            raise ParameterError(f"there is no split {split!r}; the splits are {', '.join(self.rows)}")
        return self.rows[split]

    def _label(self, name: str) -> Tensor | None:
        """One of `LABELS` for all rows `(n,)`; None where the run has it not yet."""
        import torch

        if name == "cell_label" and not self.in_use("geocells.npz").exists():
            return None
        if name in ("concept_idx", "parent_idx"):
            return torch.from_numpy(self.meta_and_parent[name == "parent_idx"])
        return torch.from_numpy(np.arange(len(self.table)) if name == "row" else getattr(self, name))

    def _store_of(self, name: str) -> FeatureStore | None:
        """The store that holds one of `FEATURES`; None where the run has it not yet."""
        store = self._stored("vanilla" if name == "hidden" else "adapted")
        if store is None and name == "pooled":  # before Stage 0 those of the encoder as it came
            store = self._stored("vanilla")
        return store

    def _stored(self, kind: str) -> FeatureStore | None:
        """Features that need not be encoded first."""
        if kind in self.stores:
            return self.stores[kind]
        if not self.in_use("features.json").exists():
            return None
        from geocbm.run.encoding import store_folder

        if kind == "vanilla" and store_folder(self, kind) is None:
            return None  # encoding all images again, for a batch, would take long
        return self.features(kind)


def _feature_reader(store: FeatureStore, name: str, half: bool = False) -> Callable[[np.ndarray], Tensor]:
    """A function from row positions to one of `FEATURES`, `(B, ...)` in single precision, or half as it is stored."""
    from geocbm.training.loader import row_reader

    kind = {"patch_tokens": "tokens"}.get(name, name)
    if name == "hidden":  # kept as "hidden:N" for the last N blocks
        kind = next(each for each in store.kinds if each.startswith("hidden:"))
    return row_reader(store, kind, half)


def _feature_names(columns: nn.Module | Iterable[str]) -> list[str]:
    """Which of `FEATURES` are asked for."""
    if isinstance(columns, str):
        raise ParameterError(f"columns={columns!r} is a text; give a list of features ([{columns!r}]) or a model")
    if forward := getattr(columns, "forward", None):
        named = [name for name in inspect.signature(forward).parameters if name in FEATURES]
        return named if getattr(columns, "needs_tokens", True) else [name for name in named if name != "patch_tokens"]
    names = list(columns)  # type: ignore[arg-type]
    for name in names:
        if name not in FEATURES and name not in LABELS:
            raise ParameterError(f"columns: there is no {name!r}; the features are {', '.join(FEATURES)}")
    return [name for name in names if name in FEATURES]


def folder_of(name: str | Path) -> Path:
    """Folder of a run that is called by its name, or by a folder with a run's table in it."""
    folder = Path(name).expanduser()
    is_name = len(folder.parts) == 1 and not (folder / "table.parquet").is_file()
    return paths.run_folder(str(name)) if is_name else folder


def open_run(name: str | Path | None = None) -> Run:
    """Open a run by its name under the data root or its folder; without, the newest that was trained to its end.

    Raises:
        MissingInputError: there is no finished run.
        ParameterError: there is no run of this name; the message says which there are.
    """
    root = paths.data_root() / "runs"
    if name is None:
        if not (finished := paths.finished_runs()):
            raise MissingInputError(f"there is no finished run in {paths.portable(root)}; make one with: geocbm run")
        return Run(root / finished[0])
    folder = folder_of(name)
    if not folder.is_dir():
        known = paths.runs_in(root)
        hint = did_you_mean(str(name), known)
        raise ParameterError(f"there is no run {str(name)!r}; {hint}runs: {', '.join(known) or 'none yet'}")
    return Run(folder)

"""The concept vocabulary: fine-grained metas, each under exactly one coarse parent, and how both are put into words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geocbm.errors import BadTableError, MismatchError, ParameterError
from geocbm.files import SEAL, run_command, sha256_text, write_json
from geocbm.files.stored import opened

if TYPE_CHECKING:
    import pandas as pd
    import torch

META_TEMPLATES = (
    "A street view showing {}",
    "A photo of {} in scene",
    "An area characterized by {}",
    "{} visible from road",
    "A location with {}",
)
PARENT_TEMPLATES = (
    "A {} area",
    "A scene showing {} features",
    "An environment with {} characteristics",
    "{} landscape",
    "A {} region",
)

EMPTY_WORDS = frozenset({"", "nan", "none", "null", "n/a", "<na>"})
SEPARATOR = "|"
"""Between several concepts in one cell of a table."""
UNKNOWN = "(unknown)"
"""Name, and parent, in a row of a picture of which no concept is known: it has the index -1 and is no concept."""
GUESSED = "guessed"
"""Attribute of a table whose labels were guessed, and by what; and its column with all names that a picture got."""
GUESSED_BANNER = (
    "Guessed concepts: nobody labelled the pictures of this run. What they show was guessed from how like pictures and "
    "words are to an encoder, and metrics on concepts count against these guesses, unless they say otherwise."
)


@dataclass(frozen=True)
class ConceptVocabulary:
    """Names of metas and parents in alphabetical order, and which meta stands under which parent.

    The order makes indices the same in every run (specification, section Label Mappings).
    """

    metas: tuple[str, ...]  # the k_m fine-grained names
    parents: tuple[str, ...]  # the k_p coarse names
    meta_to_parent: dict[str, str]

    def __post_init__(self) -> None:
        for name, values in (("metas", self.metas), ("parents", self.parents)):
            if not values:
                raise ParameterError(f"{name} is empty; a vocabulary needs at least one name.")
            if list(values) != sorted(set(values)):
                raise ParameterError(f"{name} must be distinct and sorted; got {values[:5]}...")
        if set(self.meta_to_parent) != set(self.metas):
            odd = sorted(set(self.meta_to_parent) ^ set(self.metas))
            raise ParameterError(f"meta_to_parent must name every meta and no other; it differs in {odd[:5]}.")
        if set(self.meta_to_parent.values()) != set(self.parents):
            odd = sorted(set(self.meta_to_parent.values()) ^ set(self.parents))
            raise ParameterError(f"every parent needs a meta and every meta a known parent; they differ in {odd[:5]}.")

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> ConceptVocabulary:
        """Collect the vocabulary of a table; a `BadTableError` lists metas under two parents."""
        pairs = table[["meta_name", "parent_concept"]].drop_duplicates()
        pairs = pairs[pairs["meta_name"] != UNKNOWN]
        double = pairs[pairs["meta_name"].duplicated(keep=False)].groupby("meta_name")["parent_concept"]
        problems = [f"{meta!r} is under {', '.join(map(repr, sorted(parents)))}" for meta, parents in double]
        if problems:
            raise BadTableError(f"A meta has exactly one parent; choose one for: {'; '.join(problems)}.", problems)
        meta_to_parent = dict(sorted(zip(pairs["meta_name"], pairs["parent_concept"], strict=True)))
        return cls(tuple(meta_to_parent), tuple(sorted(set(meta_to_parent.values()))), meta_to_parent)

    @cached_property
    def concept_to_idx(self) -> dict[str, int]:
        """Index of each meta."""
        return {name: index for index, name in enumerate(self.metas)}

    @cached_property
    def idx_to_concept(self) -> dict[int, str]:
        """Meta of each index."""
        return dict(enumerate(self.metas))

    @cached_property
    def parent_to_idx(self) -> dict[str, int]:
        """Index of each parent."""
        return {name: index for index, name in enumerate(self.parents)}

    @cached_property
    def idx_to_parent(self) -> dict[int, str]:
        """Parent of each index."""
        return dict(enumerate(self.parents))

    @property
    def parent_index(self) -> np.ndarray:
        """`[k_m]` int64 index of each meta's parent."""
        return np.array([self.parent_to_idx[self.meta_to_parent[meta]] for meta in self.metas], dtype=np.int64)

    @property
    def meta_to_parent_idx(self) -> torch.Tensor:
        """`[k_m]` the same as a torch LongTensor."""
        import torch

        return torch.from_numpy(self.parent_index)

    @property
    def digest(self) -> str:
        """Hash of names and hierarchy, by which a checkpoint knows its labels."""
        return sha256_text(json.dumps([self.metas, self.parents, self.parent_index.tolist()], ensure_ascii=False))

    def encode(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the metas and of the parents of a table's rows, both `[n]` int64; -1 where none is known.

        A name that the vocabulary lacks is a MismatchError.
        """
        found = []
        for column, known in (("meta_name", self.concept_to_idx), ("parent_concept", self.parent_to_idx)):
            index = table[column].map(known | {UNKNOWN: -1})
            if index.isna().any():
                strange = sorted(set(table[column][index.isna()]))
                raise MismatchError(
                    f"{column} has {len(strange)} names that the vocabulary lacks, such as {strange[0]!r}. "
                    "Make concepts.json again from this table with notebook 01."
                )
            found.append(index.to_numpy(dtype=np.int64))
        return found[0], found[1]

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as JSON."""
        write_json(path, asdict(self) | {SEAL: ""})

    @classmethod
    def load(cls, path: str | Path) -> ConceptVocabulary:
        """Read a vocabulary written by `save`."""
        with opened(path, partial(run_command, Path(path).parent, "01")) as content:
            return cls(tuple(content["metas"]), tuple(content["parents"]), dict(content["meta_to_parent"]))


def split_names(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, str]]:
    """A row for each name in a line of a table, such as "pole | red sign"; parents are one for all or one for each.

    The rows have the index of their line; with them comes what is wrong with the number of parents, by position.
    """
    both, kept, unequal = ["meta_name", "parent_concept"], [], {}
    for texts in rows[both].itertuples(index=False):
        metas, parents = ([part.strip() for part in text.split(SEPARATOR) if part.strip()] or [""] for text in texts)
        fits = len(parents) in (1, len(metas))
        pairs = zip(metas, parents * (len(metas) // len(parents)), strict=True) if fits else [tuple(texts)]
        kept.append(list(dict.fromkeys(pairs)))
        if not fits:
            unequal[sum(map(len, kept)) - 1] = f"{len(metas)} concepts, {len(parents)} parents"
    split = rows.loc[rows.index.repeat([len(pairs) for pairs in kept])].copy()
    split[both] = np.array([pair for pairs in kept for pair in pairs], dtype=object)
    return split, unequal


def prompts(name: str, templates: Sequence[str]) -> list[str]:
    """Put the name of a concept into every template, where its `{}` stands."""
    bad = [template for template in templates if template.count("{}") != 1]
    if bad:
        raise ParameterError(f"templates must hold {{}} exactly once; got {bad[0]!r}.")
    return [template.replace("{}", name) for template in templates]

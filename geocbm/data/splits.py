"""Splits that do not leak: what shows the same place or the same picture stays on one side.

Rows are joined into groups that share a panorama, an image or, in spatial splits, a block of ground. Whole groups are
then handed out meta by meta, the rarest first, so that every concept is met in training. A split that leaves a country
out gives all its groups to test beforehand.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import read_json, remake_advice, write_json
from geocbm.geodesy import EARTH_RADIUS_KM, latlng_to_cartesian, spatial_blocks
from geocbm.metrics.country_names import country_name

KINDS = ("stratified", "spatial", "leave_country_out")
"""Kinds of split that `make_splits` knows."""

SPLIT_NAMES = ("train", "val", "test", "pretrain_train", "pretrain_val")


def linked_groups(table: pd.DataFrame, block: np.ndarray | None = None) -> np.ndarray:
    """Number the groups of rows linked by a `pano_id`, by identical image content or by a block.

    Args:
        table: needs `pano_id`; `image_sha256` is used where it is filled.
        block: `[n]` block of each row, or None.

    Returns:
        `[n]` group numbers counted from 0: connected components, so that links chain.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(table)
    keys = [pd.factorize(table["pano_id"])[0]]
    if "image_sha256" in table:
        keys.append(pd.factorize(table["image_sha256"].replace("", None))[0])
    if block is not None:
        keys.append(block)
    rows, nodes, first = [], [], n
    for key in keys:
        known = key >= 0
        rows.append(np.flatnonzero(known))
        nodes.append(key[known] + first)
        first += int(key.max(initial=-1)) + 1
    left, right = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_matrix((np.ones(len(left), dtype=np.int8), (left, right)), shape=(first, first))
    return np.unique(connected_components(graph, directed=False)[1][:n], return_inverse=True)[1]


@dataclass(frozen=True)
class _Members:
    """Groups and metas of some rows: which meta has how many rows in which group."""

    group_key: list[str]  # a name for each group that does not depend on the order of rows
    groups_of: dict[str, list[int]]  # meta -> its groups
    rows_of: list[dict[str, int]]  # group -> meta -> rows


def _members(group: np.ndarray, pano_id: pd.Series, meta: pd.Series) -> _Members:
    code, names = pd.factorize(pano_id.to_numpy(), sort=True)
    frame = pd.DataFrame({"group": group, "code": code, "meta": meta.to_numpy()})
    key = names[frame.groupby("group")["code"].min().sort_index().to_numpy()].tolist()
    groups_of: dict[str, list[int]] = {}
    rows_of: list[dict[str, int]] = [{} for _ in key]
    counts = frame.groupby(["group", "meta"], sort=True).size().reset_index(name="rows")
    for number, name, count in zip(counts["group"].tolist(), counts["meta"], counts["rows"].tolist(), strict=True):
        groups_of.setdefault(name, []).append(number)
        rows_of[number][name] = count
    return _Members(key, groups_of, rows_of)


def _draw(seed: int, purpose: str, name: str) -> str:
    """A reproducible lottery ticket for a name, independent of every other name."""
    return hashlib.sha256(f"{seed}|{purpose}|{name}".encode()).hexdigest()


def _allocate(members: _Members, fractions: Sequence[float], seed: int, purpose: str) -> np.ndarray:
    """Hand whole groups to parts.

    A meta's next group goes to the part that lacks most of its share of the meta, corrected by what the part lacks
    overall, so that many small metas do not all round the same way. The first group of a meta goes to part 0.

    Returns:
        `[n_groups]` the part of each group.
    """
    allocation = _Allocation(members, fractions, [_draw(seed, purpose, key) for key in members.group_key])
    order = sorted(members.groups_of, key=lambda meta: (len(members.groups_of[meta]), _draw(seed, purpose, meta)))
    for meta in order:
        allocation.hand_out(meta)
    for meta in order:
        allocation.leave_none_without_first_part(meta)
    return np.array(allocation.part)


class _Allocation:
    """Groups handed to parts so far; plain lists, for a call of NumPy per group would take most of the time."""

    def __init__(self, members: _Members, fractions: Sequence[float], tickets: list[str]) -> None:
        self.members, self.fractions, self.tickets = members, fractions, tickets
        self.part = [-1] * len(tickets)
        self.held = {meta: [0.0] * len(fractions) for meta in members.groups_of}
        self.lacking = [0.0] * len(fractions)  # of all rows handed out with a choice: share minus what the part got

    def give(self, group: int, to: int, chosen: bool) -> None:
        """Hand a group to a part, by a choice or because it had to be."""
        self.part[group] = to
        for meta, count in self.members.rows_of[group].items():
            self.held[meta][to] += count
            if chosen:
                for index, fraction in enumerate(self.fractions):
                    self.lacking[index] += fraction * count
                self.lacking[to] -= count

    def hand_out(self, meta: str) -> None:
        """Hand out all groups of a meta that no other meta has handed out before."""
        groups, rows_of, own = self.members.groups_of[meta], self.members.rows_of, self.held[meta]
        total = sum(rows_of[group][meta] for group in groups)
        few = len(groups) < len(self.fractions)
        waiting = [group for group in groups if self.part[group] < 0]
        for group in sorted(waiting, key=lambda group: (-rows_of[group][meta], self.tickets[group])):
            if own[0] == 0:
                self.give(group, 0, chosen=not few)
            elif few:
                self.give(group, 1, chosen=False)
            else:
                self.give(group, _most_wanting(self.fractions, total, own, self.lacking), chosen=True)

    def leave_none_without_first_part(self, meta: str) -> None:
        """Where all groups of a meta were handed out for the sake of others: take the one with fewest rows back."""
        if self.held[meta][0]:
            return
        rows_of, tickets = self.members.rows_of, self.tickets
        group = min(self.members.groups_of[meta], key=lambda each: (sum(rows_of[each].values()), tickets[each]))
        for name, count in rows_of[group].items():
            self.held[name][self.part[group]] -= count
        self.give(group, 0, chosen=False)


def _most_wanting(fractions: Sequence[float], total: int, own: Sequence[float], lacking: Sequence[float]) -> int:
    """The part that lacks most of its share of a meta with `total` rows, of which each part has `own`."""
    most = max(1.0, 0.1 * total)  # the correction by what a part lacks overall moves this much of a meta at most
    # Rounded, so that shares that are equal on paper tie and the overall lack decides.
    wish = [
        round(fraction * total - held + max(-most, min(most, lack)), 9)
        for fraction, held, lack in zip(fractions, own, lacking, strict=True)
    ]
    return max(range(len(wish)), key=lambda index: (wish[index], lacking[index]))


def _groups_of_country(table: pd.DataFrame, group: np.ndarray, country: str) -> np.ndarray:
    """Whether each row belongs to a group with a row of the country, `[n]`.

    Raises:
        ParameterError: the table has no such country, or nothing else.
    """
    names = sorted(set(table["country"].astype(str)))
    if country not in names:
        country = country_name(country) or country  # "USA" is "United States" in every table
    if country not in names:
        near = difflib.get_close_matches(country, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
        raise ParameterError(
            f"country is {country!r}, which the table does not have; {hint}Its countries are: {listed}."
        )
    held_out = np.isin(group, group[(table["country"].astype(str) == country).to_numpy()])
    if held_out.all():
        raise ParameterError(
            f"country is {country!r}: without it and what shares its panoramas or pictures no row is left to train on; "
            "choose another country."
        )
    return held_out


def make_splits(
    table: pd.DataFrame,
    kind: str = "stratified",
    seed: int = 0,
    block_km: float = 1.0,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    pretrain_fraction: float = 0.9,
    country: str = "",
) -> dict[str, list[str]]:
    """Split panoramas 70/15/15 by meta (specification, section Train/Val/Test Splits).

    Rows that share a `pano_id` or byte-identical images are never parted. A meta with a single such group of rows goes
    to train, with two to train and val, and every meta is in train. The answer depends on the seed and on the content
    of the table, not on the order of its rows.

    With "leave_country_out", test is the country: all its rows, and rows elsewhere that share a panorama or a picture
    with one of them. The rest is divided between train and val in the proportion of their shares. Metas of that
    country alone are then in test only.

    Args:
        table: as `load_table` gives it.
        kind: "stratified", "spatial" to keep blocks of ground together as well, or "leave_country_out".
        seed: seed of the draw.
        block_km: side of a block in km, for "spatial".
        fractions: shares of train, val and test; they sum to 1.
        pretrain_fraction: share of train that Stage 0 trains on; the rest is its validation split.
        country: the country that makes the test split, for "leave_country_out".

    Returns:
        Sorted `pano_id`s of `train`, `val`, `test`, `pretrain_train`, `pretrain_val`. Parts can be empty only where
        metas are too rare to fill them.

    Raises:
        ParameterError: an argument has an impossible value, or the table lacks the country.
    """
    if kind not in KINDS:
        raise ParameterError(f"kind is {kind!r}; choose one of {', '.join(map(repr, KINDS))}.")
    if (kind == "leave_country_out") != bool(country):
        raise ParameterError(
            f"country is {country!r} with kind {kind!r}; give one with 'leave_country_out' and with no other kind."
        )
    if len(fractions) != 3 or min(fractions) < 0 or not fractions[0] > 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ParameterError(f"fractions is {tuple(fractions)}; give the shares of train, val and test, summing to 1.")
    if not 0 < pretrain_fraction <= 1:
        raise ParameterError(f"pretrain_fraction is {pretrain_fraction}; give a share above 0 and up to 1.")
    if table.empty:
        raise ParameterError("table has no rows: there is nothing to split.")
    block = spatial_blocks(table["lat"].to_numpy(), table["lng"].to_numpy(), block_km) if kind == "spatial" else None
    group = linked_groups(table, block)
    part = np.full(len(table), 2)
    shared = np.ones(len(table), dtype=bool)  # rows that are handed out by share
    if kind == "leave_country_out":
        shared = ~_groups_of_country(table, group, country)
        kept = fractions[0] + fractions[1]
        fractions = (fractions[0] / kept, fractions[1] / kept, 0.0)
    own = np.unique(group[shared], return_inverse=True)[1]
    members = _members(own, table["pano_id"][shared], table["meta_name"][shared])
    part[shared] = _allocate(members, fractions, seed, "split")[own]
    ids = table["pano_id"].to_numpy()
    splits = {name: sorted(set(ids[part == number])) for number, name in enumerate(("train", "val", "test"))}

    inside = part == 0
    train = table[inside]
    group = np.unique(group[inside], return_inverse=True)[1]
    members = _members(group, train["pano_id"], train["meta_name"])
    chosen = _allocate(members, (pretrain_fraction, 1 - pretrain_fraction), seed, "pretrain")
    if pretrain_fraction < 1 and len(chosen) > 1 and not chosen.any():
        # Too few rows for any meta to spare one; a stage cannot do without a validation split.
        chosen[min(range(len(chosen)), key=lambda g: _draw(seed, "spare", members.group_key[g]))] = 1
    ids = train["pano_id"].to_numpy()
    splits["pretrain_train"] = sorted(set(ids[chosen[group] == 0]))
    splits["pretrain_val"] = sorted(set(ids[chosen[group] == 1]))
    return splits


def require_test_split(splits: Mapping[str, Sequence[str]], training_only: bool = False) -> None:
    """Refuse splits on which nothing could be measured.

    Args:
        splits: as `make_splits` gives them.
        training_only: whether the run is to train and no more, so that val and test may be empty.

    Raises:
        ParameterError: val or test is empty.
    """
    empty = [name for name in ("val", "test") if not splits[name]]
    if empty and not training_only:
        raise ParameterError(
            f"The {' and the '.join(empty)} split would be empty: concepts are too rare to spare an image. Give a "
            "table with at least three images of a concept, or set training_only=True for a run that nothing measures."
        )


def save_splits(
    splits: Mapping[str, Sequence[str]], path: str | Path, table: pd.DataFrame, kind: str, seed: int, **settings: Any
) -> None:
    """Write splits as JSON together with the hash of the CSV they belong to.

    Args:
        splits: as `make_splits` gives them.
        path: the file, `splits.json` in the folder of a run.
        table: the table that was split; its `attrs["csv_sha256"]` is stored.
        kind: kind of split.
        seed: seed of the draw.
        settings: further settings to note down, such as `block_km`; empty texts are left out.
    """
    write_json(
        path,
        {
            "csv_sha256": table.attrs["csv_sha256"],
            "kind": kind,
            "seed": seed,
            "settings": {name: value for name, value in settings.items() if value != ""},
            "counts": {name: len(splits[name]) for name in SPLIT_NAMES},
            "splits": {name: list(splits[name]) for name in SPLIT_NAMES},
        },
    )


def load_splits(path: str | Path, table: pd.DataFrame) -> dict[str, list[str]]:
    """Read splits and make sure that they belong to this table.

    Raises:
        MissingInputError: there is no such file.
        MismatchError: it was made from another CSV, or is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise MissingInputError(f"There are no splits at {path}. {remake_advice(path, '01')}")
    try:
        content = read_json(path)
        splits = {name: list(content["splits"][name]) for name in SPLIT_NAMES}
        made_from = content["csv_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise MismatchError(f"{path} is not a file of splits. {remake_advice(path, '01')}") from error
    if made_from != table.attrs["csv_sha256"]:
        raise MismatchError(
            f"{path} was made from another CSV (its hash begins {made_from[:12]}, that of the table in use "
            f"{table.attrs['csv_sha256'][:12]}). {remake_advice(path, '01')}"
        )
    split_rows(splits, table)
    return splits


def split_rows(splits: Mapping[str, Sequence[str]], table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Positions of the rows of each split, ascending.

    Raises:
        MismatchError: a split names a `pano_id` that the table does not have, or misses one that it has.
    """
    ids = table["pano_id"]
    known = set(ids)
    placed: set[str] = set()
    for name, members in splits.items():
        absent = [pano for pano in members if pano not in known]
        if absent:
            raise MismatchError(
                f"Split {name!r} names {len(absent)} pano_ids that the table lacks, such as {absent[0]!r}. "
                "Make the splits again from this table with notebook 01."
            )
        placed.update(members)
    if {"train", "val", "test"} <= set(splits) and known - placed:
        raise MismatchError(
            f"{len(known - placed)} pano_ids of the table are in no split, such as {min(known - placed)!r}. "
            "Make the splits again from this table with notebook 01."
        )
    return {name: np.flatnonzero(ids.isin(set(members))) for name, members in splits.items()}


def nearest_train_km(table: pd.DataFrame, splits: Mapping[str, Sequence[str]], name: str = "test") -> np.ndarray:
    """Distance from each row of a split to the nearest row of train: how much a split leaks.

    Args:
        table: the table that was split.
        splits: as `make_splits` gives them.
        name: the split to measure.

    Returns:
        `[rows of the split]` km, in the order of the table.
    """
    from scipy.spatial import cKDTree

    if name not in splits:
        raise ParameterError(f"name is {name!r}; choose one of {', '.join(splits)}.")
    rows = split_rows(splits, table)
    points = latlng_to_cartesian(table["lat"].to_numpy(), table["lng"].to_numpy())  # (n, 3)
    if not len(rows[name]):
        return np.zeros(0)
    chord, _ = cKDTree(points[rows["train"]]).query(points[rows[name]])
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2, 0, 1))

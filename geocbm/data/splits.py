"""Splits that do not leak: what shows the same place or the same picture stays on one side.

Rows are joined into groups that share a panorama, an image or, in spatial splits, a block of ground. Whole groups are
then handed out meta by meta, the rarest first, so that every concept is met in training. A split that leaves a country
out gives all its groups to test beforehand.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from geocbm.data.concepts import GUESSED, UNKNOWN
from geocbm.errors import MismatchError, ParameterError, check_choice, cut_middle, did_you_mean
from geocbm.files import SEAL, lineage, run_command, write_json
from geocbm.files.stored import opened
from geocbm.geodesy import EARTH_RADIUS_KM, latlng_to_cartesian, spatial_blocks
from geocbm.metrics.country_names import country_name

KINDS = ("stratified", "spatial", "leave_country_out")
SPLIT_NAMES = ("train", "val", "test", "pretrain_train", "pretrain_val")
MOST_NAMED = 100_000
"""Rows of a table whose `splits.json` names each panorama, for people; of five million the names would take 230 MB."""


def linked_groups(table: pd.DataFrame, pano: np.ndarray, block: np.ndarray | None = None) -> np.ndarray:
    """Smallest panorama `[n]` of the group of each row: panorama, filled `image_sha256` or block link rows, in chains.

    `pano` `[n]` are the panoramas, numbered in ascending order of their names.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n_names = int(pano.max()) + 1
    image = pd.factorize(table["image_sha256"].replace("", None))[0] if "image_sha256" in table else None
    first, edges = n_names, [np.zeros((2, 0), dtype=np.int64)]  # of a graph of panoramas and of what they share
    for key in (image, block):
        if key is not None:
            rows = np.flatnonzero(key >= 0)
            rows = rows[np.bincount(key[rows])[key[rows]] > 1]  # what one row has links nothing
            shared, different = pd.factorize(key[rows])
            edges.append(np.stack([pano[rows], shared + first]))
            first += len(different)
    ends = np.concatenate(edges, axis=1)
    graph = coo_matrix((np.ones(ends.shape[1], dtype=np.int8), tuple(ends)), shape=(first, first))
    component = connected_components(graph, directed=False)[1][:n_names]
    return np.unique(component, return_index=True)[1][component][pano]


def _draw(seed: int, purpose: str, name: str) -> bytes:
    """A reproducible lottery ticket for a name."""
    return hashlib.sha256(f"{seed}|{purpose}|{name}".encode()).digest()


class _Allocation:
    """Whole groups of rows `[n]`, numbers of names, handed to parts; groups and metas ascend by their names.

    A meta's next group goes to the part that lacks most of its share of the meta, corrected by what the part lacks
    overall, so that many small metas do not all round the same way. The first group of a meta goes to part 0.
    """

    def __init__(
        self, group: np.ndarray, names: np.ndarray, meta: pd.Series, fractions: Sequence[float], seed: int, purpose: str
    ) -> None:
        of_row, used = pd.factorize(group, sort=True)
        own, self.metas = pd.factorize(meta, sort=True)
        pairs, self.rows = np.unique(of_row * len(self.metas) + own, return_counts=True)  # (pairs,) each
        self.group, self.meta = np.divmod(pairs, len(self.metas))
        self.first = np.searchsorted(self.group, np.arange(len(used) + 1))  # of each group's pairs
        # The first half of a ticket orders as all of it does: no two are alike.
        tickets = bytearray()
        for name in names[used]:
            tickets += _draw(seed, purpose, name)[:16]
        self.ticket = np.frombuffer(tickets, ">u8").reshape(-1, 2)
        self.of_row, self.fractions = of_row, fractions
        self.lot = [_draw(seed, purpose, str(name)) for name in self.metas]
        self.part = np.full(len(used), -1, dtype=np.int8)
        self.held = [[0.0] * len(fractions) for _ in self.metas]
        self.lacking = [0.0] * len(fractions)  # of all rows handed out with a choice: share minus what the part got
        by_meta = np.argsort(self.meta, kind="stable")
        self.pairs_of = np.split(by_meta, np.searchsorted(self.meta[by_meta], np.arange(1, len(self.metas))))

    def parts(self) -> np.ndarray:
        """Hand all groups out, the rarest metas first: part of each row, `[n]`."""
        order = sorted(range(len(self.metas)), key=lambda each: (len(self.pairs_of[each]), self.lot[each]))
        for each in order:
            self.hand_out(each)
        for each in order:
            self.leave_none_without_first_part(each)
        return self.part[self.of_row]

    def give(self, metas: Sequence[int], counts: Sequence[int], to: int, chosen: bool) -> None:
        """Hand a group with so many rows of each meta to a part, by a choice or because it had to be."""
        for meta, count in zip(metas, counts, strict=True):
            self.held[meta][to] += count
            if chosen:
                for index, fraction in enumerate(self.fractions):
                    self.lacking[index] += fraction * count
                self.lacking[to] -= count

    def hand_out(self, meta: int) -> None:
        """Hand out all groups of a meta that no other meta has handed out before."""
        pairs, held = self.pairs_of[meta], self.held[meta]
        few, total = len(pairs) < len(self.fractions), int(self.rows[pairs].sum())
        pairs = pairs[self.part[self.group[pairs]] < 0]
        groups = self.group[pairs]
        order = np.lexsort((*self.ticket[groups].T[::-1], -self.rows[pairs]))
        pairs, groups = pairs[order], groups[order]
        parts = np.empty(len(groups), dtype=np.int8)
        spans = zip(self.rows[pairs].tolist(), self.first[groups], self.first[groups + 1], strict=True)
        for place, (count, first, end) in enumerate(spans):
            to = 0 if held[0] == 0 else 1 if few else self._most_wanting(held, total)
            alone = end - first == 1  # most groups show one meta
            metas, counts = ([meta], [count]) if alone else (x[first:end].tolist() for x in (self.meta, self.rows))
            self.give(metas, counts, to, chosen=not few)
            parts[place] = to
        self.part[groups] = parts

    def _most_wanting(self, held: Sequence[float], total: int) -> int:
        """The part that lacks most of its share of a meta with `total` rows, of which parts have `held` so many."""
        most = max(1.0, 0.1 * total)  # the correction by what a part lacks overall moves this much of a meta at most
        # Rounded, so that shares that are equal on paper tie and the overall lack decides.
        wish = [
            (round(fraction * total - own + max(-most, min(most, lack)), 9), lack)
            for fraction, own, lack in zip(self.fractions, held, self.lacking, strict=True)
        ]
        return wish.index(max(wish))

    def leave_none_without_first_part(self, meta: int) -> None:
        """Where all groups of a meta were handed out for the sake of others: take the one with fewest rows back."""
        if self.held[meta][0]:
            return
        spans = [(self.first[group], self.first[group + 1], group) for group in self.group[self.pairs_of[meta]]]
        first, end, group = min(
            spans, key=lambda span: (self.rows[span[0] : span[1]].sum(), *self.ticket[span[2]].tolist())
        )
        metas, counts = self.meta[first:end].tolist(), self.rows[first:end].tolist()
        for name, count in zip(metas, counts, strict=True):
            self.held[name][self.part[group]] -= count
        self.give(metas, counts, 0, chosen=False)
        self.part[group] = 0


def _linked_to_country(table: pd.DataFrame, group: np.ndarray, country: str) -> np.ndarray:
    """Whether each row belongs to a group with a row of the country, `[n]`."""
    names = sorted(set(table["country"].astype(str)))
    if country not in names:
        country = country_name(country) or country  # "USA" is "United States" in every table
    if country not in names:
        listed = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
        raise ParameterError(
            f"country is {country!r}, which the table does not have; {did_you_mean(country, names)}Its countries are: "
            f"{listed}."
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
    """Split panoramas 70/15/15 by meta (specification, section Train/Val/Test Splits), or by country without labels.

    Rows that share a `pano_id` or byte-identical images are never parted. A meta with a single such group of rows goes
    to train, with two to train and val, and every meta is in train. The answer does not depend on the order of rows.

    With "leave_country_out", test is the country: all its rows, and rows elsewhere that share a panorama or a picture
    with one of them. The rest is divided between train and val in the proportion of their shares. Metas of that
    country alone are then in test only.

    Args:
        table: as `load_table` gives it.
        kind: "stratified", "spatial" to keep blocks of ground together as well, or "leave_country_out".
        seed: of the draw.
        block_km: side of a block, for "spatial".
        fractions: shares of train, val and test; they sum to 1.
        pretrain_fraction: share of train that Stage 0 trains on; the rest is its validation split.
        country: for "leave_country_out".

    Returns:
        Sorted `pano_id`s by `SPLIT_NAMES`. Parts can be empty only where metas are too rare to fill them.

    Raises:
        ParameterError: an argument has an impossible value, or the table lacks the country.
    """
    check_choice("kind", kind, KINDS)
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
    pano, names = _panoramas(table)
    meta, group = table["meta_name"], linked_groups(table, pano, block)
    unlabelled = (meta == UNKNOWN) | bool(table.attrs.get(GUESSED))
    if unlabelled.any():  # guesses are made after the split, which they must not change
        meta = meta.mask(unlabelled, table["country"])
    part = np.full(len(table), 2)
    shared = np.ones(len(table), dtype=bool)  # rows that are handed out by share
    if kind == "leave_country_out":
        shared = ~_linked_to_country(table, group, country)
        kept = fractions[0] + fractions[1]
        fractions = (fractions[0] / kept, fractions[1] / kept, 0.0)
    part[shared] = _Allocation(group[shared], names, meta[shared], fractions, seed, "split").parts()

    train = part == 0
    group = group[train]
    shares = (pretrain_fraction, 1 - pretrain_fraction)
    inner = _Allocation(group, names, meta[train], shares, seed, "pretrain").parts()
    if pretrain_fraction < 1 and len(used := np.unique(group)) > 1 and not inner.any():
        # Too few rows for any meta to spare one; a stage cannot do without a validation split.
        inner[group == min(used, key=lambda each: _draw(seed, "spare", str(names[each])))] = 1
    members = {name: pano[part == at] for at, name in enumerate(("train", "val", "test"))}
    members |= {f"pretrain_{name}": pano[train][inner == at] for at, name in enumerate(("train", "val"))}
    return {name: names[np.unique(own)].tolist() for name, own in members.items()}


def require_test_split(
    splits: Mapping[str, Sequence[str]], training_only: bool = False, table: pd.DataFrame | None = None
) -> None:
    """Raise `ParameterError` when val or test is empty, unless the run is to train and no more.

    So it is with a `table` of one concept in one country: no page from 06 on has anything to tell apart.
    """
    empty = [name for name in ("val", "test") if not splits[name]]
    if empty and not training_only:
        raise ParameterError(
            f"The {' and the '.join(empty)} split would be empty: concepts are too rare to spare an image. Give a "
            "table with at least three images of a concept, or set training_only=True for a run that nothing measures."
        )
    if table is None or training_only or (table["meta_name"] == UNKNOWN).any():
        return
    if table[["meta_name", "country"]].nunique().max() == 1:
        concept, country = (cut_middle(str(table[name].iloc[0]), 60) for name in ("meta_name", "country"))
        raise ParameterError(
            f"All rows show one concept ({concept!r}) in one country ({country!r}): pages 06 to 09 have nothing to "
            "tell apart. Give a table with a second concept or country, or set training_only=True for a run that "
            "nothing measures."
        )


def save_splits(
    splits: Mapping[str, Sequence[str]],
    path: str | Path,
    table: pd.DataFrame,
    kind: str,
    seed: int,
    block_km: float = 1.0,
    held_out_country: str = "",
) -> None:
    """Write splits and the settings of `make_splits` as JSON, with the hash of the CSV they belong to.

    Of a table of more than `MOST_NAMED` rows no panorama is named: a byte says in which splits each row is.
    """
    held_out = {"held_out_country": held_out_country} if held_out_country else {}
    content = {"kind": kind, "seed": seed, "settings": {"block_km": block_km} | held_out}
    content["csv_sha256"] = table.attrs["csv_sha256"]
    content["counts"] = {name: len(splits[name]) for name in SPLIT_NAMES}
    if len(table) <= MOST_NAMED:
        write_json(path, content | {"splits": {name: list(splits[name]) for name in SPLIT_NAMES}})
        return
    within, rows = np.zeros((len(table), len(SPLIT_NAMES)), dtype=bool), split_rows(splits, table)
    for at, name in enumerate(SPLIT_NAMES):
        within[rows[name], at] = True
    packed = base64.b64encode(np.packbits(within, axis=1).tobytes()).decode()
    named = lineage.table_digest(table[["pano_id"]])
    write_json(path, content | {"packed": packed, "pano_id_sha256": named, SEAL: ""})


def load_splits(path: str | Path, table: pd.DataFrame) -> dict[str, list[str]]:
    """Read splits; those that were made from another table are a MismatchError."""
    remedy = partial(run_command, Path(path).parent, "01")
    with opened(path, remedy) as content:
        made_from = str(content["csv_sha256"])
        if made_from != table.attrs["csv_sha256"]:
            raise MismatchError(
                f"{path} was made from another CSV (its hash begins {made_from[:12]}, that of the table in use "
                f"{table.attrs['csv_sha256'][:12]}). Run notebook 01 again: {remedy()}."
            )
        splits = _unpacked(content, table) if "packed" in content else content["splits"]
        splits = {name: list(splits[name]) for name in SPLIT_NAMES}
        split_rows(splits, table)
    return splits


def _unpacked(content: Mapping[str, str], table: pd.DataFrame) -> dict[str, list[str]]:
    """Splits of which `save_splits` wrote a byte for each row."""
    if content["pano_id_sha256"] != lineage.table_digest(table[["pano_id"]]):
        raise ValueError("it was made from other rows than the table has now")
    packed = np.frombuffer(base64.b64decode(content["packed"], validate=True), dtype=np.uint8)
    within = np.unpackbits(packed.reshape(len(table), 1), axis=1).astype(bool)
    pano, names = _panoramas(table)
    return {name: names[np.unique(pano[within[:, at]])].tolist() for at, name in enumerate(SPLIT_NAMES)}


def _panoramas(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Number of the panorama of each row `[n]`, and their names in ascending order, texts that all lists may share."""
    pano, names = pd.factorize(table["pano_id"], sort=True)
    return pano, names.to_numpy(dtype=object)


def split_rows(splits: Mapping[str, Sequence[str]], table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Positions of the rows of each split, ascending; splits and table must have the same `pano_id`s."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pano, names = pd.factorize(table["pano_id"])
    named = pa.array(chain.from_iterable(splits.values()), pa.large_string())
    places = pc.index_in(named, value_set=pa.array(names, pa.large_string()))
    masks, end, again = {}, 0, "Make the splits again from this table with notebook 01."
    for name, members in splits.items():
        end, found = end + len(members), places[end : end + len(members)]
        if found.null_count:
            absent = members[found.to_pylist().index(None)]
            lacks = f"names {found.null_count} pano_ids that the table lacks, such as {absent!r}"
            raise MismatchError(f"Split {name!r} {lacks}. {again}")
        masks[name] = np.zeros(len(names), dtype=bool)
        masks[name][found.to_numpy()] = True
    left = names[~np.any([*masks.values()], axis=0)] if masks else names
    if len(left) and {"train", "val", "test"} <= set(splits):
        raise MismatchError(f"{len(left)} pano_ids of the table are in no split, such as {min(left)!r}. {again}")
    return {name: np.flatnonzero(mask[pano]) for name, mask in masks.items()}


def nearest_train_km(table: pd.DataFrame, splits: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Distance from each row of test to the nearest row of train, `[rows of test]` km: how much a split leaks."""
    from scipy.spatial import cKDTree

    rows = split_rows(splits, table)
    points = latlng_to_cartesian(table["lat"].to_numpy(), table["lng"].to_numpy())  # (n, 3)
    if not len(rows["test"]):
        return np.zeros(0)
    chord, _ = cKDTree(points[rows["train"]]).query(points[rows["test"]])
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2, 0, 1))

"""Localization: does the map of a concept point at the concept? Held against boxes, chance and the picture's middle.

The pointing game (Zhang et al. 2018, "Top-down neural attention by excitation backprop") asks whether the maximum of a
map lies on the object. A patch is a hit if a box of the concept meets it; that one rule holds for maps, for the middle
and for chance, which is the share of patches that are hits. Strictly counted, the middle of the patch must lie in a
box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geocbm.data import image_files
from geocbm.data.images.photographs import open_picture
from geocbm.data.simulated import has_ground_truth, load_ground_truth
from geocbm.encoders import ImageEncoder
from geocbm.encoders.preprocessing import crop_window
from geocbm.errors import ParameterError
from geocbm.explain.maps import MAP_KINDS, SHARE, MapModel, concept_maps
from geocbm.metrics import Estimate, Resamples, entry_of, estimates_by_group, recordables, spatial_blocks
from geocbm.run import Run

Box = tuple[float, float, float, float]

SMALL = 0.15
"""Concepts that chance would hit more often than this do not count in the headline."""

EDGE = 0.02
"""A box must reach this far into a patch, in sides of a patch, to meet it: boxes are stored with four decimals."""

SAMPLES = 8  # places per side of a patch at which the covered area is looked up
HEADLINE = "labelled, small"
KEYS = {"hit": "pointing_game", "strict": "pointing_strict", "mass": "mass_ratio"}
"""Columns of a table of hits and the metrics of the headline that they give."""

CONCEPT, ATTENTION, CENTRE, CHANCE = "concept map", "attention", "middle of the picture", "a random patch"


@dataclass(frozen=True)
class ConceptBoxes:
    """Pictures and concepts that can truly be seen in them, one pair a line, as the model's crop and grid see them."""

    position: np.ndarray  # [n] of the picture among the rows that were asked for
    row: np.ndarray  # [n] of the table
    meta: np.ndarray  # [n] the concept
    labelled: np.ndarray  # [n] whether it is the picture's label
    largest: np.ndarray  # [n, 4] its largest box x0, y0, x1, y1 in parts of what the model sees
    touched: np.ndarray  # [n, P] patches that a box of the concept meets
    centred: np.ndarray  # [n, P] patches whose middle lies in a box
    inside: np.ndarray  # [n, P] share of each patch that lies in the boxes

    def __len__(self) -> int:
        return len(self.row)

    @property
    def chance(self) -> np.ndarray:
        """`[n]` probability that a patch drawn at random is met by a box."""
        return self.touched.mean(axis=1)

    def at(self, chosen: np.ndarray) -> ConceptBoxes:
        """Some of the pairs, by mask or position."""
        return ConceptBoxes(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def box(self, row: int, meta: int) -> Box | None:
        """The largest box of a concept in a picture; None where the model sees none."""
        found = self.largest[(self.row == row) & (self.meta == meta)]
        return tuple(found[0].tolist()) if len(found) else None


def boxes_in_window(boxes: Sequence[Sequence[float]], window: Box) -> np.ndarray:
    """Boxes in parts of a picture as boxes in parts of a window of it, `[m, 4]`; those outside are left out."""
    x0, y0, x1, y1 = window
    given = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    moved = ((given - [x0, y0, x0, y0]) / [x1 - x0, y1 - y0, x1 - x0, y1 - y0]).clip(0.0, 1.0)
    return moved[(moved[:, 2:] > moved[:, :2]).all(axis=1)]


def covered_patches(boxes: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches `[P]` that boxes `[m, 4]` meet, whose middle they hold, and the share of each patch that lies in them."""
    n_rows, n_columns = grid
    x0, y0, x1, y1 = boxes.T
    touched = _in_any_box(_meets(y0, y1, n_rows), _meets(x0, x1, n_columns))
    centred = _in_any_box(_holds(y0, y1, n_rows), _holds(x0, x1, n_columns))
    fine = _in_any_box(_holds(y0, y1, n_rows * SAMPLES), _holds(x0, x1, n_columns * SAMPLES))
    inside = fine.reshape(n_rows, SAMPLES, n_columns, SAMPLES).mean(axis=(1, 3))
    return touched.reshape(-1), centred.reshape(-1), inside.reshape(-1)


def _in_any_box(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cells of a grid `[h, w]` that are in any of m boxes, from the rows `[m, h]` and columns `[m, w]` of each."""
    return (rows[:, :, None] & columns[:, None, :]).any(axis=0)


def _meets(low: np.ndarray, high: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` equal steps from 0 to 1 intervals `[m]` meet by more than `EDGE` of a step, `[m, count]`."""
    steps = np.arange(count)
    # What is thinner than the edge still meets the step that holds it.
    edge = np.minimum(EDGE, (high - low) * count / 4)[:, None]
    return (low[:, None] * count < steps + 1 - edge) & (high[:, None] * count > steps + edge)


def _holds(low: np.ndarray, high: np.ndarray, count: int) -> np.ndarray:
    """Of which of `count` equal steps from 0 to 1 intervals `[m]` hold the middle, `[m, count]`."""
    middles = (np.arange(count) + 0.5) / count
    return (low[:, None] <= middles) & (middles <= high[:, None])


def concept_boxes(run: Run, encoder: ImageEncoder, rows: np.ndarray) -> ConceptBoxes | None:
    """Some pictures with every concept in the part that the model sees; None without ground truth of where they are."""
    folder = run.table.attrs["folder"]
    if not has_ground_truth(folder):
        return None
    truth, names = load_ground_truth(folder), {name: i for i, name in enumerate(run.concepts.metas)}
    pano_id, labels, paths = run.table["pano_id"].to_numpy(), run.labels_at(np.asarray(rows)), image_files(run.table)
    windows: dict[tuple[int, int], Box] = {}
    found, largest, covers = [], [], []
    for position, row in enumerate(np.asarray(rows, dtype=np.int64).tolist()):
        size = open_picture(paths[row]).size
        if size not in windows:
            windows[size] = crop_window(encoder, size)
        for concept in truth[pano_id[row]]["concepts"]:
            meta = names.get(concept["meta_name"])
            boxes = concept.get("boxes") or [concept["box"]]
            if any(len(box) != 4 for box in boxes):
                raise ParameterError(
                    f"{pano_id[row]}: a box of {concept['meta_name']!r} has no four ends; give x0 y0 x1 y1"
                )
            seen = boxes_in_window(boxes, windows[size])
            if meta is not None and len(seen):
                found.append((position, row, meta, labels[position, meta]))
                largest.append(seen[np.prod(seen[:, 2:] - seen[:, :2], axis=1).argmax()])
                covers.append(covered_patches(seen, encoder.grid))
    columns = np.array(found, dtype=np.int64).reshape(-1, 4).T
    n_patches = encoder.grid[0] * encoder.grid[1]
    touched, centred, inside = (np.array([cover[i] for cover in covers]).reshape(-1, n_patches) for i in range(3))
    corners = np.array(largest).reshape(-1, 4)
    return ConceptBoxes(columns[0], columns[1], columns[2], columns[3] > 0, corners, touched > 0, centred > 0, inside)


@dataclass(frozen=True)
class Localization:
    """What maps point at.

    `table` has a row for each group and map: `group, way, pairs, concepts`, and `hit`, `strict` (shares) and `mass`
    (times the concept's area) with `_low` and `_high`; `concepts` one for each concept that is a label: `concept,
    parent, pairs`, `named` (share named first), and hits by map as `hit CONCEPT` and so on; labelled pairs only.
    """

    table: pd.DataFrame
    concepts: pd.DataFrame

    def estimate(self, way: str, group: str = HEADLINE, name: str = "hit") -> Estimate | None:
        """A metric with its interval, NaN where blocks are too few for one; None where nothing was measured."""
        own = self.table[(self.table["group"] == group) & (self.table["way"] == way)]
        if not len(own) or not np.isfinite(float(own.iloc[0][name])):
            return None
        return {end: float(number) for end, number in entry_of(own.iloc[0].to_dict(), name).items()}

    def astray(self) -> list[str]:
        """Concepts whose map hits no more often than a random patch does, where chance is below `SMALL`."""
        chance = self.concepts[f"hit {CHANCE}"]
        return self.concepts.loc[(chance < SMALL) & (self.concepts[f"hit {CONCEPT}"] <= chance), "concept"].tolist()


def points(touched: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Whether the maximum of each map `[n, P]`, or `[P]` for all, is a hit, `[n]` 0 or 1; of equal ones the first."""
    maps = np.broadcast_to(maps, touched.shape) if np.ndim(maps) == 1 else np.asarray(maps)
    if maps.shape != touched.shape or not np.isfinite(maps).all():
        raise ParameterError(f"maps has shape {maps.shape}; give finite maps of the shape {touched.shape}")
    return touched[np.arange(len(touched)), maps.argmax(axis=1)].astype(float)


def mass_ratio(inside: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Share of each map's mass in the boxes, by their share of the picture `[n]`; 1 is what an even map has.

    `inside` `[n, P]` is the share of each patch in the boxes, `maps` `[n, P]` or `[P]` are not negative. NaN for a map
    without mass or a box without area.
    """
    maps = np.broadcast_to(maps, inside.shape)
    total, area = maps.sum(axis=1), inside.mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((total > 0) & (area > 0), (maps * inside).sum(axis=1) / total / area, np.nan)


def choose_map_kind(model: MapModel) -> tuple[str, dict[str, float]]:
    """The kind of map that points best on the validation split, over all visible small concepts, and its share by kind.

    Without ground truth, or with one kind only, the default and nothing.
    """
    if model.kinds != MAP_KINDS:
        return model.kinds[-1], {}
    boxes = concept_boxes(model.run, model.encoder, model.run.pictures["val"])
    boxes = None if boxes is None else boxes.at(boxes.chance < SMALL)
    if boxes is None or not len(boxes):
        return SHARE, {}
    maps = {kind: concept_maps(model, boxes.row, boxes.meta, kind) for kind in model.kinds}
    share = {kind: float(points(boxes.touched, own).mean()) for kind, own in maps.items()}
    return max(share, key=lambda kind: share[kind]), share


def measure_localization(
    run: Run,
    boxes: ConceptBoxes,
    maps: Mapping[str, np.ndarray],
    named: np.ndarray,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Localization:
    """Ask every map where it points, and hold it against chance; intervals by blocks of 100 km.

    `maps` are by name `[n, P]`, or `[P]` for all `n` pairs, not negative; `named` `[n]` says whether the model
    named the concept of the pair first.
    """
    hits = {way: points(boxes.touched, own) for way, own in maps.items()} | {CHANCE: boxes.chance}
    strict = {way: points(boxes.centred, own) for way, own in maps.items()} | {CHANCE: boxes.centred.mean(axis=1)}
    mass = {way: mass_ratio(boxes.inside, own) for way, own in maps.items()}
    drawn = Resamples(spatial_blocks(run.lat[boxes.row], run.lng[boxes.row]), n_resamples, seed)
    small = boxes.chance < SMALL
    groups = {
        HEADLINE: boxes.labelled & small,
        "labelled, small, named": boxes.labelled & small & named,
        "labelled, small, not named": boxes.labelled & small & ~named,
        "visible, small": small,
        "labelled": boxes.labelled,
        "visible": np.ones(len(boxes), dtype=bool),
    }
    unknown = np.full(len(boxes), np.nan)  # nothing is measured of the mass of a random patch
    by_way = [
        estimates_by_group(drawn, groups, {"hit": hits[way], "strict": strict[way], "mass": mass.get(way, unknown)})
        .assign(way=way, concepts=lambda own: [len(np.unique(boxes.meta[groups[group]])) for group in own["group"]])
        .rename(columns={"n": "pairs"})
        for way in hits
    ]
    table = pd.concat(by_way).sort_values("group", key=lambda own: own.map(list(groups).index), kind="stable")
    first = ["group", "way", "pairs", "concepts"]
    table = table[[*first, *table.columns.drop(first)]].reset_index(drop=True)
    return Localization(table, _by_concept(run, boxes, named, hits))


def _by_concept(run: Run, boxes: ConceptBoxes, named: np.ndarray, hits: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Means over the labelled pairs of each concept, see `Localization.concepts`."""
    pairs = pd.DataFrame({"meta": boxes.meta, "named": named} | {f"hit {way}": own for way, own in hits.items()})
    groups = pairs[boxes.labelled].groupby("meta")
    means = groups.mean().astype(float)
    metas, parents = (np.array(names, dtype=object) for names in (run.concepts.metas, run.concepts.parents))
    means.insert(0, "pairs", groups.size())
    means.insert(0, "parent", parents[run.concepts.parent_index[means.index]])
    means.insert(0, "concept", metas[means.index])
    return means.reset_index(drop=True)


def localization_metrics(found: Localization | None) -> dict[str, float | Estimate]:
    """Metrics to keep: `pointing_game`, `pointing_chance`, `attention_pointing`, `centre_pointing` and more."""
    if found is None:
        return {}
    kept = {
        "pointing_chance": found.estimate(CHANCE),
        "attention_pointing": found.estimate(ATTENTION),
        "centre_pointing": found.estimate(CENTRE),
        "pointing_named": found.estimate(CONCEPT, "labelled, small, named"),
        "pointing_visible": found.estimate(CONCEPT, "visible, small"),
    }
    kept |= {key: found.estimate(CONCEPT, name=column) for column, key in KEYS.items()}
    return recordables({name: own for name, own in kept.items() if own is not None})

"""Localization: does the map of a concept point at the concept? Held against boxes, chance and the picture's middle.

The pointing game (Zhang et al. 2018, "Top-down neural attention by excitation backprop") asks whether the maximum of a
map lies on the object. A patch is a hit if a box of the concept meets it; that one rule holds for maps, for the middle
and for chance, which is the share of patches that are hits. Strictly counted, the middle of the patch must lie in a
box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.explain.boxes import ConceptBoxes, concept_boxes
from geocbm.explain.maps import MAP_KINDS, SHARE, MapModel, concept_maps
from geocbm.metrics import NOT_MEASURED, Estimate, Resamples, columns_of, entry_of, recordables, spatial_blocks

if TYPE_CHECKING:
    from geocbm.run import Run

SMALL = 0.15
"""Concepts that chance would hit more often than this do not count in the headline."""

HEADLINE = "labelled, small"
KEYS = {"hit": "pointing_game", "strict": "pointing_strict", "mass": "mass_ratio"}
"""Columns of a table of hits and the metrics of the headline that they give."""

CONCEPT, ATTENTION, CENTRE, CHANCE = "concept map", "attention", "middle of the picture", "a random patch"


@dataclass(frozen=True)
class Localization:
    """What maps point at.

    Attributes:
        table: a row for each group and map: `group, way, pairs, concepts`, and `hit`, `strict` (shares) and `mass`
            (times the concept's area) with `_low` and `_high`.
        concepts: a row for each concept that is a label: `concept, parent, pairs`, `named` (share named first), and
            hits by map as `hit CONCEPT` and so on; labelled pairs only.
    """

    table: pd.DataFrame
    concepts: pd.DataFrame

    def estimate(self, way: str, group: str = HEADLINE, name: str = "hit") -> Estimate | None:
        """A figure with its interval, NaN where blocks are too few for one; None where nothing was measured."""
        own = self.table[(self.table["group"] == group) & (self.table["way"] == way)]
        if not len(own) or not np.isfinite(float(own.iloc[0][name])):
            return None
        return {end: float(number) for end, number in entry_of(own.iloc[0].to_dict(), name).items()}

    def astray(self) -> list[str]:
        """Concepts whose map hits no more often than a random patch does, where chance is below `SMALL`."""
        chance = self.concepts[f"hit {CHANCE}"]
        return self.concepts.loc[(chance < SMALL) & (self.concepts[f"hit {CONCEPT}"] <= chance), "concept"].tolist()


def points(touched: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Whether the maximum of each map is a hit, `[n]` 0 or 1; the first of several equal ones counts.

    Args:
        touched: `[n, P]` which patches are hits.
        maps: `[n, P]`, or `[P]` for all.

    Raises:
        ParameterError: the shapes differ, or a map is not finite.
    """
    maps = np.broadcast_to(maps, touched.shape) if np.ndim(maps) == 1 else np.asarray(maps)
    if maps.shape != touched.shape or not np.isfinite(maps).all():
        raise ParameterError(f"maps has shape {maps.shape}; give finite maps of the shape {touched.shape}")
    return touched[np.arange(len(touched)), maps.argmax(axis=1)].astype(float)


def mass_ratio(inside: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Share of each map's mass in the boxes, by their share of the picture `[n]`; 1 is what an even map has.

    `inside` `[n, P]` is the share of each patch in the boxes, `maps` `[n, P]` or `[P]` are not negative. NaN for a map
    without mass or a box without area.
    """
    maps = np.broadcast_to(maps, inside.shape) if np.ndim(maps) == 1 else np.asarray(maps)
    total, area = maps.sum(axis=1), inside.mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((total > 0) & (area > 0), (maps * inside).sum(axis=1) / total / area, np.nan)


def choose_map_kind(model: MapModel) -> tuple[str, dict[str, float]]:
    """The kind of map that points best on the validation split, over all visible small concepts.

    Returns:
        The kind, and the share of hits by kind; without ground truth, or with one kind only, the default and nothing.
    """
    if model.kinds != MAP_KINDS:
        return model.kinds[-1], {}
    boxes = concept_boxes(model.run, model.encoder, model.run.rows["val"])
    boxes = None if boxes is None else boxes.at(boxes.chance < SMALL)
    if boxes is None or not len(boxes):
        return SHARE, {}
    share = {
        kind: float(points(boxes.touched, concept_maps(model, boxes.row, boxes.meta, kind)).mean())
        for kind in model.kinds
    }
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

    Args:
        run: the run.
        boxes: where concepts are in `n` pairs of picture and concept.
        maps: by name `[n, P]`, or `[P]` for all pairs; not negative.
        named: `[n]` whether the model named the concept of the pair first.
        n_resamples: behind each interval.
        seed: of the resamples.
    """
    hits = {way: points(boxes.touched, own) for way, own in maps.items()} | {CHANCE: boxes.chance}
    strict = {way: points(boxes.centred, own) for way, own in maps.items()} | {CHANCE: boxes.centred.mean(axis=1)}
    mass = {way: mass_ratio(boxes.inside, own) for way, own in maps.items()}
    resamples = Resamples(spatial_blocks(run.lat[boxes.row], run.lng[boxes.row]), n_resamples, seed)
    table = _group_table(boxes, named, {"hit": hits, "strict": strict, "mass": mass}, resamples)
    return Localization(table, _by_concept(run, boxes, named, hits))


def _group_table(
    boxes: ConceptBoxes, named: np.ndarray, figures: Mapping[str, Mapping[str, np.ndarray]], resamples: Resamples
) -> pd.DataFrame:
    small = boxes.chance < SMALL
    masks = {
        HEADLINE: boxes.labelled & small,
        "labelled, small, named": boxes.labelled & small & named,
        "labelled, small, not named": boxes.labelled & small & ~named,
        "visible, small": small,
        "labelled": boxes.labelled,
        "visible": np.ones(len(boxes), dtype=bool),
    }
    lines = []
    for group, mask in masks.items():
        for way in figures["hit"] if mask.any() else ():
            concepts = len(np.unique(boxes.meta[mask]))
            line: dict[str, object] = {"group": group, "way": way, "pairs": int(mask.sum()), "concepts": concepts}
            for name, by_way in figures.items():
                measured = way in by_way and np.isfinite(by_way[way][mask]).any()
                chosen = np.where(mask, by_way[way], np.nan) if measured else None
                line |= columns_of(name, NOT_MEASURED if chosen is None else resamples.estimate(chosen))
            lines.append(line)
    return pd.DataFrame(lines)


def _by_concept(run: Run, boxes: ConceptBoxes, named: np.ndarray, hits: Mapping[str, np.ndarray]) -> pd.DataFrame:
    lines = []
    for meta in np.unique(boxes.meta[boxes.labelled]):
        own = boxes.labelled & (boxes.meta == meta)
        line = {
            "concept": run.concepts.metas[meta],
            "parent": run.concepts.parents[run.concepts.parent_index[meta]],
            "pairs": int(own.sum()),
            "named": float(named[own].mean()),
        }
        lines.append(line | {f"hit {way}": float(values[own].mean()) for way, values in hits.items()})
    return pd.DataFrame(lines)


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
    return recordables({name: figure for name, figure in kept.items() if figure is not None})

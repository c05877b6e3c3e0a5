"""Does the map of a concept point at the concept? Held against boxes, chance and the middle of the picture.

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
from geocbm.explain.boxes import Pairs, true_pairs
from geocbm.explain.maps import MAP_KINDS, SHARE, centre_map, concept_maps, kinds_of_map
from geocbm.metrics import Resamples, figure_text, recordables, spatial_blocks

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.run import Run

Figure = dict[str, float]
SMALL = 0.15
"""Concepts that chance would hit more often than this do not count in the headline."""

HEADLINE = "labelled, small"
GROUPS = {
    HEADLINE: "the labelled concept, where chance is below 15 %",
    "labelled, small, named": "of these, where the model named it first",
    "labelled, small, not named": "of these, where it named another",
    "visible, small": "every visible concept, where chance is below 15 %",
    "labelled": "the labelled concept, whatever its size",
    "visible": "every visible concept, whatever its size",
}
CONCEPT, ATTENTION, CENTRE, CHANCE = "concept map", "attention", "middle of the picture", "a random patch"


@dataclass(frozen=True)
class Localisation:
    """What maps point at.

    Attributes:
        pairs: pictures and concepts that can be seen in them.
        named: `[n]` whether the model named the concept of the pair first.
        hits: by way, `[n]` shares: whether the maximum is a hit; for chance its probability.
        strict: the same, strictly counted.
        mass: by way, `[n]` share of the map's mass in the boxes by their share of the picture.
        table: a row for each group and way: `group, way, pairs, concepts`, and `hit`, `strict` and `mass` with `_low`
            and `_high`.
        concepts: a row for each concept that is a label: `concept, parent, pairs`, `named` (share named first), and
            hits by way as `hit CONCEPT` and so on; labelled pairs only.
    """

    pairs: Pairs
    named: np.ndarray
    hits: dict[str, np.ndarray]
    strict: dict[str, np.ndarray]
    mass: dict[str, np.ndarray]
    table: pd.DataFrame
    concepts: pd.DataFrame

    def figure(self, way: str, group: str = HEADLINE, name: str = "hit") -> Figure | None:
        """A figure with its interval, NaN where blocks are too few for one; None where nothing was measured."""
        own = self.table[(self.table["group"] == group) & (self.table["way"] == way)]
        if not len(own) or not np.isfinite(float(own.iloc[0][name])):
            return None
        row = own.iloc[0]
        return {"value": float(row[name]), "low": float(row[f"{name}_low"]), "high": float(row[f"{name}_high"])}


def points(touched: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Whether the maximum of each map is a hit; the first of several equal ones counts.

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
    """Share of each map's mass in the boxes, by their share of the picture; 1 is what an even map has.

    Args:
        inside: `[n, P]` share of each patch in the boxes.
        maps: `[n, P]` or `[P]`, not negative.

    Returns:
        `[n]`; NaN for a map without mass or a box without area.
    """
    maps = np.broadcast_to(maps, inside.shape) if np.ndim(maps) == 1 else np.asarray(maps)
    total, area = maps.sum(axis=1), inside.mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((total > 0) & (area > 0), (maps * inside).sum(axis=1) / total / area, np.nan)


def choose_kind(
    files: Run, encoder: ImageEncoder, model: Stage1ConceptModel, features: FeatureStore
) -> tuple[str, dict[str, float]]:
    """The kind of map that points best on the validation split, over all visible small concepts.

    Returns:
        The kind, and the share of hits by kind; without ground truth, or with one kind only, the default and nothing.
    """
    kinds = kinds_of_map(model)
    if kinds != MAP_KINDS:
        return kinds[-1], {}
    pairs = true_pairs(files, encoder, files.rows["val"])
    pairs = None if pairs is None else pairs.at(pairs.chance < SMALL)
    if pairs is None or not len(pairs):
        return SHARE, {}
    share = {
        kind: float(
            points(pairs.touched, concept_maps(files, encoder, model, features, pairs.row, pairs.meta, kind)).mean()
        )
        for kind in kinds
    }
    return max(share, key=lambda kind: share[kind]), share


def measure_localisation(
    files: Run,
    encoder: ImageEncoder,
    model: Stage1ConceptModel,
    features: FeatureStore,
    scores: np.ndarray,
    rows: np.ndarray,
    attention: np.ndarray | None = None,
    kind: str | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Localisation | None:
    """Ask every map where it points, and hold it against chance and the middle.

    Args:
        files: the run.
        encoder: the adapted encoder.
        model: Stage 1.
        features: the adapted features.
        scores: `[n, k_m]` probabilities of the concepts of all pictures.
        rows: `[m]` the pictures, of the test split.
        attention: `[m, P]` attention of Stage 2, mean over its heads; None, or without mass, where it asks no patch.
        kind: of the concept maps (`choose_kind`).
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of the resamples.

    Returns:
        None where the data does not know where concepts are, or there are no pictures.
    """
    pairs = true_pairs(files, encoder, rows)
    if pairs is None or not len(pairs):
        return None
    if kinds_of_map(model) != MAP_KINDS:  # a gradient for each pair is dear, so that only the labels are asked for
        pairs = pairs.at(pairs.labelled)
    maps = {CONCEPT: concept_maps(files, encoder, model, features, pairs.row, pairs.meta, kind)}
    if attention is not None and attention.size and np.ptp(attention) > 0:
        maps[ATTENTION] = attention[pairs.position]
    maps[CENTRE] = centre_map(encoder.grid)
    named = scores[pairs.row].argmax(axis=1) == pairs.meta
    hits = {way: points(pairs.touched, own) for way, own in maps.items()} | {CHANCE: pairs.chance}
    strict = {way: points(pairs.centred, own) for way, own in maps.items()} | {CHANCE: pairs.centred.mean(axis=1)}
    mass = {way: mass_ratio(pairs.inside, own) for way, own in maps.items()}
    resamples = Resamples(spatial_blocks(files.lat[pairs.row], files.lng[pairs.row]), n_resamples, seed)
    table = _group_table(pairs, named, {"hit": hits, "strict": strict, "mass": mass}, resamples)
    return Localisation(pairs, named, hits, strict, mass, table, _by_concept(files, pairs, named, hits))


def _group_table(
    pairs: Pairs, named: np.ndarray, figures: Mapping[str, Mapping[str, np.ndarray]], resamples: Resamples
) -> pd.DataFrame:
    small = pairs.chance < SMALL
    masks = {
        HEADLINE: pairs.labelled & small,
        "labelled, small, named": pairs.labelled & small & named,
        "labelled, small, not named": pairs.labelled & small & ~named,
        "visible, small": small,
        "labelled": pairs.labelled,
        "visible": np.ones(len(pairs), dtype=bool),
    }
    lines = []
    for group, mask in masks.items():
        for way in figures["hit"] if mask.any() else ():
            line: dict[str, object] = {
                "group": group,
                "way": way,
                "pairs": int(mask.sum()),
                "concepts": len(np.unique(pairs.meta[mask])),
            }
            for name, by_way in figures.items():
                interval = dict.fromkeys(("value", "low", "high"), float("nan"))
                if way in by_way and np.isfinite(by_way[way][mask]).any():
                    interval = resamples.figure(np.where(mask, by_way[way], np.nan))
                line |= {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
            lines.append(line)
    return pd.DataFrame(lines)


def _by_concept(files: Run, pairs: Pairs, named: np.ndarray, hits: Mapping[str, np.ndarray]) -> pd.DataFrame:
    lines = []
    for meta in np.unique(pairs.meta[pairs.labelled]):
        own = pairs.labelled & (pairs.meta == meta)
        line = {
            "concept": files.concepts.metas[meta],
            "parent": files.concepts.parents[files.concepts.parent_index[meta]],
            "pairs": int(own.sum()),
            "named": float(named[own].mean()),
        }
        lines.append(line | {f"hit {way}": float(values[own].mean()) for way, values in hits.items()})
    return pd.DataFrame(lines)


def localisation_table(found: Localisation) -> pd.DataFrame:
    """The groups in words, a row for each, with what is pointed at by each way."""
    lines = []
    for group, words in GROUPS.items():
        own = found.table[found.table["group"] == group]
        if not len(own):
            continue
        line: dict[str, object] = {
            "which concepts": words,
            "pairs": f"{own['pairs'].iloc[0]:,}",
            "concepts": f"{own['concepts'].iloc[0]:,}",
        }
        for row in own.to_dict("records"):
            line[f"{row['way']}, %"] = _shown(row, "hit", 100, "{:.0f}")
            if row["way"] == CONCEPT:
                line["strictly counted, %"] = _shown(row, "strict", 100, "{:.0f}")
                line["mass on it, times its area"] = _shown(row, "mass", 1, "{:.1f}")
        lines.append(line)
    return pd.DataFrame(lines)


def _shown(row: Mapping, name: str, factor: float, form: str) -> str:
    values = [factor * float(row[f"{name}{end}"]) for end in ("", "_low", "_high")]
    if not np.isfinite(values[0]):
        return ""
    return "{} [{}, {}]".format(*(form.format(value) for value in values))


def astray(found: Localisation) -> list[str]:
    """Concepts whose map hits no more often than a random patch does, where chance is below `SMALL`."""
    table = found.concepts
    lost = (table[f"hit {CHANCE}"] < SMALL) & (table[f"hit {CONCEPT}"] <= table[f"hit {CHANCE}"])
    return table.loc[lost, "concept"].tolist()


def localisation_in_words(found: Localisation) -> str:
    """The headline in two sentences, and the concepts whose maps are astray."""
    own, chance = found.figure(CONCEPT), found.figure(CHANCE)
    if own is None or chance is None:
        return "No concept is small enough for its map to tell anything: chance alone hits each of them."
    pairs = int(found.table.loc[found.table["group"] == HEADLINE, "pairs"].iloc[0])
    others = [f"{way} {found.figure(way)['value']:.0%}" for way in (ATTENTION, CENTRE) if found.figure(way)]  # type: ignore[index]
    left = int(found.pairs.labelled.sum()) - pairs
    text = (
        f"The map of the labelled concept points at it in {figure_text(own, '{:.0%}')} of "
        f"{pairs:,} pictures; a random patch would in {chance['value']:.0%}, {', '.join(others)}. Left out are "
        f"{left:,} pictures whose concept is so large that chance hits it in {SMALL:.0%} or more."
    )
    lost = astray(found)
    return text + (f" No better than chance are the maps of: {', '.join(lost)}." if lost else "")


def pointing_figures(found: Localisation | None) -> dict[str, Figure] | None:
    """Figures `map`, `chance`, `centre` and `attention` of the headline, as the trust card takes them."""
    if found is None:
        return None
    ways = {"map": CONCEPT, "chance": CHANCE, "centre": CENTRE, "attention": ATTENTION}
    figures = {name: found.figure(way) for name, way in ways.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def pointing_records(found: Localisation | None) -> dict[str, float | Figure]:
    """Figures to keep: `pointing_game`, `pointing_chance`, `attention_pointing`, `centre_pointing` and more."""
    if found is None:
        return {}
    kept = {
        "pointing_game": found.figure(CONCEPT),
        "pointing_chance": found.figure(CHANCE),
        "attention_pointing": found.figure(ATTENTION),
        "centre_pointing": found.figure(CENTRE),
        "pointing_strict": found.figure(CONCEPT, name="strict"),
        "pointing_named": found.figure(CONCEPT, "labelled, small, named"),
        "pointing_visible": found.figure(CONCEPT, "visible, small"),
        "mass_ratio": found.figure(CONCEPT, name="mass"),
    }
    return recordables({name: figure for name, figure in kept.items() if figure is not None})

"""Where two runs differ: on the map, by country, in what they confuse, and by concept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geocbm import geodesy
from geocbm.evaluation.compare_runs.differences import LEVEL, NOISE, aligned
from geocbm.evaluation.compare_runs.load_runs import ComparedRun
from geocbm.metrics import FEWEST_BLOCKS, Resamples, simultaneous_intervals, spatial_blocks

REGION_KM = 500.0
"""Side of the regions of the map: many enough to see where, large enough to hold several images."""

FEWEST = 10
"""Countries with fewer test images are left out: their intervals would mean little."""


def gain_by_region(one: ComparedRun, other: ComparedRun, side_km: float = REGION_KM) -> pd.DataFrame:
    """Mean gain in GeoScore of `other` over `one` by regions of the ground with sides of `side_km`.

    Returns:
        `lat, lng` (the middle of the images of a region), `images`, `country` (the most frequent one) and `gain`, the
        largest region first; empty when the runs have no test images in common.
    """
    columns = ["lat", "lng", "images", "country", "gain"]
    pair = aligned(one, other)
    if pair is None:
        return pd.DataFrame(columns=columns)
    images = pair[0]
    lat, lng = images["true_lat"].to_numpy(float), images["true_lng"].to_numpy(float)
    frame = pd.DataFrame(geodesy.latlng_to_cartesian(lat, lng), columns=["x", "y", "z"])
    frame["gain"] = pair[1]["geoscore"].to_numpy() - images["geoscore"].to_numpy()
    groups = frame.groupby(geodesy.spatial_blocks(lat, lng, side_km))
    means = groups.mean()
    middle = geodesy.cartesian_to_latlng(means[["x", "y", "z"]].to_numpy())
    country = images["true_country"].groupby(groups.ngroup().to_numpy()).agg(_most_frequent)
    table = means[["gain"]].assign(lat=middle[0], lng=middle[1], images=groups.size(), country=country)
    return table.sort_values("images", ascending=False, kind="stable").reset_index(drop=True)[columns]


def _most_frequent(names: pd.Series) -> str:
    return names.value_counts().index[0]


def country_gains(
    one: ComparedRun, other: ComparedRun, fewest: int = FEWEST, n: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Gain in mean GeoScore of `other` over `one` in each country, with 95 % intervals that hold together.

    Countries with fewer than `fewest` test images, or with images in too few spatial blocks, are left out.

    Returns:
        `country, images, first, this, gain, low, high, better` (1, -1 or 0), the greatest differences first; empty when
        the runs have no test images in common.
    """
    columns = ["country", "images", "first", "this", "gain", "low", "high", "better"]
    pair = aligned(one, other)
    if pair is None:
        return pd.DataFrame(columns=columns)
    before, after = (images["geoscore"].to_numpy() for images in pair)
    country = pair[0]["true_country"].to_numpy()
    blocks = spatial_blocks(pair[0]["true_lat"], pair[0]["true_lng"])
    names, counts = np.unique(country[country != ""], return_counts=True)
    rows: list[dict[str, Any]] = []
    draws = []
    for name in names[counts >= fewest]:
        inside = country == name
        if len(np.unique(blocks[inside])) < FEWEST_BLOCKS:
            continue
        first, this = float(before[inside].mean()), float(after[inside].mean())
        rows.append({"country": name, "images": int(inside.sum()), "first": first, "this": this, "gain": this - first})
        # Countries share no images, so that each is resampled by itself.
        draws.append(Resamples(blocks[inside], n, seed + len(rows)).means((after - before)[inside]))
    table = pd.DataFrame(rows, columns=columns)
    if rows:
        table["low"], table["high"] = simultaneous_intervals(table["gain"], np.stack(draws), LEVEL)
        # Where every image is answered alike there is nothing to be sure of.
        table["better"] = np.where(table["low"] > 0, 1, np.where(table["high"] < 0, -1, 0))
    order = table["gain"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def confusion_changes(one: ComparedRun, other: ComparedRun) -> pd.DataFrame:
    """Countries that one run takes for one another more often than the other.

    Returns:
        `country, answered, first, this` (images), `chance` (the probability of so uneven a split of the images on which
        the runs disagree, by Holm's rule over all pairs that could have shown a difference; 1 for the others) and
        `better`, the greatest differences first; empty when the runs have no test images in common.
    """
    columns = ["country", "answered", "first", "this", "chance", "better"]
    pair = aligned(one, other)
    if pair is None:
        return pd.DataFrame(columns=columns)
    frame = pd.DataFrame(
        {
            "country": pair[0]["true_country"].to_numpy(),
            "before": pair[0]["answered"].to_numpy(),
            "after": pair[1]["answered"].to_numpy(),
        }
    )
    frame = frame[frame["country"] != ""]
    first, this = frame["before"] != frame["country"], frame["after"] != frame["country"]
    shared = first & (frame["before"] == frame["after"])
    sides = [("before", first), ("after", this), ("before", shared)]
    counts = [frame[wrong].groupby(["country", side]).size() for side, wrong in sides]
    counts = [count.rename_axis(["country", "answered"]) for count in counts]
    table = pd.concat(counts, axis=1, keys=["first", "this", "shared"]).fillna(0).astype(int).reset_index()
    table["chance"] = _chance(*(table[["first", "this"]].sub(table["shared"], axis=0)).to_numpy().T)
    table["better"] = np.where(table["chance"] < 0.05, np.sign(table["first"] - table["this"]), 0)
    table["answered"] = table["answered"].replace("", "(no answer)")
    return _by_difference(table, ["country", "answered"])[columns]


def concept_changes(one: ComparedRun, other: ComparedRun) -> pd.DataFrame:
    """How often each concept is named right by the two runs.

    Returns:
        `concept, images, first, this` (images named right), `gained` and `lost` (images that only `other`, and only
        `one`, names right), `chance` as in `confusion_changes` and `better`, the greatest differences first; empty
        without common images or concepts.
    """
    columns = ["concept", "images", "first", "this", "gained", "lost", "chance", "better"]
    pair = aligned(one, other)
    if pair is None or one.metas != other.metas or not all("meta_right" in images for images in pair):
        return pd.DataFrame(columns=columns)
    before, after = (images["meta_right"].to_numpy(bool) for images in pair)
    frame = pd.DataFrame(
        {
            "concept": pair[0].index.get_level_values("meta_name"),
            "first": before,
            "this": after,
            "gained": after & ~before,
            "lost": before & ~after,
        }
    )
    groups = frame.groupby("concept")
    table = groups.sum().astype(int).assign(images=groups.size()).reset_index()
    table["chance"] = _chance(table["lost"].to_numpy(), table["gained"].to_numpy())
    table["better"] = np.where(table["chance"] < 0.05, np.sign(table["this"] - table["first"]), 0)
    return _by_difference(table, ["concept"])[columns]


def _by_difference(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The greatest differences of counts first."""
    table = table.assign(size=(table["this"] - table["first"]).abs(), both=table["this"] + table["first"])
    table = table.sort_values(["size", "both", *names], ascending=[False, False, *[True] * len(names)])
    return table.reset_index(drop=True)


def _chance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Probability that a fair coin divides the disagreements so unevenly, by Holm's rule (McNemar's exact test).

    Where fewer than six images disagree, no division has a probability below 0.05; these tests cannot show anything and
    do not count among the comparisons (Tarone 1990).
    """
    from scipy.stats import binomtest

    chance = np.ones(len(one))
    able = np.flatnonzero(one + other >= 6)
    alone = np.array([binomtest(int(one[i]), int(one[i] + other[i])).pvalue for i in able])
    order = np.argsort(alone, kind="stable")
    adjusted = np.maximum.accumulate(np.minimum(1.0, alone[order] * np.arange(len(able), 0, -1)))
    chance[able[order]] = adjusted
    return chance


def top_changes(tables: Mapping[str, pd.DataFrame], limit: int = 5) -> pd.DataFrame:
    """The `limit` greatest changes of each run in one table, with the `verdict` in words; empty without rows.

    `tables` are those of `country_gains`, `confusion_changes` or `concept_changes` by name of the run.
    """
    shown = [table.head(limit).assign(run=run) for run, table in tables.items() if len(table)]
    if not shown:
        return pd.DataFrame()
    joined = pd.concat(shown, ignore_index=True)
    verdict = joined["better"].astype(int).map({1: "better", -1: "worse"}).fillna(NOISE)
    kept = [name for name in joined if name not in ("run", "better", "chance")]
    return joined[["run", *kept]].assign(verdict=verdict)

"""Where two runs with the same test images differ: on the map, by country, in what they confuse, and by concept."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geocbm import geodesy
from geocbm.errors import ParameterError
from geocbm.evaluation.compare_runs.differences import LEVEL, aligned
from geocbm.evaluation.compare_runs.load_runs import ComparedRun
from geocbm.metrics import FEWEST_BLOCKS, NOISE, Resamples, simultaneous_intervals, spatial_blocks

REGION_KM = 500.0
"""Side of the regions of the map: many enough to see where, large enough to hold several images."""

FEWEST = 10
"""Countries with fewer test images are left out: their intervals would mean little."""

MOST_SHOWN = 5  # changes of each run


def _pair(one: ComparedRun, other: ComparedRun) -> tuple[pd.DataFrame, pd.DataFrame]:
    pair = aligned(one, other)
    if pair is None:
        raise ParameterError(f"runs {one.name!r} and {other.name!r} have other test images; take those of same_images")
    return pair


def gain_by_region(one: ComparedRun, other: ComparedRun) -> pd.DataFrame:
    """Mean gain in GeoScore of `other` over `one` by regions of the ground with sides of `REGION_KM`.

    Columns are `lat, lng` (the middle of the images of a region), `images`, `country` (the most frequent one) and
    `gain`, the largest region first.
    """
    before, after = _pair(one, other)
    lat, lng = before["true_lat"].to_numpy(float), before["true_lng"].to_numpy(float)
    frame = pd.DataFrame(geodesy.latlng_to_cartesian(lat, lng), columns=["x", "y", "z"])
    frame["gain"] = after["geoscore"].to_numpy() - before["geoscore"].to_numpy()
    groups = frame.groupby(geodesy.spatial_blocks(lat, lng, REGION_KM))
    means = groups.mean()
    middle = geodesy.cartesian_to_latlng(means[["x", "y", "z"]].to_numpy())
    country = before["true_country"].groupby(groups.ngroup().to_numpy()).agg(lambda own: own.value_counts().index[0])
    table = means[["gain"]].assign(lat=middle[0], lng=middle[1], images=groups.size(), country=country)
    table = table.sort_values("images", ascending=False, kind="stable").reset_index(drop=True)
    return table[["lat", "lng", "images", "country", "gain"]]


def country_gains(one: ComparedRun, other: ComparedRun, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Gain in mean GeoScore of `other` over `one` in each country, with 95 % intervals that hold together.

    Columns are `country, images, first, this, gain, low, high, better` (1, -1 or 0), the greatest differences first.
    Countries with fewer than `FEWEST` test images, or with images in too few spatial blocks, are left out.
    """
    before, after = (images["geoscore"].to_numpy() for images in _pair(one, other))
    images = one.answers
    country, blocks = images["true_country"].to_numpy(), spatial_blocks(images["true_lat"], images["true_lng"])
    names, counts = np.unique(country[country != ""], return_counts=True)
    rows: list[dict[str, Any]] = []
    draws = []
    for name in names[counts >= FEWEST]:
        inside = country == name
        if len(np.unique(blocks[inside])) < FEWEST_BLOCKS:
            continue
        first, this = float(before[inside].mean()), float(after[inside].mean())
        rows.append({"country": name, "images": int(inside.sum()), "first": first, "this": this, "gain": this - first})
        # Countries share no images, so that each is resampled by itself.
        draws.append(Resamples(blocks[inside], n, seed + len(rows)).means((after - before)[inside]))
    table = pd.DataFrame(rows, columns=["country", "images", "first", "this", "gain", "low", "high", "better"])
    if rows:
        table["low"], table["high"] = simultaneous_intervals(table["gain"], np.stack(draws), LEVEL)
        # Where every image is answered alike there is nothing to be sure of.
        table["better"] = np.where(table["low"] > 0, 1, np.where(table["high"] < 0, -1, 0))
    return table.sort_values("gain", key=abs, ascending=False, kind="stable").reset_index(drop=True)


def confusion_changes(one: ComparedRun, other: ComparedRun) -> pd.DataFrame:
    """Countries that one run takes for one another more often than the other, the greatest differences first.

    Columns are `country, answered, first, this` (images), `chance` (the probability of so uneven a split of the images
    on which the runs disagree, by Holm's rule over all pairs that could have shown a difference; 1 for the others) and
    `better`.
    """
    images = _pair(one, other)
    frame = pd.DataFrame({"country": images[0]["true_country"].to_numpy()})
    frame = frame.assign(before=images[0]["answered"].to_numpy(), after=images[1]["answered"].to_numpy())
    frame = frame[frame["country"] != ""]
    first, this = frame["before"] != frame["country"], frame["after"] != frame["country"]
    shared = first & (frame["before"] == frame["after"])
    counts = {
        name: frame[wrong].groupby(["country", side]).size().rename_axis(["country", "answered"])
        for name, side, wrong in (("first", "before", first), ("this", "after", this), ("shared", "before", shared))
    }
    table = pd.DataFrame(counts).fillna(0).astype(int).reset_index()
    judged = _judged(table, table["this"] - table["shared"], table["first"] - table["shared"], ["country", "answered"])
    judged["answered"] = judged["answered"].replace("", "(no answer)")
    return judged[["country", "answered", "first", "this", "chance", "better"]]


def concept_changes(one: ComparedRun, other: ComparedRun) -> pd.DataFrame:
    """How often each concept is named right by the two runs, the greatest differences first.

    Columns are `concept, images, first, this` (images named right), `gained` and `lost` (images that only `other`, and
    only `one`, names right), `chance` as in `confusion_changes` and `better`; empty without common concepts.
    """
    columns = ["concept", "images", "first", "this", "gained", "lost", "chance", "better"]
    images = _pair(one, other)
    if one.metas != other.metas or not all("meta_right" in own for own in images):
        return pd.DataFrame(columns=columns)
    known = [own[own["meta_right"].notna()] for own in images]
    before, after = (own["meta_right"].to_numpy(bool) for own in known)
    frame = pd.DataFrame({"first": before, "this": after, "gained": after & ~before, "lost": before & ~after})
    groups = frame.groupby(known[0].index.get_level_values("meta_name").rename("concept"))
    table = groups.sum().astype(int).assign(images=groups.size()).reset_index()
    return _judged(table, table["lost"], table["gained"], ["concept"])[columns]


def _judged(table: pd.DataFrame, lost: pd.Series, gained: pd.Series, names: list[str]) -> pd.DataFrame:
    """Counts `first` and `this` with `chance` and `better` (more was gained than lost), the greatest differences first.

    The chance is that of a fair coin to divide the disagreements so unevenly, by Holm's rule (McNemar's exact test).
    Where fewer than six images disagree, no division has a probability below 0.05; these tests cannot show anything and
    do not count among the comparisons (Tarone 1990).
    """
    from scipy.stats import binomtest

    chance = np.ones(len(table))
    able = np.flatnonzero(lost + gained >= 6)
    alone = np.array([binomtest(int(lost[i]), int(lost[i] + gained[i])).pvalue for i in able])
    order = np.argsort(alone, kind="stable")
    chance[able[order]] = np.maximum.accumulate(np.minimum(1.0, alone[order] * np.arange(len(able), 0, -1)))
    better = np.where(chance < 0.05, np.sign(gained - lost), 0)
    table = table.assign(chance=chance, better=better, size=(table["this"] - table["first"]).abs())
    table = table.assign(both=table["this"] + table["first"])
    order_of = [False, False, *[True] * len(names)]
    return table.sort_values(["size", "both", *names], ascending=order_of).reset_index(drop=True)


def top_changes(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The `MOST_SHOWN` greatest changes of each run in one table, with the `verdict` in words; empty without rows.

    `tables` are those of `country_gains`, `confusion_changes` or `concept_changes` by name of the run.
    """
    shown = [table.head(MOST_SHOWN).assign(run=run) for run, table in tables.items() if len(table)]
    if not shown:
        return pd.DataFrame()
    joined = pd.concat(shown, ignore_index=True)
    verdict = joined["better"].astype(int).map({1: "better", -1: "worse"}).fillna(NOISE)
    kept = [name for name in joined if name not in ("run", "better", "chance")]
    return joined[["run", *kept]].assign(verdict=verdict)

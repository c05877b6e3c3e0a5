"""Metrics by place: countries, regions and cities named right, and every country and region by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError
from geocbm.evaluation.baselines.base import Prediction
from geocbm.metrics import (
    Resamples,
    columns_of,
    error_km,
    geolocation_intervals,
    places_of,
    recordables,
    spatial_blocks,
)
from geocbm.metrics.country_names import country_name
from geocbm.run import Run

LEVELS = ("country", "region", "city")
METHODS = ("stage2", "nearest_neighbour", "linear_probe")
"""The methods that are held against one another place by place."""

FEWEST = 5
"""Places with fewer test images are pooled: a median of four says nothing about a country."""

Interval = dict[str, float]
_NOWHERE = "(no answer)"


@dataclass(frozen=True)
class Geocoded:
    """Test images and the answers for them, with the names of their places."""

    country: np.ndarray  # [n] as the table has them
    true: pd.DataFrame  # [n] `country, region, city` of the true places, of `metrics.places_of`
    answered: dict[str, pd.DataFrame]  # the same of each method's places, by its name
    km: dict[str, np.ndarray]  # [n] errors of each method, infinite where it does not answer
    blocks: np.ndarray  # [n] spatial blocks, for intervals

    def __len__(self) -> int:
        return len(self.true)

    def right(self, method: str, level: str) -> np.ndarray:
        """Whether a method names the place of each image right at a level of `LEVELS`, `[n]`.

        A region counts only within the right country, a city only within the right region (as in
        `geocbm.metrics.places.places_right`); a place without a name is a miss.

        Raises:
            ParameterError: there is no such level.
        """
        if level not in LEVELS:
            raise ParameterError(f"level is {level!r}; choose one of {', '.join(LEVELS)}.")
        right = np.ones(len(self), dtype=bool)
        for each in LEVELS[: LEVELS.index(level) + 1]:
            known = (self.true[each] != "").to_numpy()
            right &= known & (self.answered[method][each].to_numpy() == self.true[each].to_numpy())
        return right

    @property
    def unnamed(self) -> dict[str, int]:
        """How many true places have no name, by level; these count as misses."""
        return {level: int((self.true[level] == "").sum()) for level in LEVELS}

    @property
    def elsewhere(self) -> int:
        """How many images lie in another country than the table says, by polygon; that of the polygon counts."""
        known = np.array([country_name(name) is not None for name in self.country], dtype=bool)
        return int((known & (self.true["country"].to_numpy() != self.country)).sum())


def geocode(files: Run, answers: Sequence[Prediction], methods: Sequence[str] = METHODS) -> Geocoded:
    """Look up the names of the true places of the test split and of those that methods answer, if they name places."""
    test = files.rows["test"]
    lat, lng = files.lat[test], files.lng[test]
    named = [answer for answer in answers if answer.name in methods]
    found: dict[str, tuple[Any, Any]] = {
        answer.name: (answer.lat, answer.lng) for answer in named if answer.lat is not None
    }
    return geocode_points(files.country[test], lat, lng, {name: found[name] for name in methods if name in found})


def geocode_points(
    country: np.ndarray, lat: np.ndarray, lng: np.ndarray, answers: Mapping[str, tuple[Any, Any]]
) -> Geocoded:
    """The same for `n` points in degrees and the places `answers` that each method gives, NaN where it does not."""
    if not len(lat):
        none = pd.DataFrame({level: pd.Series(dtype=object) for level in LEVELS})
        nothing = np.zeros(0)
        return Geocoded(
            np.asarray(country), none, dict.fromkeys(answers, none), dict.fromkeys(answers, nothing), nothing
        )
    return Geocoded(
        country=np.asarray(country, dtype=str),
        true=places_of(lat, lng),
        answered={name: places_of(*points) for name, points in answers.items()},
        km={name: error_km(*points, lat, lng) for name, points in answers.items()},
        blocks=spatial_blocks(lat, lng),
    )


def level_metrics(found: Geocoded, n: int = 1000, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """Shares of countries, regions and cities named right with intervals: method -> `country_acc`, ..."""
    if not len(found):
        return {}
    draws = Resamples(found.blocks, n, seed)
    return {
        method: {f"{level}_acc": draws.estimate(found.right(method, level)) for level in LEVELS}
        for method in found.answered
    }


def stage2_metrics(places: pd.DataFrame, found: Geocoded, n: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """What Stage 2 is measured by, each with its interval: distances, GeoScore, and levels as `<level>_acc`.

    `places` are those of `methods.main_predictions`.
    """
    if not len(places):
        return {}
    answered, true = (places["lat"], places["lng"]), (places["true_lat"], places["true_lng"])
    return geolocation_intervals(*answered, *true, n=n, seed=seed) | level_metrics(found, n, seed).get("stage2", {})


def by_place(
    found: Geocoded,
    level: str = "country",
    method: str = "stage2",
    fewest: int = FEWEST,
    n: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Median error and share named right for every place by itself, the places with the most images first.

    Countries are those of the table, regions those of `metrics.places_of` with their country. Places with fewer images
    than `fewest` are pooled into one last row.

    Returns:
        Columns `place, n, pooled` (how many places the row stands for) and `median_km` and `right`, each followed by
        its interval `<figure>_low` and `<figure>_high`, NaN where they lie in too few spatial blocks. `right` is
        the share of images whose place of that level was named.

    Raises:
        ParameterError: the level is neither.
    """
    if level not in ("country", "region"):
        raise ParameterError(f"level is {level!r}; choose 'country' or 'region'.")
    figures = [f"{name}{end}" for name in ("median_km", "right") for end in ("", "_low", "_high")]
    columns = ["place", "n", "pooled", *figures]
    if not len(found):
        return pd.DataFrame(columns=columns)
    name = pd.Series(found.country, dtype=object)
    if level == "region":
        region = found.true["region"].where(found.true["region"] != "", "(no region)")
        name = found.true["country"] + ", " + region
    counts = name.value_counts()
    rare = set(counts[counts < fewest].index)
    right = found.right(method, level)
    groups = [(place, (name == place).to_numpy(), 1) for place in sorted(set(counts.index) - rare)]
    groups.sort(key=lambda group: -group[1].sum())
    if rare:
        noun = {"country": "countries", "region": "regions"}[level] if len(rare) > 1 else level
        label = f"{len(rare)} {noun} with fewer than {fewest} images{' each' if len(rare) > 1 else ''}"
        groups.append((label, name.isin(rare).to_numpy(), len(rare)))
    rows = []
    for place, inside, pooled in groups:
        row: dict[str, Any] = {"place": place, "n": int(inside.sum()), "pooled": pooled}
        for figure, values, statistic in (("median_km", found.km[method], "median"), ("right", right, "mean")):
            own = Resamples(found.blocks[inside], n, seed).estimate(values[inside], statistic)
            row |= columns_of(figure, own)
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def confusions(found: Geocoded, method: str = "stage2", limit: int = 15) -> pd.DataFrame:
    """The countries that are most often taken for one another, by country polygons.

    Returns:
        At most `limit` rows, the most frequent first: `country, answered, images, share` (of all test images of the
        country, 0 to 1) and `median_km` of these images. Images whose true place has no country are left out.
    """
    frame = pd.DataFrame(
        {
            "country": found.true["country"].to_numpy(),
            "answered": np.where(
                found.answered[method]["country"] == "", _NOWHERE, found.answered[method]["country"].to_numpy()
            ),
            "km": found.km[method],
        }
    )
    frame = frame[frame["country"] != ""]
    size = frame.groupby("country").size()
    wrong = frame[frame["country"] != frame["answered"]]
    pairs = wrong.groupby(["country", "answered"]).agg(images=("km", "size"), median_km=("km", "median")).reset_index()
    pairs["share"] = pairs["images"] / pairs["country"].map(size).astype(float)
    pairs = pairs.sort_values(["images", "share", "country", "answered"], ascending=[False, False, True, True])
    return pairs[["country", "answered", "images", "share", "median_km"]].head(limit).reset_index(drop=True)


def records(found: Geocoded, n: int = 1000, seed: int = 0) -> dict[str, float | Interval]:
    """Metrics to keep: `stage2.region_acc`, `stage2.city_acc` and the same of the other methods under `baseline.`."""
    kept: dict[str, Interval] = {}
    for method, own in level_metrics(found, n, seed).items():
        prefix = method if method.startswith("stage") else f"baseline.{method}"
        kept |= {f"{prefix}.{name}": own[name] for name in ("region_acc", "city_acc")}
    return recordables(kept)

"""Metrics by place: countries, regions and cities named right, and every country and region by itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from geocbm import metrics
from geocbm.errors import ParameterError
from geocbm.evaluation.baselines.base import Prediction
from geocbm.evaluation.methods import TruePlaces
from geocbm.metrics import Estimate, Resamples
from geocbm.metrics.country_names import country_name, world_regions

LEVELS = ("country", "region", "city")
WIDE = ("continent", "world_region")
"""Larger places that countries make up (see `country_names.world_regions`)."""
PLURALS = {"country": "countries", "region": "regions", "continent": "continents", "world_region": "world regions"}
METHODS = ("stage2", "nearest_neighbour", "linear_probe")
"""The methods that are held against one another place by place."""

FEWEST = 5
"""Places with fewer test images are pooled: a median of four says nothing about a country."""

MOST_CONFUSIONS = 15


@dataclass(frozen=True)
class Geocoded:
    """Test images and the answers for them, with the names of their places."""

    country: np.ndarray  # [n] as the table has them
    true: pd.DataFrame  # [n] `country, region, city` of the true places, of `metrics.places_of`
    answered: dict[str, pd.DataFrame]  # the same of each method's places, by its name
    km: dict[str, np.ndarray]  # [n] errors of each method, infinite where it does not answer
    draws: Resamples  # of the images, for intervals

    def __len__(self) -> int:
        return len(self.true)

    def right(self, method: str, level: str) -> np.ndarray:
        """Whether a method names the place of each image right at a level of `LEVELS` or `WIDE`, `[n]`.

        A region counts only within the right country, a city only within the right region (as in
        `metrics.places.places_right`); a place without a name is a miss.
        """
        if level in WIDE:
            true, answered = (_wider(names, level) for names in (self.true, self.answered[method]))
            return (true != "").to_numpy() & (true == answered).to_numpy()
        named, known = (names[list(LEVELS)].to_numpy() for names in (self.answered[method], self.true))  # (n, 3)
        return np.logical_and.accumulate((named == known) & (known != ""), axis=1)[:, LEVELS.index(level)]

    @property
    def unnamed(self) -> dict[str, int]:
        """How many true places have no name, by level; these count as misses."""
        return {level: int((self.true[level] == "").sum()) for level in LEVELS}

    @property
    def elsewhere(self) -> int:
        """How many images lie in another country than the table says, by polygon; that of the polygon counts."""
        known = np.array([country_name(name) is not None for name in self.country], dtype=bool)
        return int((known & (self.true["country"].to_numpy() != self.country)).sum())


def geocode(truth: TruePlaces, answers: Sequence[Prediction]) -> Geocoded:
    """Look up the names of the true places of the test split and of those that `METHODS` answer."""
    by_name = {answer.name: (answer.lat, answer.lng) for answer in answers}
    asked = {name: by_name[name] for name in METHODS if name in by_name}
    return Geocoded(
        country=np.asarray(truth.labels.country, dtype=str),
        true=metrics.places_of(truth.lat, truth.lng),
        answered={name: metrics.places_of(*places) for name, places in asked.items()},
        km={name: metrics.error_km(*places, truth.lat, truth.lng) for name, places in asked.items()},
        draws=truth.draws,
    )


def level_metrics(found: Geocoded) -> dict[str, dict[str, Estimate]]:
    """Shares of countries, regions and cities named right with intervals: method -> `country_acc`, ..."""
    return {
        method: {f"{level}_acc": found.draws.estimate(found.right(method, level)) for level in LEVELS}
        for method in (found.answered if len(found) else ())
    }


def stage2_metrics(places: pd.DataFrame, found: Geocoded) -> dict[str, Estimate]:
    """What Stage 2 is measured by, each with its interval: distances, GeoScore, and levels as `<level>_acc`.

    `places` are those of `methods.main_predictions`.
    """
    if not len(places):
        return {}
    answered, true = (places["lat"], places["lng"]), (places["true_lat"], places["true_lng"])
    distances = metrics.geolocation_intervals(*answered, *true, found.draws)
    return distances | level_metrics(found).get("stage2", {})


def _wider(names: pd.DataFrame, level: str) -> pd.Series:
    """Continent or world region of places by their country, empty for none."""
    known = world_regions()
    return names["country"].map(lambda country: known[country][level] if country in known else "")


def by_place(found: Geocoded, level: str = "country") -> pd.DataFrame:
    """Median error of Stage 2 and share named right for every place by itself, those with the most images first.

    Countries are those of the table, regions those of `metrics.places_of` with their country, continents and world
    regions those of the country in which an image lies. Places with fewer images than `FEWEST` are pooled into one last
    row. Columns are `place, n, pooled` (how many places the row stands for) and, with their intervals, `median_km` and
    `right` (share of images whose place of that level was named), at the levels of `WIDE` `geoscore` and `country_acc`.
    """
    if level not in PLURALS:
        raise ParameterError(f"level is {level!r}; choose {', '.join(map(repr, PLURALS))}.")
    name = pd.Series(found.country, dtype=object)
    if level == "region":
        region = found.true["region"].where(found.true["region"] != "", "(no region)")
        name = found.true["country"] + ", " + region
    elif level in WIDE:
        name = _wider(found.true, level).replace("", "(no country)")
    counts = name.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    rare = counts.index[counts < FEWEST]
    groups = {place: (name == place).to_numpy() for place in counts.index[counts >= FEWEST]}
    standing = [1] * len(groups)
    if len(rare):
        noun = PLURALS[level] if len(rare) > 1 else level.replace("_", " ")
        label = f"{len(rare)} {noun} with fewer than {FEWEST} images{' each' if len(rare) > 1 else ''}"
        groups[label] = name.isin(rare).to_numpy()
        standing.append(len(rare))
    km = found.km["stage2"]
    values = {"median_km": km, "right": found.right("stage2", level)}
    if level in WIDE:
        values |= {"geoscore": metrics.geoscore(km), "country_acc": found.right("stage2", "country")}
    table = metrics.estimates_by_group(found.draws, groups, values).rename(columns={"group": "place"})
    table.insert(2, "pooled", standing)
    return table


def confusions(found: Geocoded) -> pd.DataFrame:
    """The countries that Stage 2 most often takes for one another, by country polygons.

    At most `MOST_CONFUSIONS` rows, the most frequent first: `country, answered, images, of all` (test images of the
    country) and `median_km` of these images. Images whose true place has no country are left out.
    """
    frame = pd.DataFrame({"country": found.true["country"].to_numpy(), "km": found.km["stage2"]})
    frame["answered"] = found.answered["stage2"]["country"].replace("", "(no answer)").to_numpy()
    frame = frame[frame["country"] != ""]
    wrong = frame[frame["country"] != frame["answered"]]
    pairs = wrong.groupby(["country", "answered"]).agg(images=("km", "size"), median_km=("km", "median")).reset_index()
    pairs["of all"] = pairs["country"].map(frame.groupby("country").size()).astype(int)
    pairs = pairs.sort_values(["images", "of all", "country", "answered"], ascending=[False, True, True, True])
    shown = pairs[["country", "answered", "images", "of all", "median_km"]]
    return shown.head(MOST_CONFUSIONS).reset_index(drop=True)


def records(found: Geocoded) -> dict[str, float | Estimate]:
    """Metrics to keep: `stage2.region_acc`, `stage2.city_acc`, the same of the other methods under `baseline.`.

    And `median_km`, `geoscore`, `country_acc` and `n` of Stage 2 under `continent.<name>.`, such as `North_America`.
    """
    kept: dict[str, float | Estimate] = {}
    for method, own in level_metrics(found).items():
        prefix = method if method.startswith("stage") else f"baseline.{method}"
        kept |= {f"{prefix}.{name}": own[name] for name in ("region_acc", "city_acc")}
    for row in by_place(found, "continent").to_dict("records"):
        if row["pooled"] == 1:
            key = f"continent.{row['place'].replace(' ', '_')}"
            kept |= {f"{key}.{name}": metrics.entry_of(row, name) for name in ("median_km", "geoscore", "country_acc")}
            kept[f"{key}.n"] = row["n"]
    return metrics.recordables(kept)

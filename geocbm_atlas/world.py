"""The world of the atlas: real places, countries, regions, and what stands along the roads of each.

Places come from the gallery of 100,000 coordinates bundled with GeoCLIP (Vivanco Cepeda et al., 2023), countries from
an offline reverse geocoder. Neither needs torch.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from geocbm.errors import MissingInputError, ParameterError
from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
from geocbm_atlas.facts import (
    COUNTRIES,
    DRIVES_LEFT,
    GEOCODER_NAMES,
    META_TO_SLOT,
    SLOTS,
    UNPAVED,
    Slot,
    members,
    typical_concepts,
)
from geocbm_atlas.scene import Concept, Conditions, Scene, place, sample_conditions

JITTER_DEGREES = 0.02
VERGE = ("bollard", "pole", "warning sign", "direction sign", "chevrons", "barrier", "house")
COMPASS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")


def gallery_file() -> Path:
    """Find the CSV of 100,000 places inside the installed `geoclip` package, without importing it.

    Raises:
        MissingInputError: if `geoclip` is not installed or has no gallery.
    """
    spec = importlib.util.find_spec("geoclip")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for file in sorted(Path(folder).rglob("coordinates_100K.csv")):
            return file
    raise MissingInputError("the package geoclip with its gallery coordinates_100K.csv is missing; pip install geoclip")


@lru_cache(maxsize=1)
def gallery_places() -> tuple[np.ndarray, tuple[str, ...]]:
    """Places of the gallery and the country of each.

    Returns:
        `(coordinates, countries)`: float64 `[100000, 2]` of (latitude, longitude) in degrees, and a name per place.
    """
    import reverse_geocode

    coordinates = np.loadtxt(gallery_file(), delimiter=",", skiprows=1)
    found = reverse_geocode.search([tuple(pair) for pair in coordinates])
    coordinates.setflags(write=False)
    return coordinates, tuple(entry.get("country", "") for entry in found)


@dataclass(frozen=True)
class Region:
    """A part of a country with its own landscape.

    Attributes:
        name: for example `"Brazil south-east"`.
        country: name as the offline geocoder gives it.
        places: latitudes and longitudes in degrees, `[n, 2]`.
        presence: slot -> how often it is filled.
        shares: slot -> probability of each of its concepts.
    """

    name: str
    country: str
    places: np.ndarray
    presence: dict[str, float]
    shares: dict[str, np.ndarray]


@dataclass(frozen=True)
class World:
    """Countries, regions and the frequencies of concepts in each.

    Attributes:
        seed: seed the world was made from.
        assignment: `"facts"`, or the seed of a random assignment.
        countries: names as the offline geocoder gives them.
        weights: how often each country is visited, sums to 1.
        drives_left: for each country, whether traffic keeps left.
        regions: for each country, its regions.
        telling: meta concept -> how telling it is (self-information in nats of its frequency over the world).
    """

    seed: int
    assignment: str | int
    countries: tuple[str, ...]
    weights: np.ndarray
    drives_left: tuple[bool, ...]
    regions: tuple[tuple[Region, ...], ...]
    telling: dict[str, float]

    @classmethod
    def create(cls, seed: int, n_countries: int = 44, assignment: str | int = "facts") -> World:
        """Make a world.

        Args:
            seed: shuffles what the facts leave open.
            n_countries: number of countries, 2 to the length of `COUNTRIES`.
            assignment: `"facts"`, or an integer to give every country and region concepts at random.

        Returns:
            The same world for the same arguments.

        Raises:
            ParameterError: for an impossible number of countries or an unknown assignment.
        """
        if not 2 <= n_countries <= len(COUNTRIES):
            raise ParameterError(f"n_countries is {n_countries}; choose 2 to {len(COUNTRIES)}")
        if assignment != "facts" and not isinstance(assignment, int):
            raise ParameterError(f"assignment is {assignment!r}; choose 'facts' or an integer seed")
        shuffle = () if assignment == "facts" else (int(assignment),)
        coordinates, place_countries = gallery_places()
        rows: dict[str, list[int]] = {}
        for row, country in enumerate(place_countries):
            rows.setdefault(country, []).append(row)
        names, sizes, lefts = [], [], []
        regions: list[tuple[Region, ...]] = []
        left_hand = members(DRIVES_LEFT)
        for number, everyday in enumerate(COUNTRIES[:n_countries]):
            rng = np.random.default_rng([seed, number, *shuffle])
            name = GEOCODER_NAMES.get(everyday, everyday)
            places = coordinates[rows[name]]
            typical = {slot.name: _typical(slot, everyday, assignment, rng) for slot in SLOTS}
            names.append(name)
            sizes.append(len(places) ** 0.4)
            lefts.append(everyday in left_hand if assignment == "facts" else bool(rng.random() < 0.4))
            regions.append(tuple(_make_regions(name, places, typical, rng)))
        weights = np.asarray(sizes) / np.sum(sizes)
        telling = _telling(weights, regions)
        return cls(seed, assignment, tuple(names), weights, tuple(lefts), tuple(regions), telling)

    def sample_scene(self, rng: np.random.Generator, country: str | None = None) -> Scene:
        """Draw a scene: a place, what stands there at natural frequencies, and the clue a person would write down.

        Args:
            rng: source of chance.
            country: a name of `countries`; a random one by `weights` if None.

        Returns:
            The scene.

        Raises:
            ParameterError: for a country that is not in the world.
        """
        if country is None:
            number = int(rng.choice(len(self.countries), p=self.weights))
        elif country in self.countries:
            number = self.countries.index(country)
        else:
            raise ParameterError(f"country {country!r} is not in this world; choose one of {', '.join(self.countries)}")
        regions = self.regions[number]
        sizes = np.asarray([len(region.places) for region in regions]) ** 0.7
        region = regions[int(rng.choice(len(regions), p=sizes / sizes.sum()))]
        lat, lng = region.places[rng.integers(len(region.places))] + rng.normal(0.0, JITTER_DEGREES, 2)
        lat, lng = float(np.clip(lat, -89.0, 89.0)), float((lng + 180.0) % 360.0 - 180.0)
        metas = _sample_metas(region, rng)
        labelled = _choose_label(metas, self.telling, rng)
        conditions = sample_conditions(rng, lat, self.drives_left[number])
        side = int(rng.choice([-1, 1]))
        if META_TO_SLOT[labelled] == "chevrons":  # chevrons stand on the outside of a bend
            bend = -side * float(rng.uniform(0.004, 0.009))
            conditions = replace(conditions, curve=bend)
        if META_TO_SLOT[labelled] in VERGE:  # the camera turns a little to what it features
            turn = float(rng.uniform(0.02, 0.15))
            conditions = replace(conditions, vanishing=conditions.vanishing - side * turn)
        concepts = _place_all(metas, labelled, side, conditions, rng)
        return Scene(lat, lng, region.country, region.name, self.drives_left[number], concepts, labelled, conditions)


def _typical(slot: Slot, everyday: str, assignment: str | int, rng: np.random.Generator) -> list[str]:
    """Concepts of a slot typical of a country, by the facts or at random."""
    if assignment == "facts":
        return typical_concepts(slot, everyday)
    metas = list(slot.typical)
    most = 3 if slot.regional else 2
    n = int(rng.integers(0 if slot.name in ("surface", "vehicle") else 1, most + 1))
    return [metas[i] for i in sorted(rng.choice(len(metas), size=min(n, len(metas)), replace=False))]


def _make_regions(
    name: str, places: np.ndarray, typical: dict[str, list[str]], rng: np.random.Generator
) -> list[Region]:
    """Cut a country into regions and give each its frequencies of concepts."""
    labels = _cluster(places)
    centres = np.stack([places[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    by_latitude = np.argsort(np.abs(centres[:, 0]))
    titles = _titles(name, centres)
    presence = {}
    for slot in SLOTS:
        usual = slot.presence if typical[slot.name] else slot.presence * 0.2
        presence[slot.name] = float(np.clip(usual * rng.uniform(0.75, 1.2), 0.0, 0.97))
    base = {slot.name: rng.dirichlet(np.full(max(len(typical[slot.name]), 1), 4.0)) for slot in SLOTS}
    shift = {slot.name: int(rng.integers(97)) for slot in SLOTS}
    regions = []
    for rank, label in enumerate(by_latitude):
        shares = {}
        for slot in SLOTS:
            metas = list(slot.typical)
            mine = typical[slot.name]
            share = np.full(len(metas), 0.12 / len(metas))
            for meta, part in zip(mine, base[slot.name], strict=False):
                share[metas.index(meta)] += 0.88 * part
            if slot.regional and mine:
                turn = rank * len(mine) // len(by_latitude) if slot.by_climate else rank + shift[slot.name]
                share *= 0.3
                share[metas.index(mine[turn % len(mine)])] += 0.7
            shares[slot.name] = share / share.sum()
        here = {slot: float(np.clip(value * rng.uniform(0.75, 1.2), 0.0, 0.97)) for slot, value in presence.items()}
        regions.append(Region(titles[label], name, places[labels == label], here, shares))
    return regions


def _cluster(places: np.ndarray) -> np.ndarray:
    """k-means on the sphere (Lloyd 1982) with 2 to 6 regions by the spread of the country; labels `[n]`."""
    vectors = latlng_to_cartesian(places[:, 0], places[:, 1])  # (n, 3)
    spread_km = 6371.0 * np.sqrt(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).mean())
    k = int(np.clip(round(1.8 + spread_km / 260.0), 2, 6))
    centres = [vectors[np.argmax(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1))]]
    while len(centres) < k:  # farthest-point start, on a tenth percentile so that a lone island does not rule
        away = np.min([((vectors - centre) ** 2).sum(axis=1) for centre in centres], axis=0)
        centres.append(vectors[np.argsort(away)[int(0.9 * (len(away) - 1))]])
    centre = np.stack(centres)
    labels = np.full(len(vectors), -1)
    for _ in range(25):
        before, labels = labels, ((vectors[:, None] - centre[None]) ** 2).sum(axis=2).argmin(axis=1)
        if np.array_equal(before, labels):
            break
        for label in range(k):
            if (labels == label).any():
                centre[label] = vectors[labels == label].mean(axis=0)
    kept = np.unique(labels)
    return np.searchsorted(kept, labels)


def _titles(name: str, centres: np.ndarray) -> list[str]:
    """Names such as 'Brazil south-east' from where the centre of a region lies in its country; unique."""
    middle_lat, middle_lng = cartesian_to_latlng(latlng_to_cartesian(centres[:, 0], centres[:, 1]).mean(axis=0))
    titles: list[str] = []
    for lat, lng in centres:
        east = ((lng - middle_lng + 180) % 360 - 180) * np.cos(np.deg2rad(middle_lat))
        sector = int(np.round(np.arctan2(east, lat - middle_lat) / (np.pi / 4))) % 8
        title = f"{name} {COMPASS[sector]}"
        taken = sum(other == title or other.startswith(title + " ") for other in titles)
        titles.append(title if not taken else f"{title} {taken + 1}")
    return titles


def _telling(weights: np.ndarray, regions: list[tuple[Region, ...]]) -> dict[str, float]:
    """Self-information of meeting each concept: rare ones tell more."""
    frequency = {meta: 0.0 for slot in SLOTS for meta in slot.typical}
    for weight, parts in zip(weights, regions, strict=True):
        for region in parts:
            for slot in SLOTS:
                for meta, share in zip(slot.typical, region.shares[slot.name], strict=True):
                    frequency[meta] += weight / len(parts) * region.presence[slot.name] * share
    return {meta: float(-np.log(max(value, 1e-6))) for meta, value in frequency.items()}


def _sample_metas(region: Region, rng: np.random.Generator) -> list[str]:
    """What stands in a scene of a region: each slot filled or not, then a second plant now and then."""
    metas = []
    for slot in SLOTS:
        filled = rng.random() < region.presence[slot.name]
        choice = list(slot.typical)[int(rng.choice(len(slot.typical), p=region.shares[slot.name]))]
        if filled:
            metas.append(choice)
    if any(meta in UNPAVED for meta in metas):
        metas = [meta for meta in metas if META_TO_SLOT[meta] not in ("centre line", "edge line")]
    if len(metas) < 3:
        return _sample_metas(region, rng)
    return metas


def _choose_label(metas: list[str], telling: dict[str, float], rng: np.random.Generator) -> str:
    """The concept a person would write down: telling ones by preference, not always the most telling."""
    slots = {slot.name: slot for slot in SLOTS}
    weight = np.asarray([slots[META_TO_SLOT[meta]].telling * telling[meta] for meta in metas]) ** 2.2
    return metas[int(rng.choice(len(metas), p=weight / weight.sum()))]


def _place_all(
    metas: list[str], labelled: str, featured_side: int, conditions: Conditions, rng: np.random.Generator
) -> tuple[Concept, ...]:
    """Place every concept; the labelled one near, and mostly on a side of its own."""
    concepts = []
    for meta in metas:
        slot = META_TO_SLOT[meta]
        side = int(rng.choice([-1, 1]))
        if meta == labelled:
            side = featured_side
        elif slot in (*VERGE, "vegetation") and META_TO_SLOT[labelled] in VERGE:
            # Things of the verge on one side would hide each other; most often they stand apart.
            side = -featured_side if rng.random() < 0.75 else featured_side
        concepts.append(place(meta, rng, conditions, side, meta == labelled))
    return tuple(concepts)

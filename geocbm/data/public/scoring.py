"""Scoring the answers of `geocbm predict --json` against a table of photographs whose places are known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm.data.public.administrative import UNIQUE, administrative_accuracy
from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import read_json
from geocbm.metrics import NO_INTERVAL, THRESHOLDS_KM, Resamples, geolocation_intervals, spatial_blocks
from geocbm.metrics.places import PLACE_LEVELS, places_right

NAMES_LISTED = 5
_INSTEAD = "give the file that geocbm predict --json or --parquet wrote"


def read_predictions(path: str | Path) -> dict[str, tuple[float, float]]:
    """Read the answers of `geocbm predict --json`.

    Args:
        path: a JSON list of objects with `photo`, `lat` and `lng` (degrees; null for no answer), the same one a line
            (`.jsonl`), or a table with these columns (`.parquet`).

    Returns:
        Latitude and longitude by name of the photograph, NaN for no answer.

    Raises:
        MissingInputError: there is no such file.
        ParameterError: it is no such list, or names a photograph twice with different answers.
    """
    path = Path(path)
    if not path.is_file():
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
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as parquet

            return parquet.read_table(path, columns=["photo", "lat", "lng"]).to_pylist()
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
    table: pd.DataFrame, answers: Mapping[str, tuple[float, float]], resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Compare answers with the true places of a table; a photograph without an answer is a miss.

    Args:
        table: `image_path`, `lat` and `lng` in degrees; several rows of one picture count once.
        answers: latitude and longitude by file name, as from `read_predictions`.
        resamples: of the bootstrap by spatial blocks of 100 km.
        seed: of the bootstrap.

    Returns:
        `median_km`, `mean_km`, `acc_1km` ... `acc_2500km`, `geoscore`, and `country_acc`, `region_acc`, `city_acc` (see
        `metrics.place_accuracy`), each with `value`, `low` and `high`; then `n` (photographs), `n_missing` (without an
        answer) and `n_unused` (answers to other photographs). A table with the columns `unique_country` and so on has
        the figures of `administrative_accuracy` too.

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
    lat, lng = rows["lat"].to_numpy(dtype=np.float64), rows["lng"].to_numpy(dtype=np.float64)
    figures: dict[str, Any] = dict(geolocation_intervals(places[:, 0], places[:, 1], lat, lng, n=resamples, seed=seed))
    missing = int((~np.isfinite(places).all(axis=1)).sum())
    if len(rows):
        draws = Resamples(spatial_blocks(lat, lng), resamples, seed)
        figures |= {
            name: draws.figure(right) for name, right in places_right(places[:, 0], places[:, 1], lat, lng).items()
        }
        figures |= administrative_accuracy(rows, places[:, 0], places[:, 1], resamples, seed)
    return figures | {"n": len(rows), "n_missing": missing, "n_unused": len(unused)}


def scores_in_words(scores: Mapping[str, Any]) -> str:
    """The figures of `score_predictions`, one a line, with 95 % intervals."""
    lines = [f"photographs         {scores['n']:,} ({scores['n_missing']:,} without an answer, counted as misses)"]
    for limit in THRESHOLDS_KM:
        lines.append(f"within {limit:>4} km      " + _with_interval(scores[f"acc_{limit}km"], 100, ".1f", " %"))
    lines.append("median error        " + _with_interval(scores["median_km"], 1, ",.1f", " km"))
    missing = " (of the answers there are)" if scores["n_missing"] else ""
    lines.append("mean error          " + _with_interval(scores["mean_km"], 1, ",.1f", " km") + missing)
    lines.append("GeoScore            " + _with_interval(scores["geoscore"], 1, ",.0f", ""))
    lines.append("named right by country polygon, and the nearest town in that country:")
    for level in PLACE_LEVELS:
        lines.append(f"  {level:<18}" + _with_interval(scores[f"{level}_acc"], 100, ".1f", " %"))
    own = [level for level in UNIQUE if f"osv5m_{level}_acc" in scores]
    if own:
        lines.append(
            "named right by the table's unique_ columns, as OSV-5M counts (nearest town; unnamed places left out):"
        )
    for level in own:
        lines.append(
            f"  {level:<18}"
            + _with_interval(scores[f"osv5m_{level}_acc"], 100, ".1f", " %")
            + f"; the true places would get {100 * scores[f'osv5m_{level}_agreement']:.1f} %"
        )
    if math.isnan(scores["geoscore"]["low"]):
        lines.append(f"{NO_INTERVAL} of 100 km hold all photographs, too few to say how sure these figures are")
    if scores["n_unused"]:
        lines.append(f"{scores['n_unused']:,} predictions belong to no picture of the table")
    return "\n".join(lines)


def _with_interval(figure: Mapping[str, float], factor: float, form: str, unit: str) -> str:
    def write(number: float) -> str:
        return format(factor * number, form) if math.isfinite(number) else "no answer"

    value = write(figure["value"]) + (unit if math.isfinite(figure["value"]) else "")
    if math.isnan(figure["low"]):
        return value
    return f"{value} ({write(figure['low'])} to {write(figure['high'])})"

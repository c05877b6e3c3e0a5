"""Benchmarks: metrics that other projects published, to stand beside a run on the same data and beside no other.

The figures were copied from the sources named in each row, not measured here. "Secondary source" means a survey or the
table of another team, where pictures and code may differ a little from the owners'.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from geocbm.metrics import THRESHOLDS_KM

OSV5M_TEST_IMAGES = 210_122
"""Pictures of the test split of OSV-5M, on which its published figures were taken."""

WITHIN = tuple(f"acc_{limit}km" for limit in THRESHOLDS_KM)
"""Columns of shares of pictures within a distance, between 0 and 1 as in `geocbm.metrics`."""

_PERCENT_OF_PLACES = {"country_acc": "country", "region_acc": "region", "city_acc": "city"}
_PERCENT_OF_CONCEPTS = {name: name for name in ("meta_top1", "meta_top5", "parent_top1", "parent_top5")}
"""Names of percentages in the file, by column."""


@cache
def _content() -> dict[str, list[dict[str, Any]]]:
    return json.loads((files("geocbm") / "evaluation" / "published.json").read_text(encoding="utf-8"))


def _frame(part: str, *columns: str) -> pd.DataFrame:
    """A part of the file with `source`, its percentages as shares; NaN where a source gives none."""
    names = ["data_set", "system", *columns, "source"]
    rows = []
    for entry in _content()[part]:
        percent = dict(zip(WITHIN, entry.get("percent", [None] * len(WITHIN)), strict=True))
        percent |= {column: entry.get(name) for column, name in (_PERCENT_OF_PLACES | _PERCENT_OF_CONCEPTS).items()}
        shares = {name: round(value / 100, 4) for name, value in percent.items() if value is not None}
        rows.append({name: (entry | shares).get(name, math.nan) for name in names})
    return pd.DataFrame(rows, columns=names)


def tables() -> dict[str, pd.DataFrame]:
    """Published metrics by what they are of: photographs, the test split of OSV-5M, and data sets of the projects' own.

    Columns are `data_set, system`, `year` of photographs, metrics between 0 and 1 or in km, and `source`.
    """
    photographs = _whole_years(_frame("photo_benchmarks", "year", *WITHIN))
    of = {name: photographs[photographs["data_set"] == name].reset_index(drop=True) for name in ("im2gps3k", "yfcc4k")}
    return {
        "Photographs: Im2GPS3k": of["im2gps3k"],
        "Photographs: YFCC4k": of["yfcc4k"],
        "Street view: OSV-5M": _frame("street_view", "geoscore", "mean_km", *_PERCENT_OF_PLACES, *WITHIN),
        "Places: own data": _frame("own_data", "median_km", *WITHIN),
        "Concepts: own data": _frame("concepts", *_PERCENT_OF_CONCEPTS),
    }


def data_set_of(table: pd.DataFrame) -> str | None:
    """Which published data set a table is, as `geocbm data` marks it in the columns `data_set` and `split`.

    None unless every row is of that data set's test pictures: on the training part of OSV-5M nothing was published.
    """
    if not len(table) or not {"data_set", "split"} <= set(table.columns):
        return None
    names, splits = set(table["data_set"]), set(table["split"])
    if len(names) != 1 or splits != {"test"}:
        return None
    return {"im2gps3k": "im2gps3k", "yfcc4k": "yfcc4k", "osv5m": "osv5m test"}.get(str(names.pop()))


def with_ours(
    published: pd.DataFrame, table: pd.DataFrame, measured: Mapping[str, Any], system: str = "this run"
) -> pd.DataFrame:
    """One of `tables` with a row of ours, if and only if it was measured on that data set.

    `table` are the rows that were scored, `measured` numbers or objects with `value`, of which those with a column are
    shown. The row's `source` says how many pictures were scored, since a part of a test set, or a split that a run made
    of it for itself, is not the published protocol.
    """
    name = data_set_of(table)
    of_same = (published["data_set"] == name).to_numpy()
    if name is None or not of_same.any():
        return published.copy()
    values = {key: own["value"] if isinstance(own, Mapping) else own for key, own in measured.items()}
    n = table["image_path"].nunique()
    part = f" of {OSV5M_TEST_IMAGES:,}" if name == "osv5m test" and n != OSV5M_TEST_IMAGES else ""
    row: dict[str, Any] = {column: values.get(column, math.nan) for column in published.columns}
    row |= {"data_set": name, "system": system, "source": f"measured here on {n:,}{part} pictures"}
    last = int(of_same.nonzero()[0][-1]) + 1
    # Joined as records, because pandas warns when a frame with empty columns is concatenated.
    records = published.to_dict("records")
    joined = pd.DataFrame([*records[:last], row, *records[last:]], columns=published.columns)
    return _whole_years(joined)


def _whole_years(table: pd.DataFrame) -> pd.DataFrame:
    return table.astype({"year": "Int64"}) if "year" in table else table

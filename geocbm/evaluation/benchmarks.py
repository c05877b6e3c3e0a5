"""Benchmarks: metrics that other projects published, to stand beside a run on the same data and beside no other.

The figures were copied from the sources named in each row, not measured here. "Secondary source" means a survey or the
table of another team, where pictures and code may differ a little from the owners'.
"""

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

COLUMNS = {
    "Photographs: Im2GPS3k": ("year", *WITHIN),
    "Photographs: YFCC4k": ("year", *WITHIN),
    "Street view: OSV-5M": ("geoscore", "mean_km", "country_acc", "region_acc", "city_acc", *WITHIN),
    "Places: own data": ("median_km", *WITHIN),
    "Concepts: own data": ("meta_top1", "meta_top5", "parent_top1", "parent_top5"),
}
"""What was published, by what it is of: photographs, the test split of OSV-5M, and data sets of the projects' own."""


@cache
def _published() -> pd.DataFrame:
    return pd.read_csv(str(files("geocbm") / "evaluation" / "published.csv"), dtype={"year": "Int64"})


def tables() -> dict[str, pd.DataFrame]:
    """Published metrics by the names of `COLUMNS`: `data_set, system`, metrics between 0 and 1 or in km, `source`."""
    table = _published().set_index("table")
    return {
        name: table.loc[[name], ["data_set", "system", *columns, "source"]].reset_index(drop=True)
        for name, columns in COLUMNS.items()
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
    return pd.DataFrame([*records[:last], row, *records[last:]], columns=published.columns).astype(
        {"year": "Int64"} if "year" in published else {}
    )

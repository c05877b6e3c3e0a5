"""Formatting: how a metric with its interval is written and kept, and tables of them as a page shows them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from geocbm.metrics.resamples import FEWEST_BLOCKS
from geocbm.metrics.table import Metric, in_brackets, known, metric

NO_INTERVAL = f"no interval: fewer than {FEWEST_BLOCKS} blocks of ground"
NOISE = "no difference beyond noise"


def interval_text(entry: float | Mapping[Any, Any], write: Callable[[float], str]) -> str:
    """A metric with its interval, such as `412 [380, 447]`; `412 (no interval)` where its ends are not known.

    The entry is a number, or `value`, `low` and `high`. An infinite median, in the value or at an end, is one over
    missing answers and reads "no answer"; a value that was not measured (NaN) is an empty text.
    """

    def finite(number: float) -> str:
        return write(number) if np.isfinite(number) else "no answer"

    if not isinstance(entry, Mapping):
        return "" if np.isnan(entry) else finite(entry)
    value, low, high = (float(entry[key]) for key in ("value", "low", "high"))
    if np.isnan(value):
        return ""
    if np.isnan(low) or np.isnan(high):
        return f"{finite(value)} (no interval)"
    return in_brackets(finite(value), finite(low), finite(high))


def estimate_text(entry: Mapping[Any, Any], form: str = "{:,.0f}", factor: float = 1.0) -> str:
    """`interval_text` with a format string, and a factor such as 100 for percentages."""
    return interval_text(entry, lambda value: form.format(factor * value))


def columns_of(name: str, entry: Mapping[Any, Any]) -> dict[str, float]:
    """A metric with its interval as columns of a table: `<name>`, `<name>_low` and `<name>_high`."""
    return {name: entry["value"], f"{name}_low": entry["low"], f"{name}_high": entry["high"]}


def entry_of(row: Mapping[Any, Any], name: str) -> dict[str, float]:
    """The inverse of `columns_of`: `value`, `low` and `high` of a row."""
    return {"value": row[name], "low": row.get(f"{name}_low", np.nan), "high": row.get(f"{name}_high", np.nan)}


def entries_of(frame: pd.DataFrame | None, by: str, name: str) -> dict[str, dict[str, float]]:
    """`entry_of` every row by its text in a column; nothing where a table was not made."""
    return {} if frame is None else {str(row[by]): entry_of(row, name) for row in frame.to_dict("records")}


def interval_frame(rows: Mapping[str, Mapping[str, Mapping[Any, Any]]], head: str = "name") -> pd.DataFrame:
    """Metrics with intervals as a table for `readable`: a row per name, which stands in the column `head`."""
    table = []
    for name, own in rows.items():
        row: dict[str, Any] = {head: name}
        for quantity, entry in own.items():
            row |= columns_of(quantity, entry)
        table.append(row)
    return pd.DataFrame(table)


def readable(frame: pd.DataFrame, labels: Mapping[str, str | Metric] | None = None) -> pd.DataFrame:
    """A table of numbers as a page shows it: each metric under its label and unit, with its interval in brackets.

    Columns named after a quantity of the table of metrics (`median_km`, `country_acc`, `geoscore_change`) are written
    in its unit; with `<name>_low` and `<name>_high` beside them they stand with their interval. Other columns stay as
    they are. Labels are heads of columns; a `Metric` instead says which unit a column has that is not called after one.
    """
    labels = labels or {}
    shown: dict[str, Any] = {}
    for name in map(str, frame.columns):
        base = name.removesuffix("_low").removesuffix("_high")
        if base != name and base in frame:
            continue
        given = labels.get(name)
        own = given if isinstance(given, Metric) else metric(f"stage2.{name}") if known(f"stage2.{name}") else None
        head = given if isinstance(given, str) else name if own is None else own.axis
        if own is None:
            shown[head] = frame[name].to_numpy()
            continue
        bounded = f"{name}_low" in frame
        rows = frame.to_dict("records")
        shown[head] = [interval_text(entry_of(row, name) if bounded else float(row[name]), own.write) for row in rows]
    return pd.DataFrame(shown, index=frame.index)


def recordable(entry: float | Mapping[Any, Any]) -> float | dict[str, float] | None:
    """A metric as a run keeps it: with its interval, as a number where an end is not finite, None without a value."""
    kept = {key: float(entry[key]) for key in ("value", "low", "high")} if isinstance(entry, Mapping) else {}
    value = kept["value"] if isinstance(entry, Mapping) else float(entry)
    if not np.isfinite(value):
        return None
    return kept if kept and np.isfinite(list(kept.values())).all() else value


def recordables(entries: Mapping[str, float | Mapping[Any, Any]]) -> dict[str, float | dict[str, float]]:
    """What may be kept of several metrics by name; those without a finite value are left out (see `recordable`)."""
    kept = {name: recordable(entry) for name, entry in entries.items()}
    return {name: entry for name, entry in kept.items() if entry is not None}


def metric_table(prefix: str, entries: Mapping[str, Any]) -> pd.DataFrame:
    """Labels and values of some metrics: columns `metric, value`, the names as index; `prefix` stands in their keys."""
    rows = {}
    for name, entry in entries.items():
        own, kept = metric(f"{prefix}.{name}"), recordable(entry)
        rows[name] = (own.label, "no answer" if kept is None else own.entry(kept))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["metric", "value"])


def verdict(change: Mapping[Any, Any], more_is_better: bool) -> str:
    """A paired difference, of a method minus another, in words: "better" or "worse" only where it excludes 0."""
    value, low, high = (float(change[key]) for key in ("value", "low", "high"))
    if np.isnan(value):
        return "not comparable: most answers are missing"
    if np.isnan(low) or np.isnan(high):
        return NO_INTERVAL
    if low <= 0 <= high:
        return NOISE
    return "better" if (value > 0) == more_is_better else "worse"

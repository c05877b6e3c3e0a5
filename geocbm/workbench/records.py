"""Figures that notebooks measure: one file of records per notebook, merged into the run's flat ``metrics.json``."""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from geocbm.errors import ParameterError
from geocbm.files import paths, read_json, write_json
from geocbm.workbench.stages import NUMBER_GLOB

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")


def check_key(key: str) -> str:
    """Return a dotted key.

    Raises:
        ParameterError: If it has no dot or holds anything but letters, digits, dashes and underscores between dots.
    """
    if not _KEY.fullmatch(key):
        raise ParameterError(f"record {key!r} needs a dotted name such as 'stage2.median_km'")
    return key


def check_value(key: str, value: Any) -> float | int | dict[str, float]:
    """Return a finite number, or a dict of ``value``, ``low`` and ``high``, as plain Python numbers.

    Raises:
        ParameterError: If it is neither.
    """
    if isinstance(value, Mapping):
        if set(value) != {"value", "low", "high"}:
            raise ParameterError(f"record {key!r} has the entries {sorted(value)}; an interval has value, low and high")
        return {name: float(_number(key, value[name])) for name in ("value", "low", "high")}
    return _number(key, value)


def _number(key: str, value: Any) -> float | int:
    if hasattr(value, "item") and getattr(value, "size", 1) in (1,):
        value = value.item()  # NumPy and torch scalars
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ParameterError(f"record {key!r}={value!r} is not a finite number; leave out what was not measured")
    return int(value) if isinstance(value, int) else float(value)


def write_remarks(run: str, number: str, remarks: Sequence[str]) -> None:
    """Keep what a notebook says to whoever runs it; without remarks those of an earlier execution are removed."""
    file = _remarks_file(run, number)
    if remarks:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, list(remarks))
    else:
        file.unlink(missing_ok=True)


def read_remarks(run: str, number: str) -> list[str]:
    """What a notebook said to whoever runs it."""
    file = _remarks_file(run, number)
    return [str(one) for one in read_json(file)] if file.is_file() else []


def _remarks_file(run: str, number: str) -> Path:
    return paths.run_folder(run) / "remarks" / f"{number}.json"


def merge(run: str) -> dict[str, Any]:
    """Merge the records of a run's notebooks into ``reports/<run>/metrics.json``.

    A notebook that ran again replaces its own figures; the ones it no longer measures vanish.

    Returns:
        The flat mapping from dotted key to figure.
    """
    merged: dict[str, Any] = {}
    for file in sorted((paths.run_folder(run) / "records").glob(f"{NUMBER_GLOB}.json")):
        merged.update(read_json(file))
    write_json(paths.report_folder(run) / "metrics.json", merged)
    return merged

"""What was set differently in two runs, as far as it can change an answer."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from geocbm.evaluation.compare_runs.load_runs import ComparedRun

STAGES = ("01", "02", "03", "04", "05")
"""Notebooks that make the answers of a run; the others measure or show them."""

WITHOUT_EFFECT = frozenset(
    ["run", "tracking", "examples", "gallery_columns", "encode_batch_size", "max_cache_gb", "bootstrap", "variants"]
)
"""Parameters of these notebooks that change pages, further models or the use of memory, and no answer of the run."""

TRAINING_SEEDS = tuple(f"{number}.seed" for number in ("02", "03", "04", "05"))
"""Seeds of cells, weights and batches. That of 01 draws other test images."""

_UNKNOWN = object()
_SHOWN = 44


def settings(run: ComparedRun) -> dict[str, Any]:
    """What can change an answer: `NN.name` with its value, and digests of files that parameters name."""
    found: dict[str, Any] = {}
    for number in STAGES:
        stage = run.stages.get(number, {})
        parameters = dict(stage.get("parameters") or {})
        found |= {f"{number}.{name}": value for name, value in parameters.items() if name not in WITHOUT_EFFECT}
        for name, digest in dict(stage.get("inputs") or {}).items():
            parameter = str(name).removeprefix("parameter:")
            if parameter != name and parameter not in WITHOUT_EFFECT:
                found[f"{number}.{parameter} (content)"] = digest
    return found


def differing(runs: Sequence[ComparedRun]) -> dict[str, list[Any]]:
    """Values of settings that are recorded in at least two runs and not the same in all of these."""
    columns = [settings(run) for run in runs]
    found: dict[str, list[Any]] = {}
    for key in sorted(set().union(*columns)):
        values = [column.get(key, _UNKNOWN) for column in columns]
        known = [value for value in values if value is not _UNKNOWN]
        if any(value != known[0] for value in known):
            found[key] = values
    # Another name has another content; only the same name with another content is worth a line.
    return {
        key: values
        for key, values in found.items()
        if not key.endswith(" (content)") or key.removesuffix(" (content)") not in found
    }


def different_parameters(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """Parameters that can change an answer and are not the same in all runs, one row each, one column per run.

    A place is empty where the value is that of the first run, and a dash stands where a run has not recorded the
    parameter; long values are cut in the middle.
    """
    names = [run.name for run in runs]
    rows = []
    for key, values in differing(runs).items():
        same = [False, *(value is not _UNKNOWN and value == values[0] for value in values[1:])]
        rows.append([key, *("" if equal else _shown(value) for equal, value in zip(same, values, strict=True))])
    return pd.DataFrame(rows, columns=["parameter", *names])


def _shown(value: Any) -> str:
    if value is _UNKNOWN:
        return "–"
    text = "(empty)" if value == "" else str(value)
    half = (_SHOWN - 3) // 2
    return text if len(text) <= _SHOWN else f"{text[:half]} … {text[-half:]}"


def made_otherwise(runs: Sequence[ComparedRun]) -> pd.DataFrame:
    """What is no parameter and differs from the first run: a difference is then hard to blame on a parameter.

    A row per run that differs: the `stages` that only one of the two has run, modules whose `code` differs, `devices`.
    """
    rows = []
    for other in runs[1:]:
        alone: list[str] = []
        code: dict[str, None] = {}
        devices = set()
        for number in STAGES:
            before, now = (run.stages.get(number) for run in (runs[0], other))
            if before is None or now is None:
                alone += [number] if before is not now else []
                continue
            old, new = _code(before), _code(now)
            code |= dict.fromkeys(name for name in sorted(old | new) if old.get(name) != new.get(name))
            devices.add((before.get("device"), now.get("device")))
        moved = [f"{now} instead of {before}" for before, now in sorted(devices, key=str) if before != now]
        if alone or code or moved:
            rows.append([other.name, ", ".join(alone), ", ".join(code), ", ".join(moved)])
    return pd.DataFrame(rows, columns=["run", "stages of one only", "code that differs", "device"])


def _code(stage: dict[str, Any]) -> dict[str, Any]:
    """Digests of the code behind a stage that can change an answer, without pages and pictures."""
    pages = ("geocbm.plots", "geocbm.workbench")
    return {name: digest for name, digest in dict(stage.get("sources") or {}).items() if not name.startswith(pages)}

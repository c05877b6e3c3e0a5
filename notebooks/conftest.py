"""nbval opens the notebooks on run `smoke`, and leaves out of its comparison what differs from machine to machine."""

import os
from typing import Any

os.environ.setdefault("GEOCBM_RUN", "smoke")

NOT_COMPARED = (
    "text/plain",
    "text/html",
    "image/png",
    "image/jpeg",
    "image/svg+xml",
    "application/vnd.plotly.v1+json",
    "application/vnd.jupyter.widget-view+json",
    "stderr",
)


def pytest_collectstart(collector: Any) -> None:
    """Extend what nbval skips: figures and tables are looked at in reports, contracts are compared here.

    Args:
        collector: a pytest collector; nbval's carries ``skip_compare``.
    """
    if hasattr(collector, "skip_compare"):
        collector.skip_compare = (*collector.skip_compare, *NOT_COMPARED)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Let a contract's expected output stand without an execution count.

    nbval refuses an expected output of a cell that carries no count, while a pair is kept free of traces of execution.

    Args:
        items: the collected cells.
    """
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is not None and cell.get("outputs") and cell.get("execution_count") is None:
            cell["execution_count"] = 1

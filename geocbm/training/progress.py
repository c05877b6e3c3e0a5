"""Progress bars where somebody watches, and silence where nobody does."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

_UNATTENDED = ("CI", "PYTEST_VERSION")
"""Set where tests run; a kernel that nbval starts inherits them."""


def is_watched(environment: Mapping[str, str] | None = None) -> bool:
    """Whether somebody sees a bar move: at a terminal, or in a notebook that JupyterLab opened.

    A kernel of papermill or nbval looks like one of JupyterLab from within, but only a server that has a page for it
    tells it the name of its session.

    Args:
        environment: environment variables; those of the process by default.
    """
    environment = os.environ if environment is None else environment
    if any(environment.get(name) for name in _UNATTENDED):
        return False
    interactive_python = sys.modules.get("IPython")
    shell = interactive_python.get_ipython() if interactive_python is not None else None
    if getattr(shell, "kernel", None) is not None:
        return bool(environment.get("JPY_SESSION_NAME"))
    return sys.stderr is not None and sys.stderr.isatty()


def progress_bar(n_steps: int, title: str, shown: bool) -> Any:
    """A bar of tqdm over the steps of an epoch, to be used as a context; it leaves no trace when it ends.

    Args:
        n_steps: steps until it is full.
        title: what stands before it.
        shown: whether there is one at all.
    """
    from tqdm import auto, std

    # Where nothing is shown the plain class serves: the one for notebooks would look for widgets.
    bar = auto.tqdm if shown else std.tqdm
    return bar(total=n_steps, desc=title, leave=False, disable=not shown, unit="step")

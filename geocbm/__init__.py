"""geocbm: a notebook-first workbench for image geolocation that explains itself through concepts.

`geocbm.open_run()` gives the newest finished run, `geocbm.GeoCBM.load(run)` its model from pixels to concepts to place.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["GeoCBM", "__version__", "open_run"]

_LAZY = {"open_run": "geocbm.run", "GeoCBM": "geocbm.predict"}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: torch takes seconds, which `geocbm --version` need not wait."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'geocbm' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers."""
    return __all__

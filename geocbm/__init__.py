"""geocbm: a notebook-first workbench for image geolocation that explains itself through concepts."""

__version__ = "0.1.0"

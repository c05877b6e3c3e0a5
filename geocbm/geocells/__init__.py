"""Geocells: each country cut into cells by k-means on unit vectors (specification, section Semantic Geocells)."""

from geocbm.geocells.building import GeocellsConfig, build_geocells
from geocbm.geocells.cells import Geocells, oracle_error_km

"""Settings of the geocells."""

from __future__ import annotations

from dataclasses import dataclass

from geocbm.errors import ParameterError


@dataclass(frozen=True)
class GeocellsConfig:
    """Settings of the geocells; the defaults are the specification's (section "Semantic Geocells").

    Attributes:
        min_samples_per_cell: a country with n training pictures gets `n // min_samples_per_cell` cells, at least one;
            k-means does not enforce that many in each.
        merge_below: cells with fewer training pictures are merged into the nearest cell of their country; 0 leaves
            them, as the specification does.
        seed: seed of k-means; the answer does not depend on the order of the samples or the number of threads.
    """

    min_samples_per_cell: int = 500
    merge_below: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("min_samples_per_cell", 1), ("merge_below", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ParameterError(f"{name} is {value!r}; give a whole number of at least {least}.")

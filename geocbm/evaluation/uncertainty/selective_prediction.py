"""Selective prediction: what is gained by leaving out the photographs the model is least sure of."""

from __future__ import annotations

import numpy as np
import pandas as pd

from geocbm.errors import ParameterError

FAR_KM = 750.0


def confidence_order(confidence: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows from the surest to the least sure, NaN last; ties stand in random order, so that they gain nothing."""
    lot = np.random.default_rng(seed).random(len(confidence))
    return np.lexsort((lot, -np.where(np.isnan(confidence), -np.inf, confidence)))


def risk_coverage(confidence: np.ndarray, km: np.ndarray, points: int = 100, seed: int = 0) -> pd.DataFrame:
    """Error among the photographs that are kept when the least sure ones are left out (El-Yaniv & Wiener 2010).

    `points` evenly spaced shares are tried. Minus the error as `confidence` `[n]` gives the best possible order; `km`
    `[n]` is infinite where there is no answer.

    Returns:
        Columns `kept` (share of the photographs), `n`, `median_km` and `beyond_750km` (share of the kept).

    Raises:
        ParameterError: no photographs, or different lengths.
    """
    ordered, counts, far = _kept(confidence, km, points, seed)
    return pd.DataFrame(
        {
            "kept": np.arange(1, points + 1) / points,
            "n": counts,
            "median_km": [float(np.median(ordered[:count])) for count in counts],
            "beyond_750km": far,
        }
    )


def _kept(confidence: np.ndarray, km: np.ndarray, points: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors from the surest on, how many are kept at each share, and the share of far ones among them."""
    if not len(km) or len(km) != len(confidence):
        raise ParameterError(
            f"confidence has {len(confidence)} and km has {len(km)} entries; give one for each photograph"
        )
    ordered = np.asarray(km, dtype=float)[confidence_order(np.asarray(confidence, dtype=float), seed)]
    counts = np.maximum(1, np.ceil(np.arange(1, points + 1) / points * len(km) - 1e-9)).astype(int)
    return ordered, counts, np.cumsum(~(ordered <= FAR_KM))[counts - 1] / counts


def risk_areas(orders: dict[str, np.ndarray], km: np.ndarray, points: int = 100, seed: int = 0) -> pd.DataFrame:
    """Area under the curve of the share beyond 750 km, for several `orders` by confidence `[n]`, by name.

    Returns:
        Columns `name`, `area` (mean share beyond 750 km over all shares kept) and `gain`: how much of the way from a
        random order (0) to the order by the true error (1) it goes; NaN where both are the same. The last two rows
        are these two.
    """
    random = float((~(km <= FAR_KM)).mean())
    oracle = float(_kept(-km, km, points, seed)[2].mean())
    rows = [(name, float(_kept(sure, km, points, seed)[2].mean())) for name, sure in orders.items()]
    table = pd.DataFrame([*rows, ("random order", random), ("true error", oracle)], columns=["name", "area"])
    return table.assign(gain=(random - table["area"]) / (random - oracle if random > oracle else np.nan))

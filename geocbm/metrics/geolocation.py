"""Distances between predicted and true places, and the scores made from them."""

from typing import Any

import numpy as np

from geocbm.geodesy import haversine_km
from geocbm.metrics.inputs import array, column, same_length

THRESHOLDS_KM: tuple[int, ...] = (1, 25, 200, 750, 2500)
"""Street, city, region, country and continent, the levels of the im2gps benchmarks."""

GEOSCORE_SCALE_KM = 1492.7
GEOGUESSR_SCALE_KM = 1491.6862
MAX_SCORE = 5000.0


def error_km(pred_lat: Any, pred_lng: Any, true_lat: Any, true_lng: Any) -> np.ndarray:
    """Great-circle distances `[n]` from predictions to the truth, infinite where one is missing (DECISIONS M1).

    `2 R arcsin(sqrt(sin^2(dlat / 2) + cos(lat1) cos(lat2) sin^2(dlng / 2)))` with R = 6371.0 km (haversine formula), of
    latitudes and longitudes `[n]` in degrees; a prediction with a value that is not finite is missing.

    Raises:
        ValueError: different lengths, a true coordinate that is missing, or a latitude outside +-90.
    """
    given = {"pred_lat": pred_lat, "pred_lng": pred_lng, "true_lat": true_lat, "true_lng": true_lng}
    columns = {name: column(values, name, empty=True) for name, values in given.items()}
    same_length(**columns)
    finite = {name: np.isfinite(values) for name, values in columns.items()}
    for name in ("true_lat", "true_lng"):
        bad = np.flatnonzero(~finite[name])
        if len(bad):
            raise ValueError(f"{name} must be known everywhere, but row {bad[0]} is {columns[name][bad[0]]}")
    for name in ("pred_lat", "true_lat"):
        bad = np.flatnonzero(finite[name] & (np.abs(columns[name]) > 90 + 1e-6))
        if len(bad):
            raise ValueError(
                f"{name} must lie within -90 and 90 degrees, but row {bad[0]} is {columns[name][bad[0]]}; "
                "are latitude and longitude swapped?"
            )
    missing = ~(finite["pred_lat"] & finite["pred_lng"])
    lat, lng = np.where(missing, 0.0, columns["pred_lat"]), np.where(missing, 0.0, columns["pred_lng"])
    return np.where(missing, np.inf, haversine_km(lat, lng, columns["true_lat"], columns["true_lng"]))


def _score(km: Any, scale: float) -> np.ndarray:
    distance = array(km, "km")
    if (distance < 0).any():
        raise ValueError(f"km must not be negative, but the smallest is {np.nanmin(distance)}")
    return MAX_SCORE * np.exp(-np.where(np.isnan(distance), np.inf, distance) / scale)


def geoscore(km: Any) -> Any:
    """GeoScore `5000 exp(-km / 1492.7)`: 5000 at the true place, 0 far away, half at about 1035 km (DECISIONS M2).

    As the evaluation of OSV-5M (Astruc et al. 2024) and PLONK (Dufour et al. 2025) prints it. Of one distance a float,
    of any number of them an array of the same shape; missing ones (NaN or infinite) have 0.
    """
    score = _score(km, GEOSCORE_SCALE_KM)
    return float(score) if score.ndim == 0 else score


def geoguessr_points(km: Any) -> Any:
    """Whole points as GeoGuessr's servers give them on the world map: `round(5000 exp(-km / 1491.6862))`.

    DECISIONS M2; halves are rounded up. Of one distance an int, else as `geoscore`.
    """
    points = np.floor(_score(km, GEOGUESSR_SCALE_KM) + 0.5).astype(np.int64)
    return int(points) if points.ndim == 0 else points


def geolocation_metrics(pred_lat: Any, pred_lng: Any, true_lat: Any, true_lng: Any) -> dict[str, float]:
    """Median and mean error, accuracy within five distances, and GeoScore (DECISIONS M1, M2 and M5).

    - `median_km`: median error in km over all rows; a missing prediction lies infinitely far, so that the median is
      infinite when half or more are missing.
    - `mean_km`: mean error in km over the predictions present, NaN when there is none.
    - `acc_1km`, `acc_25km`, `acc_200km`, `acc_750km`, `acc_2500km`: share of all rows, from 0 to 1, whose error is at
      most the distance (street, city, region, country and continent of the specification, section Evaluation Metrics,
      and of the im2gps benchmarks); a missing prediction is a miss.
    - `geoscore`: mean of `geoscore` over all rows, from 0 to 5000, a missing prediction scoring 0.
    - `n`, `n_missing`: all rows, and those without a prediction.

    Arguments and errors are those of `error_km`, and there must be rows.
    """
    km = error_km(column(pred_lat, "pred_lat"), pred_lng, true_lat, true_lng)
    present = np.isfinite(km)
    metrics: dict[str, float] = {
        "median_km": float(np.median(km)),
        "mean_km": float(km[present].mean()) if present.any() else float("nan"),
    }
    metrics |= {f"acc_{limit}km": float((km <= limit).mean()) for limit in THRESHOLDS_KM}
    return metrics | {"geoscore": float(geoscore(km).mean()), "n": len(km), "n_missing": int((~present).sum())}

"""Area efficiency: how much ground must be searched, cell after cell, until the place is found (DECISIONS M7).

The cells of each image are put into an order, the most probable first, and searched until the true one is reached. The
share of images found within an area, drawn against the logarithm of that area, is the recall-against-area curve; the
part of the plane below it, from `SMALLEST_KM2` to `LARGEST_KM2`, is the area efficiency.
"""

import numpy as np
import pandas as pd

from geocbm.evaluation.uncertainty.assessment import Assessment
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics import Estimate, columns_of, entry_of, estimate_columns, recordables
from geocbm.metrics.table import Metric, metric
from geocbm.run import Run

SMALLEST_KM2, LARGEST_KM2 = 1e3, 1.5e8
"""Ends of the axis, from a city to all land: the same for every run, so that runs can be compared."""
LIMITS_KM2 = (1e4, 1e5, 1e6)
OWN, BY_DISTANCE, BY_FREQUENCY = "probability", "distance", "frequency"
"""Orders: the run's probabilities; circles around its answered point; how often cells occur in training."""
ORDER_LABELS = {OWN: "by probability", BY_DISTANCE: "around the answered point", BY_FREQUENCY: "by training frequency"}
LABELS: dict[str, str | Metric] = {
    "efficiency": metric("sure.area_efficiency"),
    "median_km2": metric("sure.searched_km2"),
    "over_probability": metric("sure.area_efficiency_change").relabelled("minus that by probability"),
    **{f"recall_{limit:.0f}": metric("stage2.acc_1km").relabelled(f"within {limit:,.0f} km²") for limit in LIMITS_KM2},
}


def searched_km2(scores: np.ndarray, true_cell: np.ndarray, cell_km2: np.ndarray) -> np.ndarray:
    """Ground that is searched before the true cell is done, itself included, `[n]` km², of cells with ground `[N]`.

    The cell with the highest of the scores `[n, N]`, or `[N]` for all images, is searched first, of equal ones the
    lower.
    """
    table = np.broadcast_to(scores, (len(true_cell), len(cell_km2)))
    own = table[np.arange(len(true_cell)), true_cell][:, None]
    before = (table > own) | ((table == own) & (np.arange(len(cell_km2)) < true_cell[:, None]))
    return before @ cell_km2 + cell_km2[true_cell]


def area_efficiency(km2: np.ndarray) -> np.ndarray:
    """Part of the logarithmic axis that lies beyond each searched area `[n]`, 0 to 1.

    Its mean over images is the area under the curve.
    """
    span = np.log(LARGEST_KM2 / SMALLEST_KM2)
    return np.log(LARGEST_KM2 / np.clip(km2, SMALLEST_KM2, LARGEST_KM2)) / span


def searched_areas(files: Run, found: Assessment) -> dict[str, np.ndarray]:
    """Searched ground `[n]` km² of the test images of a run by order (`ORDER_LABELS`)."""
    n_cells, points = len(files.cells), found.points[found.choice.point]
    lat, lng = cartesian_to_latlng(files.cells.centers)
    areas = {name: np.empty(len(found.right)) for name in ORDER_LABELS}
    for rows in found.calibrated.chunks():
        answer_lat, answer_lng = (np.asarray(values)[rows, None] for values in points)
        near = haversine_km(answer_lat, answer_lng, lat, lng)  # (m, N)
        orders = {
            OWN: found.calibrated.probabilities(rows),
            # Without an answer there is no circle: such an image is found last.
            BY_DISTANCE: -np.where(np.isfinite(near), near, np.inf),
            BY_FREQUENCY: np.bincount(files.cell_label[files.pictures["train"]], minlength=n_cells),
        }
        for name, scores in orders.items():
            areas[name][rows] = searched_km2(scores, found.true_cell[rows], found.cell_km2)
    return areas


def recall_curves(areas: dict[str, np.ndarray], steps: int = 120) -> pd.DataFrame:
    """Share of images found within each of `steps` areas along the axis: `km2`, and a column for each label."""
    km2 = np.geomspace(SMALLEST_KM2, LARGEST_KM2, steps)
    shares = {
        ORDER_LABELS[name]: np.searchsorted(np.sort(own), km2, side="right") / len(own) for name, own in areas.items()
    }
    return pd.DataFrame({"km2": km2} | shares)


def measure_areas(files: Run, found: Assessment) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Search for the test images of a run in every order: `searched_areas`, and a row per order.

    Its columns are `order` (its label), and with their intervals `efficiency`, `over_probability` (paired, minus that
    of the run's own order), `median_km2` searched, and the share `recall_<limit>` found within each of `LIMITS_KM2`.
    """
    areas = searched_areas(files, found)
    if not len(found.right):
        return areas, pd.DataFrame(columns=["order", "efficiency", "over_probability", "median_km2"])
    own, rows = area_efficiency(areas[OWN]), []
    for name, km2 in areas.items():
        values = {"efficiency": area_efficiency(km2), "median_km2": km2}
        values |= {f"recall_{limit:.0f}": km2 <= limit for limit in LIMITS_KM2}
        row: dict[str, object] = {"order": ORDER_LABELS[name], **estimate_columns(found.drawn, values)}
        rows.append(row | columns_of("over_probability", found.drawn.difference(values["efficiency"], own)))
    return areas, pd.DataFrame(rows)


def records(measured: pd.DataFrame) -> dict[str, float | Estimate]:
    """Metrics to keep: `area_efficiency`, the same of the baselines `..._by_<order>`, and `searched_km2`."""
    rows = dict(zip(ORDER_LABELS, measured.to_dict("records"), strict=False))
    kept = {f"area_efficiency_by_{name}": entry_of(row, "efficiency") for name, row in rows.items() if name != OWN}
    if OWN in rows:
        own = rows[OWN]
        kept |= {"area_efficiency": entry_of(own, "efficiency"), "searched_km2": entry_of(own, "median_km2")}
    return recordables(kept)

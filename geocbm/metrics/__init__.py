"""Metrics with their intervals.

Distances are great-circle kilometres on a sphere of radius 6371.0 km. A prediction that is missing (NaN) counts as a
miss everywhere. Intervals are bootstrap intervals that resample whole spatial blocks, because photographs taken side by
side are not independent evidence.
"""

from geocbm.metrics.bootstrap import (
    estimate_columns,
    estimates_by_group,
    geolocation_intervals,
    over_seeds,
    simultaneous_intervals,
    spatial_blocks,
)
from geocbm.metrics.calibration import (
    calibration_error_by_chance,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
)
from geocbm.metrics.concept import average_precision, best_thresholds, concept_intervals
from geocbm.metrics.formatting import (
    NO_INTERVAL,
    NOISE,
    columns_of,
    entries_of,
    entry_of,
    estimate_text,
    interval_frame,
    interval_text,
    metric_table,
    readable,
    recordable,
    recordables,
    verdict,
)
from geocbm.metrics.geolocation import THRESHOLDS_KM, error_km, geoguessr_points, geolocation_metrics, geoscore
from geocbm.metrics.places import country_of, places_of
from geocbm.metrics.resamples import FEWEST_BLOCKS, NOT_MEASURED, Estimate, Resamples
from geocbm.metrics.table import HEADLINES, metric

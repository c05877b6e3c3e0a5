"""How sure the model is of a place: calibrated distributions over cells, regions, one point from a distribution."""

from geocbm.evaluation.uncertainty.assessment import Assessment, assess, read_cell_scores
from geocbm.evaluation.uncertainty.cell_area import cell_areas, land_grid
from geocbm.evaluation.uncertainty.conformal import (
    COVERAGES,
    Regions,
    calibrate_regions,
    conformal_quantile,
    measure_regions,
    rank_scores,
    region_mask,
)
from geocbm.evaluation.uncertainty.figures import SureFigures, measure, records
from geocbm.evaluation.uncertainty.page import (
    abstention_table,
    calibration_table,
    hierarchy_table,
    localizability_table,
    point_differences,
    point_table,
    region_table,
    risk_curves,
    risk_table,
)
from geocbm.evaluation.uncertainty.selective_prediction import risk_areas, risk_coverage
from geocbm.evaluation.uncertainty.unlike import coverage_by_distance, distance_table, unlike_sentence
from geocbm.geocells.distribution import CellDistribution, argmax_region, cell_shares, entropy, in_half_precision
from geocbm.models.decoder import POINT_WORDS, Decoder, Places, PointChoice, choose_point, fit_decoder
from geocbm.models.point_estimates import (
    Candidates,
    best_points,
    candidates,
    choose_bandwidth,
    expected_km,
    mode_points,
)

__all__ = [
    "COVERAGES",
    "POINT_WORDS",
    "Assessment",
    "Candidates",
    "CellDistribution",
    "Decoder",
    "Places",
    "PointChoice",
    "Regions",
    "SureFigures",
    "abstention_table",
    "argmax_region",
    "assess",
    "best_points",
    "calibrate_regions",
    "calibration_table",
    "candidates",
    "cell_areas",
    "cell_shares",
    "choose_bandwidth",
    "choose_point",
    "conformal_quantile",
    "coverage_by_distance",
    "distance_table",
    "entropy",
    "expected_km",
    "fit_decoder",
    "hierarchy_table",
    "in_half_precision",
    "land_grid",
    "localizability_table",
    "measure",
    "measure_regions",
    "mode_points",
    "point_differences",
    "point_table",
    "rank_scores",
    "read_cell_scores",
    "records",
    "region_mask",
    "region_table",
    "risk_areas",
    "risk_coverage",
    "risk_curves",
    "risk_table",
    "unlike_sentence",
]

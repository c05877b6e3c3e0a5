"""Plotly figures for the notebooks: one look, alt text in each, and maps that draw without a network.

Every function that returns a figure puts one sentence about its data, with the key numbers, into
`figure.layout.meta["alt"]`. Figures stay light: at most 5000 points, numbers rounded, pictures as JPEG.
"""

from geocbm.plots.cells import cell_map, cell_picture
from geocbm.plots.concepts import confusion, per_meta_accuracy, prototype_drift, prototype_similarity
from geocbm.plots.counterfactuals import before_after_map, distribution_map, distribution_update, what_if
from geocbm.plots.dataset import cell_sizes, country_bars, error_curves, hierarchy, imbalance
from geocbm.plots.evaluation import errors_by_distance, forest, method_forest, place_breakdown
from geocbm.plots.explanations import (
    clue_agreement,
    kept_concepts,
    pointing_by_concept,
    removal_curves,
    told_by_concepts,
)
from geocbm.plots.interventions import concept_sankey, contribution_bars, contribution_update, intervention_curves
from geocbm.plots.locator import locator
from geocbm.plots.maps import base_map, error_map, gain_map
from geocbm.plots.pictures import attention_overlay, blend_heat, contact_sheet, patch_heat, patch_heat_update
from geocbm.plots.runs import chain_status, compare_differences
from geocbm.plots.theme import PALETTE, finish, template
from geocbm.plots.training import compare_histories, loss_and_gradients, loss_curves, retrieval_bars
from geocbm.plots.uncertainty import coverage_by_novelty, recall_against_area, reliability_before_after, risk_coverage

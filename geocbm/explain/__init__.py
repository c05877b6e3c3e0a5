"""Why the model says so, and whether that is true."""

from geocbm.explain.completeness import completeness_figures, completeness_ratio, completeness_table, model_rights
from geocbm.explain.contributions import (
    BY_ABLATION,
    EXACT,
    Explanation,
    country_terms,
    country_weights,
    explain_scores,
    weighted_terms,
)
from geocbm.explain.curve import POLICIES, UNITS, choose_levels, intervention_curve, named_cell_terms, setbacks
from geocbm.explain.editable import EditableModel, Places, load_editable, strict_model
from geocbm.explain.effective import (
    Effective,
    accuracy_at,
    average_accuracy,
    effective_concepts,
    effective_curves,
    effective_table,
    kept_share,
)
from geocbm.explain.flows import Flows, concept_flows, flow_amounts, picture_amounts
from geocbm.explain.interventions import (
    ask,
    correct_concepts,
    family,
    neutral_scores,
    remove_concepts,
    set_scores,
    swap_concepts,
)
from geocbm.explain.leakage import Leakage, measure_leakage
from geocbm.explain.presence import Levels, Presence, known_presence, measure_levels
from geocbm.explain.probes import Reading, country_readings, gain_table, read_label, reading_gains, reading_table
from geocbm.explain.removal import falls_to_prior, left_in_words, reach_in_words, what_is_left, what_reaches
from geocbm.explain.what_if import Edit, Story, what_if_stories

__all__ = [
    "BY_ABLATION",
    "EXACT",
    "POLICIES",
    "UNITS",
    "Edit",
    "EditableModel",
    "Effective",
    "Explanation",
    "Flows",
    "Leakage",
    "Levels",
    "Places",
    "Presence",
    "Reading",
    "Story",
    "accuracy_at",
    "ask",
    "average_accuracy",
    "choose_levels",
    "completeness_figures",
    "completeness_ratio",
    "completeness_table",
    "concept_flows",
    "correct_concepts",
    "country_readings",
    "country_terms",
    "country_weights",
    "effective_concepts",
    "effective_curves",
    "effective_table",
    "explain_scores",
    "falls_to_prior",
    "family",
    "flow_amounts",
    "gain_table",
    "intervention_curve",
    "kept_share",
    "known_presence",
    "left_in_words",
    "load_editable",
    "measure_leakage",
    "measure_levels",
    "model_rights",
    "named_cell_terms",
    "neutral_scores",
    "picture_amounts",
    "reach_in_words",
    "read_label",
    "reading_gains",
    "reading_table",
    "remove_concepts",
    "set_scores",
    "setbacks",
    "strict_model",
    "swap_concepts",
    "weighted_terms",
    "what_if_stories",
    "what_is_left",
    "what_reaches",
]

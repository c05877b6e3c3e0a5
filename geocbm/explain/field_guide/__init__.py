"""The field guide: what gives a country away, and where a concept leads (notebook 09)."""

from geocbm.explain.field_guide.evidence import (
    Agreement,
    agreement,
    concept_reliability,
    count_table,
    distinctiveness,
    effective_number,
    lift,
    share_interval,
)
from geocbm.explain.field_guide.examples import best_rows, cut_around_peak, example_pictures, sheet_pictures
from geocbm.explain.field_guide.guide import Clue, ConceptSheet, CountrySheet, FieldGuide, LookAlike
from geocbm.explain.field_guide.model_view import country_contributions, look_alikes, mean_country_belief

__all__ = [
    "Agreement",
    "Clue",
    "ConceptSheet",
    "CountrySheet",
    "FieldGuide",
    "LookAlike",
    "agreement",
    "best_rows",
    "concept_reliability",
    "count_table",
    "country_contributions",
    "cut_around_peak",
    "distinctiveness",
    "effective_number",
    "example_pictures",
    "lift",
    "look_alikes",
    "mean_country_belief",
    "share_interval",
    "sheet_pictures",
]

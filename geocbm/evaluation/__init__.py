"""All methods on the test split of one run: what simple methods get, what the stages get, what could be had at all."""

from geocbm.evaluation.methods import remarks, simple_methods, visible_concepts
from geocbm.evaluation.retrieval import gallery, geoclip, training_gallery
from geocbm.evaluation.stored import main_predictions, own_points, stage_answers, stored_points, stored_predictions
from geocbm.evaluation.table import (
    METHOD_WORDS,
    by_country,
    errors_km,
    forest_rows,
    in_order,
    measure,
    printable,
    record,
    words_of,
)

__all__ = [
    "METHOD_WORDS",
    "by_country",
    "errors_km",
    "forest_rows",
    "gallery",
    "geoclip",
    "in_order",
    "main_predictions",
    "measure",
    "own_points",
    "printable",
    "record",
    "remarks",
    "simple_methods",
    "stage_answers",
    "stored_points",
    "stored_predictions",
    "training_gallery",
    "visible_concepts",
    "words_of",
]

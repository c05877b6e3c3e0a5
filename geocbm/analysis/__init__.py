"""What a page computes from trained stages: predictions as arrays, figures of merit, examples to look at.

Nothing here trains, and nothing draws; the notebooks hand these arrays to `geocbm.plots`.
"""

from geocbm.analysis.concept_floor import ConceptFloor, measure_floor, read_floor, save_floor
from geocbm.analysis.concepts import (
    CONCEPT_WORDS,
    concept_figures,
    concept_map_examples,
    concept_table,
    concepts_side_by_side,
    predict_concepts,
    prototype_cosine,
    save_concept_scores,
)
from geocbm.analysis.features import (
    class_mean_figure,
    describe_encoder,
    describe_store,
    nearest_neighbour_km,
    retrieval_figures,
    test_remark,
)
from geocbm.analysis.places import (
    PLACE_WORDS,
    attention_examples,
    cell_centre_km,
    choice_table,
    mode_table,
    moved_km,
    place_figures,
    place_records,
    place_table,
    predict_places,
    save_cell_scores,
    save_predictions,
)

__all__ = [
    "CONCEPT_WORDS",
    "PLACE_WORDS",
    "ConceptFloor",
    "attention_examples",
    "cell_centre_km",
    "choice_table",
    "class_mean_figure",
    "concept_figures",
    "concept_map_examples",
    "concept_table",
    "concepts_side_by_side",
    "describe_encoder",
    "describe_store",
    "measure_floor",
    "mode_table",
    "moved_km",
    "nearest_neighbour_km",
    "place_figures",
    "place_records",
    "place_table",
    "predict_concepts",
    "predict_places",
    "prototype_cosine",
    "read_floor",
    "retrieval_figures",
    "save_cell_scores",
    "save_concept_scores",
    "save_floor",
    "save_predictions",
    "test_remark",
]

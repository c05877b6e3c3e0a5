"""What a user would pick instead: simple methods on the same features and the same split.

Every method returns a `Prediction`; `table` measures them alike. Labels (countries, metas) may be names or indices, as
long as the training labels and the truth agree.
"""

from geocbm.baselines.classifiers import concept_features, linear_probe, true_concepts
from geocbm.baselines.lookup import chance, gallery, mean_colours, nearest_neighbour, training_prior
from geocbm.baselines.measure import forest_rows, records, table
from geocbm.baselines.prediction import Prediction

__all__ = [
    "Prediction",
    "chance",
    "concept_features",
    "forest_rows",
    "gallery",
    "linear_probe",
    "mean_colours",
    "nearest_neighbour",
    "records",
    "table",
    "training_prior",
    "true_concepts",
]

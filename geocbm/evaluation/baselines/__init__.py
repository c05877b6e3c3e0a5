"""What a user would pick instead: simple methods on the same features and the same split.

Every method returns a `Prediction`; `table` measures them alike. Labels (countries, metas) may be names or indices, as
long as the training labels and the truth agree.
"""

from geocbm.evaluation.baselines.classifiers import concept_features, linear_probe, true_concepts
from geocbm.evaluation.baselines.measure import forest_rows, records, table
from geocbm.evaluation.baselines.neighbours import CANDIDATES, choose_k, most_similar, nearest_neighbour
from geocbm.evaluation.baselines.oracles import country_centroid, true_meta
from geocbm.evaluation.baselines.prediction import Prediction
from geocbm.evaluation.baselines.probe import STRENGTHS, Probe, fit_probe
from geocbm.evaluation.baselines.trivial import chance, gallery, mean_colours, training_prior
from geocbm.evaluation.baselines.votes import Votes, choose_votes
from geocbm.evaluation.baselines.zero_shot import COUNTRY_TEMPLATES, zero_shot_concept, zero_shot_country

__all__ = [
    "CANDIDATES",
    "COUNTRY_TEMPLATES",
    "STRENGTHS",
    "Prediction",
    "Probe",
    "Votes",
    "chance",
    "choose_k",
    "choose_votes",
    "concept_features",
    "country_centroid",
    "fit_probe",
    "forest_rows",
    "gallery",
    "linear_probe",
    "mean_colours",
    "most_similar",
    "nearest_neighbour",
    "records",
    "table",
    "training_prior",
    "true_concepts",
    "true_meta",
    "zero_shot_concept",
    "zero_shot_country",
]

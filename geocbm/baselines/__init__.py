"""What a user would pick instead: simple methods on the same features and the same split.

Every method returns a `Prediction`; `table` measures them alike. Labels (countries, metas) may be names or indices, as
long as the training labels and the truth agree.
"""

from geocbm.baselines.classifiers import concept_features, linear_probe, true_concepts
from geocbm.baselines.lookup import chance, gallery, mean_colours, training_prior
from geocbm.baselines.measure import forest_rows, records, table
from geocbm.baselines.neighbours import CANDIDATES, choose_k, most_similar, nearest_neighbour
from geocbm.baselines.oracles import country_centroid, true_meta
from geocbm.baselines.prediction import Prediction
from geocbm.baselines.probe import STRENGTHS, Probe, fit_probe
from geocbm.baselines.votes import Votes, choose_votes
from geocbm.baselines.zero_shot import COUNTRY_TEMPLATES, zero_shot_concept, zero_shot_country

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

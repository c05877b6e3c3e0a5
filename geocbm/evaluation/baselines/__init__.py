"""Baselines: what a user would pick instead, on the same features and the same splits.

A baseline is an object with a `name`, `fit(features, labels, cells)` and `predict(features) -> Prediction`;
`Task.answer` fits it on the training split and decodes it as it decodes every other method.
"""

from geocbm.evaluation.baselines.base import Baseline, Labels, Prediction, Task
from geocbm.evaluation.baselines.linear import LinearProbe, concept_features, fit_probe
from geocbm.evaluation.baselines.neighbours import KNearest, NearestNeighbour, Votes, choose_votes, nearest
from geocbm.evaluation.baselines.oracles import country_centroid, true_meta
from geocbm.evaluation.baselines.trivial import Chance, Prior, mean_colours
from geocbm.evaluation.baselines.zero_shot import COUNTRY_TEMPLATES, ZeroShotConcept, ZeroShotCountry

__all__ = [
    "COUNTRY_TEMPLATES",
    "Baseline",
    "Chance",
    "KNearest",
    "Labels",
    "LinearProbe",
    "NearestNeighbour",
    "Prediction",
    "Prior",
    "Task",
    "Votes",
    "ZeroShotConcept",
    "ZeroShotCountry",
    "choose_votes",
    "concept_features",
    "country_centroid",
    "fit_probe",
    "mean_colours",
    "nearest",
    "true_meta",
]

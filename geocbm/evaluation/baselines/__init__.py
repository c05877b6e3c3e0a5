"""Baselines: what a user would pick instead, on the same features and the same splits.

A baseline is an object with a `name`, `fit(features, labels, cells)` and `predict(features) -> Prediction`;
`Task.answer` fits it on the training split and decodes it as it decodes every other method.
"""

from geocbm.evaluation.baselines.base import Labels, Prediction, Task

"""Metrics of Stage 1: how well the labelled concepts of some rows are named, and examples to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.data import image_files
from geocbm.metrics import Resamples, concept_intervals, metric, metric_table, spatial_blocks
from geocbm.run import Run

if TYPE_CHECKING:
    from PIL import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage1 import Stage1ConceptModel

Arrays = dict[str, np.ndarray]


def measure_concepts(
    files: Run,
    model: Stage1ConceptModel,
    predicted: Arrays,
    rows: np.ndarray,
    n_resamples: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Accuracy of the concepts on some rows (specification, section Evaluation Metrics, Stage 1).

    `predicted` is that of `run.predictions.concept_probabilities`; the model gives the base prototypes and the cosine
    from which two metas are close.

    Returns:
        `value`, `low` and `high` by the name of the metric; nothing without rows.
    """
    if not len(rows):
        return {}
    meta = files.meta_and_parent[0]
    similarity = (model.meta_base @ model.meta_base.T).cpu().numpy()  # (k_m, k_m), rows are unit vectors
    return concept_intervals(
        predicted["meta"][rows],
        meta[rows],
        Resamples(spatial_blocks(files.lat[rows], files.lng[rows]), n_resamples, seed),
        predicted["parent"][rows],
        files.concepts.parent_index,
        similarity=similarity,
        probabilities=True,
        close=model.config.semantic_threshold,
    )


def concept_table(files: Run, measured: Mapping[str, Any], rows: np.ndarray) -> pd.DataFrame:
    """Metrics of `measure_concepts`, beside what naming the most frequent concept of the training split would get."""
    meta, parent = files.meta_and_parent
    train = files.rows["train"]
    frequent = {
        name: float((labels[rows] == np.bincount(labels[train]).argmax()).mean())
        for name, labels in (("meta_top1", meta), ("parent_top1", parent), ("parent_top1_marginal", parent))
        if name in measured
    }
    table = metric_table("stage1", measured)
    texts = [metric(f"stage1.{name}").text(frequent[name]) if name in frequent else "" for name in table.index]
    return table.assign(**{"most frequent class": texts}).reset_index(drop=True)


def concept_map_examples(
    files: Run, encoder: ImageEncoder, model: Stage1ConceptModel, features: FeatureStore, count: int
) -> tuple[list[Image.Image], list[np.ndarray], list[str]]:
    """Test pictures as the model saw them, each with the map of its labelled concept, and captions.

    One picture of each of `count` concepts, spread over the vocabulary: the first of the test split, whether or not it
    was named right. The maps are shares: the score's exponential, divided by its sum over the patches.

    Args:
        files: the run.
        encoder: for its crop and its grid.
        model: a concept model with the "patch" bottleneck; with another there are no maps and no examples.
        features: the adapted features.
        count: how many examples.
    """
    import torch

    from geocbm.encoders import open_picture

    meta, test = files.meta_and_parent[0], files.rows["test"]
    if not model.has_maps or not len(test):
        return [], [], []
    first = test[np.unique(meta[test], return_index=True)[1]]  # a row of each concept in the test split
    rows = first[np.linspace(0, len(first) - 1, min(count, len(first))).astype(int)]
    device = model.meta_bias.device
    with torch.no_grad():
        output = model(features.read("pooled", rows).to(device), features.read("tokens", rows).to(device))
    assert output.meta_maps is not None
    maps = output.meta_maps.softmax(1).cpu().numpy()  # (m, P, k_m)
    named = output.meta_logits.argmax(1).cpu().numpy()
    paths = image_files(files.table)
    captions = []
    for row, said in zip(rows, named, strict=True):
        wanted = files.concepts.metas[meta[row]]
        captions.append(wanted if said == meta[row] else f"{wanted} (named {files.concepts.metas[said]})")
    grids = [maps[i, :, meta[row]].reshape(encoder.grid) for i, row in enumerate(rows)]
    return [encoder.crop(open_picture(paths[row])) for row in rows], grids, captions


def prototype_cosine(model: Stage1ConceptModel) -> np.ndarray:
    """Cosine between each meta's projected prototype with and without its learned residual, `[k_m]`."""
    import torch
    from torch.nn import functional

    with torch.no_grad():
        base = functional.normalize(model.prototype_projection(model.meta_base), dim=-1)
        learned = functional.normalize(model.prototype_projection(model.meta_base + model.delta_meta), dim=-1)
    return (base * learned).sum(-1).cpu().numpy()

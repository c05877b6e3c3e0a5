"""Predicted concepts as arrays, their figures of merit in words, and examples to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.data import image_files
from geocbm.files import lineage
from geocbm.metrics import Resamples, concept_intervals, recordable, spatial_blocks
from geocbm.metrics.table import metric
from geocbm.run import Run

if TYPE_CHECKING:
    from PIL import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage1 import Stage1ConceptModel

Arrays = dict[str, np.ndarray]


def predict_concepts(model: Stage1ConceptModel, features: FeatureStore) -> Arrays:
    """Concept probabilities of every row: `meta [n, k_m]`, `parent [n, k_p]`."""
    from geocbm.models.stage1 import predict_stage1

    out = predict_stage1(model, features.read_all("pooled"), tokens=features)
    return {"meta": out["meta_probabilities"].numpy(), "parent": out["parent_probabilities"].numpy()}


def concept_figures(
    files: Run,
    model: Stage1ConceptModel,
    predicted: Arrays,
    rows: np.ndarray,
    n_resamples: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Accuracy of the concepts on some rows (specification, section Evaluation Metrics, Stage 1).

    Args:
        files: the run.
        model: its concept model, for the base prototypes and the cosine from which two metas are close.
        predicted: of `predict_concepts`.
        rows: the rows that are measured.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of the resamples.

    Returns:
        `value`, `low` and `high` of each of `CONCEPT_WORDS`; nothing without rows.
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


CONCEPT_WORDS = {
    "meta_top1": "labelled concept named first",
    "meta_top5": "labelled concept among the first five",
    "meta_macro_recall": "mean over concepts of the share named right",
    "parent_top1": "parent named first (parent head)",
    "parent_top1_marginal": "parent named first (sum over its concepts)",
    "parent_top5": "parent among the first five",
    "parent_macro_recall": "mean over parents of the share named right",
    "semantic_close": "named concept is close in meaning (cosine of the words at least semantic_threshold)",
    "semantic_close_random": "the same for a random guess",
}


def concept_table(files: Run, figures: Mapping[str, Any], rows: np.ndarray) -> pd.DataFrame:
    """The figures in words, with what guessing the most frequent concept of the training split would get."""
    if not figures:
        return pd.DataFrame(columns=["figure", "value", "most frequent class"])
    meta, parent = files.meta_and_parent
    train = files.rows["train"]
    frequent = {
        "meta_top1": float((meta[rows] == np.bincount(meta[train]).argmax()).mean()),
        "parent_top1": float((parent[rows] == np.bincount(parent[train]).argmax()).mean()),
    }
    frequent["parent_top1_marginal"] = frequent["parent_top1"]
    return pd.DataFrame(
        [
            {
                "figure": words,
                "value": metric(f"stage1.{name}").entry(recordable(figures[name])),
                "most frequent class": metric(f"stage1.{name}").text(frequent[name]) if name in frequent else "",
            }
            for name, words in CONCEPT_WORDS.items()
            if name in figures
        ]
    )


def concepts_side_by_side(figures: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Figures of several concept models in words, a column each.

    Args:
        figures: of `concept_figures`, by the name of the model.
    """
    lines = []
    for name, words in CONCEPT_WORDS.items():
        if all(name in own for own in figures.values()):
            lines.append(
                {"figure": words}
                | {model: metric(f"stage1.{name}").entry(recordable(own[name])) for model, own in figures.items()}
            )
    return pd.DataFrame(lines)


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
    if model.config.bottleneck != "patch" or not len(test):
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


def save_concept_scores(path: str | Path, predicted: Arrays, made_from: Mapping[str, str] | None = None) -> None:
    """Write concept probabilities of every row, for pages that do not load the model.

    Args:
        path: the file, `concept_scores.npz`.
        predicted: of `predict_concepts`.
        made_from: of `Run.made_from`, by which a run knows that they are its own.
    """
    content = {name: predicted[name].astype(np.float32) for name in ("meta", "parent")}
    if made_from is not None:
        content[lineage.KEY] = np.asarray(lineage.as_text(made_from))
    np.savez_compressed(path, **content)  # type: ignore[arg-type]

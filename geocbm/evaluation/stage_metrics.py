"""Metrics of the stages on a run's rows: features, concepts and places, and examples to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.data import image_files
from geocbm.evaluation.baselines.neighbours import nearest
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics import (
    Resamples,
    concept_intervals,
    country_of,
    geolocation_intervals,
    geolocation_metrics,
    metric,
    metric_table,
    recordables,
    spatial_blocks,
)
from geocbm.run import Run

if TYPE_CHECKING:
    from PIL import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage0 import Stage0PretrainingModel
    from geocbm.models.stage1 import Stage1ConceptModel

Arrays = dict[str, np.ndarray]


def nearest_neighbour_km(pooled: np.ndarray, files: Run, rows: np.ndarray) -> np.ndarray:
    """Error in km of taking the place of the most similar training image (cosine), for the given rows."""
    train = files.rows["train"]
    alike = train[nearest(pooled[rows], pooled[train])[0][:, 0]]
    return haversine_km(files.lat[rows], files.lng[rows], files.lat[alike], files.lng[alike])


def measure_retrieval(
    files: Run,
    model: Stage0PretrainingModel,
    pooled: np.ndarray,
    rows: np.ndarray,
    n_resamples: int = 200,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """How well held-out images find their own place among those of all of them, with intervals.

    `pooled` `(n, d)` are the adapted features of all rows, of which `rows` are ranked against one another.

    Returns:
        `recall_1`, `recall_5`, `recall_10` and `retrieval_km`; nothing without rows.
    """
    import torch

    from geocbm.models.retrieval import retrieval_by_row

    if not len(rows):
        return {}
    lat, lng = files.lat[rows], files.lng[rows]
    rank, km = retrieval_by_row(torch.from_numpy(pooled[rows]), model.embed_places(lat, lng), lat, lng)
    drawn = Resamples(spatial_blocks(lat, lng), n_resamples, seed)
    found = {f"recall_{k}": drawn.estimate((rank < k).numpy()) for k in (1, 5, 10)}
    return found | {"retrieval_km": drawn.estimate(km, "median")}


def measure_class_means(files: Run, pooled: np.ndarray, n_resamples: int = 200, seed: int = 0) -> dict[str, float]:
    """Share of the validation split whose concept the nearest class mean of `pooled` `(n, d)` names right."""
    from geocbm.models.retrieval import nearest_class_mean

    meta, val = files.meta_and_parent[0], files.rows["val"]
    right = nearest_class_mean(pooled, meta, files.rows["train"], val) == meta[val]
    return Resamples(spatial_blocks(files.lat[val], files.lng[val]), n_resamples, seed).estimate(right)


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


def measure_places(
    files: Run, predicted: Arrays, rows: np.ndarray, n_resamples: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Metrics of predicted places (specification, section Evaluation Metrics, Stage 2).

    `predicted` is that of `run.predictions.predict_places` for `rows`; intervals are over blocks of 100 km.

    Returns:
        `value`, `low` and `high` by the name of the metric, and the numbers `n` and `n_missing`; nothing without rows.
    """
    if not len(rows):
        return {}
    answered, true = (predicted["lat"], predicted["lng"]), (files.lat[rows], files.lng[rows])
    drawn = Resamples(spatial_blocks(*true), n_resamples, seed)
    counts = geolocation_metrics(*answered, *true)
    country, right_country = country_of(*answered), country_of(*true)
    return geolocation_intervals(*answered, *true, drawn) | {
        "cell_top1": drawn.estimate(predicted["cell"][:, 0] == files.cell_label[rows]),
        "country_acc": drawn.estimate((country == right_country) & (right_country != "")),
        "n": counts["n"],
        "n_missing": counts["n_missing"],
    }


def cell_centre_km(files: Run, predicted: Arrays, rows: np.ndarray) -> np.ndarray:
    """Error in km of the centre of the named cell, without the offset."""
    lat, lng = cartesian_to_latlng(files.cells.centers[predicted["cell"][:, 0]])
    return haversine_km(lat, lng, files.lat[rows], files.lng[rows])


def moved_km(files: Run, predicted: Arrays, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Errors in km of the centre of the named cell, of its corrections, and of the answer, by name on the page."""
    found = {"cell centre": cell_centre_km(files, predicted, rows)}
    for name, words in (("offset", "cell and offset"), ("neighbours", "cell and neighbours")):
        if f"lat_{name}" in predicted:
            place = predicted[f"lat_{name}"], predicted[f"lng_{name}"]
            found[words] = haversine_km(*place, files.lat[rows], files.lng[rows])
    return found | {"answer": predicted["km"]}


def place_table(measured: Mapping[str, Any]) -> pd.DataFrame:
    """Metrics of places with their labels (specification, section Evaluation Metrics, Stage 2)."""
    counts = {name: value for name, value in measured.items() if name != "n_missing" or value}
    return metric_table("stage2", counts).reset_index(drop=True)


def place_records(
    files: Run, by_mode: Mapping[str, Arrays], rows: np.ndarray, n_resamples: int = 200, seed: int = 0
) -> dict[str, float | dict[str, float]]:
    """Metrics to keep: `stage2.*` of the first mode, and median and GeoScore of every mode; no infinite ones.

    `by_mode` holds those of `run.predictions.predict_places` by name; those of another recipe are called `recipe NAME`.
    """
    kept: dict[str, Any] = {}
    for number, (mode, places) in enumerate(by_mode.items()):
        measured = measure_places(files, places, rows, n_resamples, seed)
        if number == 0:
            kept |= {f"stage2.{name}": value for name, value in measured.items() if name not in ("n", "n_missing")}
        key = mode.replace("recipe ", "recipe.") if mode.startswith("recipe ") else f"variant.{mode}"
        kept |= {f"{key}.{name}": measured[name] for name in ("median_km", "geoscore") if measured}
    return recordables(kept)


def mode_table(files: Run, by_mode: Mapping[str, Arrays], rows: np.ndarray) -> pd.DataFrame:
    """Metrics of several answers for the same rows, a row each."""
    shown = ("median_km", "acc_25km", "acc_200km", "acc_750km", "geoscore")
    lines = []
    for mode, places in by_mode.items() if len(rows) else ():
        measured = geolocation_metrics(places["lat"], places["lng"], files.lat[rows], files.lng[rows])
        table = metric_table("stage2", {name: measured[name] for name in shown})
        line = {"mode": mode} | dict(zip(table["metric"], table["value"], strict=True))
        if "residual_share" in places:
            line["share of the residual in the logits"] = f"{places['residual_share'].mean():.0%}"
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def attention_examples(
    files: Run, encoder: ImageEncoder, predicted: Arrays, rows: np.ndarray, count: int
) -> tuple[list[Image.Image], list[np.ndarray], list[str]]:
    """Pictures as the model saw them, their attention grids and captions.

    Half are the nearest answers among the most certain, half the farthest, so that a reader sees both; the choice
    does not depend on how the maps look.

    `encoder` gives the crop and the grid, `predicted` is that of `run.predictions.predict_places` for `rows`.
    """
    from geocbm.encoders import open_picture

    certain = np.argsort(-predicted["cell_probability"][:, 0], kind="stable")[: max(count, len(rows) // 4)]
    by_error = certain[np.argsort(predicted["km"][certain], kind="stable")]
    middle = min((count + 1) // 2, len(by_error))  # of few rows none is shown twice
    chosen = [*by_error[:middle], *by_error[max(middle, len(by_error) - count // 2) :]]
    paths = image_files(files.table)
    pictures = [encoder.crop(open_picture(paths[rows[i]])) for i in chosen]
    grids = [predicted["attention"][i].reshape(encoder.grid) for i in chosen]
    captions = [
        f"{files.table['meta_name'].iloc[rows[i]]}, {files.country[rows[i]]}: {predicted['km'][i]:,.0f} km off"
        for i in chosen
    ]
    return pictures, grids, captions

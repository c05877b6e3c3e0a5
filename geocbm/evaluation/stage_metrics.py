"""Metrics of the stages on a run's rows: features, concepts and places, and examples to look at."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional

from geocbm import metrics
from geocbm.data import image_files, open_picture
from geocbm.encoders import ImageEncoder
from geocbm.evaluation.baselines.neighbours import nearest
from geocbm.evaluation.methods import visible_concepts
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics import Estimate, Resamples, metric, spatial_blocks
from geocbm.models.retrieval import nearest_class_mean, retrieval_by_row
from geocbm.models.stage0 import Stage0PretrainingModel
from geocbm.models.stage1 import Stage1ConceptModel
from geocbm.run import Run

Arrays = dict[str, np.ndarray]
Examples = tuple[list[Image.Image], list[np.ndarray], list[str]]
"""Pictures as the model saw them, a grid of patches for each, and captions."""


def nearest_neighbour_km(pooled: np.ndarray, files: Run, rows: np.ndarray) -> np.ndarray:
    """Error in km of taking the place of the most similar training image (cosine), for the given rows."""
    train = files.pictures["train"]
    alike = train[nearest(pooled[rows], pooled[train])[0][:, 0]]
    return haversine_km(files.lat[rows], files.lng[rows], files.lat[alike], files.lng[alike])


def measure_retrieval(
    files: Run,
    model: Stage0PretrainingModel,
    pooled: np.ndarray,
    rows: np.ndarray,
    n_resamples: int = 200,
    seed: int = 0,
) -> dict[str, Estimate]:
    """How well held-out images find their own place: `recall_1`, `recall_5`, `recall_10`, `retrieval_km`.

    `pooled` `(n, d)` are the adapted features of all rows, of which `rows` are ranked against one another; without any
    there is nothing.
    """
    if not len(rows):
        return {}
    lat, lng = files.lat[rows], files.lng[rows]
    rank, km = retrieval_by_row(torch.from_numpy(pooled[rows]), model.embed_places(lat, lng), lat, lng)
    drawn = Resamples(spatial_blocks(lat, lng), n_resamples, seed)
    found = {f"recall_{k}": drawn.estimate((rank < k).numpy()) for k in (1, 5, 10)}
    return found | {"retrieval_km": drawn.estimate(km, "median")}


def measure_class_means(
    files: Run, features: Mapping[str, np.ndarray], n_resamples: int = 200, seed: int = 0
) -> dict[str, Estimate]:
    """Share of the validation pictures whose concept the nearest class mean names right, by the name of the features.

    Features `(n, d)` are of all rows. With them comes what the "most frequent concept" of the training split
    gets; nothing where no validation picture has a known concept.
    """
    meta = files.meta_and_parent[0]
    train, val = files.labelled(files.rows["train"]), files.labelled(files.pictures["val"])
    if not len(val):
        return {}
    named = {name: nearest_class_mean(pooled, meta, train, val) for name, pooled in features.items()}
    named["most frequent concept"] = np.full(len(val), np.bincount(meta[train]).argmax())
    drawn = Resamples(spatial_blocks(files.lat[val], files.lng[val]), n_resamples, seed)
    labels = files.labels_at(val)
    return {name: drawn.estimate(labels[np.arange(len(val)), own]) for name, own in named.items()}


def measure_concepts(
    files: Run,
    model: Stage1ConceptModel,
    predicted: Arrays,
    rows: np.ndarray,
    n_resamples: int = 200,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Accuracy of the concepts on some rows (specification, section Evaluation Metrics, Stage 1); nothing without rows.

    `predicted` is that of `run.predictions.concept_probabilities`; the model gives the base prototypes and the cosine
    from which two metas are close. Pictures of which no concept is known do not count; of several labels the likeliest
    does (`Run.likeliest_label`).
    """
    rows = files.labelled(rows)
    if not len(rows):
        return {}
    similarity = (model.meta_base @ model.meta_base.T).cpu().numpy()  # (k_m, k_m), rows are unit vectors
    return metrics.concept_intervals(
        predicted["meta"][rows],
        files.likeliest_label(predicted["meta"], rows),
        Resamples(spatial_blocks(files.lat[rows], files.lng[rows]), n_resamples, seed),
        predicted["parent"][rows],
        files.concepts.parent_index,
        similarity,
        model.config.semantic_threshold,
    )


def measure_presence(
    files: Run, predicted: Arrays, rows: np.ndarray, n_resamples: int = 200, seed: int = 0
) -> dict[str, float | Estimate]:
    """How well the scores of a concept part pictures that show it from others; nothing without rows.

    `predicted` is that of `run.predictions.concept_probabilities`. Every picture counts once, with all names it has.
    `mean_ap` with its interval (mean over concepts, macro) and `micro_ap` (all concepts in one ranking) are of the
    named concepts, `macro_f1` at the thresholds that are best on the validation split, and where the data knows all
    visible concepts, `visible_mean_ap` and `visible_micro_ap` of these.
    """
    if not len(rows):
        return {}
    pictures, val = (files.labelled(part) for part in (np.asarray(rows), files.pictures["val"]))
    scores, named = predicted["meta"], files.named_metas
    drawn = Resamples(spatial_blocks(files.lat[pictures], files.lng[pictures]), n_resamples, seed)
    found = _precision("", scores[pictures], named[pictures], drawn)
    if len(val):
        called = scores[pictures] >= metrics.best_thresholds(scores[val], named[val])  # NaN: never called
        shown = named[pictures].any(axis=0)
        right, either = ((called & named[pictures]).sum(axis=0), (called * 1 + named[pictures]).sum(axis=0))
        found["macro_f1"] = float((2 * right[shown] / either[shown]).mean())
    visible = visible_concepts(files)
    if visible is not None:
        found |= _precision("visible_", scores[pictures], visible[pictures, : scores.shape[1]] > 0, drawn)
    return found


def _precision(prefix: str, scores: np.ndarray, there: np.ndarray, drawn: Resamples) -> dict[str, float | Estimate]:
    """Macro and micro average precision of scores `[n, k]`, by names with a prefix.

    A picture that a resample holds twice lifts its precision, so resamples are brought to the value by their mean (the
    bootstrap's estimate of bias: Efron & Tibshirani 1993, chapter 10).
    """
    means = np.concatenate([np.nanmean(metrics.average_precision(scores, there, part), 1) for part in drawn.counts()])
    value = float(np.nanmean(metrics.average_precision(scores, there)))
    low, high = drawn.interval(np.clip(means - np.nanmean(means) + value, 0, 1))
    macro: Estimate = {"value": value, "low": low, "high": high}
    micro = float(metrics.average_precision(scores.reshape(-1, 1), there.reshape(-1, 1))[0])
    return {f"{prefix}mean_ap": macro, f"{prefix}micro_ap": micro}


def concept_table(files: Run, measured: Mapping[str, Any], rows: np.ndarray) -> pd.DataFrame:
    """Metrics of `measure_concepts`, beside what naming the most frequent concept of the training split would get."""
    (meta, parent), train, rows = files.meta_and_parent, files.labelled(files.rows["train"]), files.labelled(rows)
    labels = files.labels_at(rows)
    of_parents = labels @ (files.concepts.parent_index[:, None] == np.arange(len(files.concepts.parents)))
    table = metrics.metric_table("stage1", measured)
    frequent = dict.fromkeys(table.index, "")
    for name, known in (("meta_top1", meta), ("parent_top1", parent), ("parent_top1_marginal", parent)):
        if name in measured:
            shown = (labels if name == "meta_top1" else of_parents)[:, np.bincount(known[train]).argmax()]
            share = float(shown.mean())
            frequent[name] = metric(f"stage1.{name}").text(share)
    return table.assign(**{"most frequent class": list(frequent.values())}).reset_index(drop=True)


def prototype_cosine(model: Stage1ConceptModel) -> np.ndarray:
    """Cosine between each meta's projected prototype with and without its learned residual, `[k_m]`."""
    with torch.no_grad():
        base = functional.normalize(model.prototype_projection(model.meta_base), dim=-1)
        learned = functional.normalize(model.prototype_projection(model.meta_base + model.delta_meta), dim=-1)
    return (base * learned).sum(-1).cpu().numpy()


def measure_places(
    files: Run, predicted: Arrays, rows: np.ndarray, n_resamples: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Metrics of predicted places (specification, section Evaluation Metrics, Stage 2); nothing without rows.

    `predicted` is that of `run.predictions.predict_places` for `rows`; intervals are over blocks of 100 km. `n` and
    `n_missing` are numbers, all others estimates.
    """
    if not len(rows):
        return {}
    answered, true = (predicted["lat"], predicted["lng"]), (files.lat[rows], files.lng[rows])
    drawn = Resamples(spatial_blocks(*true), n_resamples, seed)
    counts = metrics.geolocation_metrics(*answered, *true)
    country, right_country = metrics.country_of(*answered), metrics.country_of(*true)
    return metrics.geolocation_intervals(*answered, *true, drawn) | {
        "cell_top1": drawn.estimate(predicted["cell"][:, 0] == files.cell_label[rows]),
        "country_acc": drawn.estimate((country == right_country) & (right_country != "")),
        "n": counts["n"],
        "n_missing": counts["n_missing"],
    }


def moved_km(files: Run, predicted: Arrays, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Errors in km of the centre of the named cell, of its corrections, and of the answer, by name on the page."""
    places = {"cell centre": cartesian_to_latlng(files.cells.centers[predicted["cell"][:, 0]])}
    for name, words in (("offset", "cell and offset"), ("neighbours", "cell and neighbours")):
        if f"lat_{name}" in predicted:
            places[words] = predicted[f"lat_{name}"], predicted[f"lng_{name}"]
    found = {words: haversine_km(*place, files.lat[rows], files.lng[rows]) for words, place in places.items()}
    return found | {"answer": predicted["km"]}


def place_table(measured: Mapping[str, Any]) -> pd.DataFrame:
    """Metrics of places with their labels (specification, section Evaluation Metrics, Stage 2)."""
    counts = {name: value for name, value in measured.items() if name != "n_missing" or value}
    return metrics.metric_table("stage2", counts).reset_index(drop=True)


def place_records(
    files: Run, by_mode: Mapping[str, Arrays], rows: np.ndarray, n_resamples: int = 200, seed: int = 0
) -> dict[str, float | Estimate]:
    """Metrics to keep: `stage2.*` of the first mode, and median and GeoScore of every mode; no infinite ones.

    `by_mode` holds those of `run.predictions.predict_places` by name.
    """
    kept: dict[str, Any] = {}
    for number, (mode, places) in enumerate(by_mode.items()):
        measured = measure_places(files, places, rows, n_resamples, seed)
        if number == 0:
            kept |= {f"stage2.{name}": value for name, value in measured.items() if name not in ("n", "n_missing")}
        kept |= {f"variant.{mode}.{name}": measured[name] for name in ("median_km", "geoscore") if measured}
    return metrics.recordables(kept)


def mode_table(
    files: Run, by_mode: Mapping[str, Arrays], rows: np.ndarray, n_resamples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Metrics of several answers for the same rows, a row each, with intervals."""
    lines = []
    for mode, places in by_mode.items() if len(rows) else ():
        measured = measure_places(files, places, rows, n_resamples, seed)
        line: dict[str, Any] = {"mode": mode}
        for name in ("median_km", "acc_25km", "acc_200km", "acc_750km", "geoscore"):
            line |= metrics.columns_of(name, measured[name])
        if "residual_share" in places:
            line["residual_share"] = float(places["residual_share"].mean())
        lines.append(line)
    return metrics.readable(pd.DataFrame(lines), {"residual_share": metric("control.hybrid.residual_share")})


def attention_examples(files: Run, encoder: ImageEncoder, predicted: Arrays, rows: np.ndarray, count: int) -> Examples:
    """Pictures with their attention grids: half the nearest answers among the most certain, half the farthest.

    The choice does not depend on how the maps look. `predicted` is that of `run.predictions.predict_places` for `rows`.
    """
    certain = np.argsort(-predicted["cell_probability"][:, 0], kind="stable")[: max(count, len(rows) // 4)]
    by_error = certain[np.argsort(predicted["km"][certain], kind="stable")]
    middle = min((count + 1) // 2, len(by_error))  # of few rows none is shown twice
    chosen = [*by_error[:middle], *by_error[max(middle, len(by_error) - count // 2) :]]
    captions = [
        f"{files.table['meta_name'].iloc[rows[i]]}, {files.country[rows[i]]}: {predicted['km'][i]:,.0f} km off"
        for i in chosen
    ]
    grids = [predicted["attention"][i].reshape(encoder.grid) for i in chosen]
    pictures = [encoder.crop(open_picture(path)) for path in image_files(files.table.iloc[rows[chosen]])]
    return pictures, grids, captions

"""What a page computes from trained stages: predictions as arrays, figures of merit, examples to look at.

Nothing here trains, and nothing draws; the notebooks hand these arrays to `geocbm.plots`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.data import image_files
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics import concept_metrics, country_accuracy, geolocation_metrics
from geocbm.runs import RunFiles

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.features import FeatureStore
    from geocbm.stage1 import Stage1ConceptModel
    from geocbm.stage2 import NeighbourRefiner, Stage2CrossAttentionGeoHead

Arrays = dict[str, np.ndarray]


def describe_encoder(encoder: ImageEncoder) -> pd.DataFrame:
    """Geometry of an image encoder: columns `figure, value`."""
    rows = [
        ("name", encoder.name),
        ("picture", f"{encoder.image_size} x {encoder.image_size} pixels"),
        ("pooled features", f"{encoder.pooled_dim:,}"),
        ("patch tokens", f"{encoder.grid[0]} x {encoder.grid[1]} of {encoder.token_dim:,}"),
        ("blocks", f"{encoder.n_blocks:,}"),
        ("parameters", f"{sum(parameter.numel() for parameter in encoder.parameters()):,}"),
    ]
    return pd.DataFrame(rows, columns=["figure", "value"])


def describe_store(store: FeatureStore) -> pd.DataFrame:
    """What a feature store holds: columns `kind, shape of one image, megabytes`."""
    rows = []
    for kind in store.kinds:
        shape = store.shape(kind)
        size = store.n * int(np.prod(shape)) * 2 / 1e6
        rows.append(
            {"kind": kind, "shape of one image": " x ".join(f"{side:,}" for side in shape), "megabytes": round(size, 1)}
        )
    return pd.DataFrame(rows)


def nearest_neighbour_km(pooled: np.ndarray, files: RunFiles, rows: np.ndarray) -> np.ndarray:
    """Error in km of taking the place of the most similar training image (cosine), for the given rows."""
    unit = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    train = files.rows["train"]
    nearest = train[np.argmax(unit[rows] @ unit[train].T, axis=1)]
    return haversine_km(files.lat[rows], files.lng[rows], files.lat[nearest], files.lng[nearest])


def predict_concepts(model: Stage1ConceptModel, features: FeatureStore) -> Arrays:
    """Concept probabilities of every row: `meta [n, k_m]`, `parent [n, k_p]`."""
    from geocbm.stage1 import predict_stage1

    out = predict_stage1(model, features.read_all("pooled"), tokens=features)
    return {"meta": out["meta_probabilities"].numpy(), "parent": out["parent_probabilities"].numpy()}


def test_remark(files: RunFiles) -> str:
    """What the figures of a page are measured on, in a sentence."""
    if n := len(files.rows["test"]):
        return f"Figures of the test split are of {n:,} images."
    return (
        "The test split is empty, so that there are no figures of it. Concepts with one image are in the training "
        "split, those with two in training and validation. For a test split give some at least three images, or leave "
        "out a whole country (notebook 01)."
    )


def concept_figures(files: RunFiles, model: Stage1ConceptModel, predicted: Arrays, rows: np.ndarray) -> dict[str, Any]:
    """Accuracy of the concepts on some rows (specification, section Evaluation Metrics, Stage 1); none without rows."""
    if not len(rows):
        return {}
    meta, parent = files.meta_and_parent
    similarity = (model.meta_base @ model.meta_base.T).cpu().numpy()  # (k_m, k_m), rows are unit vectors
    return concept_metrics(
        predicted["meta"][rows],
        meta[rows],
        predicted["parent"][rows],
        parent[rows],
        files.concepts.parent_index,
        similarity=similarity,
        probabilities=True,
    )


CONCEPT_WORDS = {
    "meta_top1": "labelled concept named first",
    "meta_top5": "labelled concept among the first five",
    "meta_macro_recall": "mean over concepts of the share named right",
    "parent_top1": "parent named first (parent head)",
    "parent_top1_marginal": "parent named first (sum over its concepts)",
    "parent_top5": "parent among the first five",
    "parent_macro_recall": "mean over parents of the share named right",
    "semantic_close": "named concept is close in meaning (cosine of the words >= 0.7)",
    "semantic_close_random": "the same for a random guess",
}


def concept_table(files: RunFiles, figures: Mapping[str, Any], rows: np.ndarray) -> pd.DataFrame:
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
                "value": f"{100 * figures[name]:.1f} %",
                "most frequent class": f"{100 * frequent[name]:.1f} %" if name in frequent else "",
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
            lines.append({"figure": words} | {model: f"{100 * own[name]:.1f} %" for model, own in figures.items()})
    return pd.DataFrame(lines)


def concept_map_examples(
    files: RunFiles, encoder: ImageEncoder, model: Stage1ConceptModel, features: FeatureStore, count: int
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


def save_concept_scores(path: str | Path, predicted: Arrays) -> None:
    """Write concept probabilities of every row, for pages that do not load the model."""
    meta, parent = (predicted[name].astype(np.float32) for name in ("meta", "parent"))
    np.savez_compressed(path, meta=meta, parent=parent)


def predict_places(
    files: RunFiles,
    model: Stage2CrossAttentionGeoHead,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    rows: np.ndarray,
    refiner: NeighbourRefiner | None = None,
) -> Arrays:
    """Places of some rows: `lat, lng, km, cell, cell_probability, attention [m, P]`; cells best first, `[m, k]`."""
    from geocbm.stage2 import concept_input, predict_stage2

    predicted = predict_stage2(
        model, concept_input(model.config, concepts), features, rows, refiner=refiner, pooled=features
    )
    predicted["km"] = haversine_km(predicted["lat"], predicted["lng"], files.lat[rows], files.lng[rows])
    return predicted


def place_figures(files: RunFiles, predicted: Arrays, rows: np.ndarray) -> dict[str, float]:
    """Figures of merit of predicted places (specification, section Evaluation Metrics, Stage 2); none without rows."""
    if not len(rows):
        return {}
    answered, true = (predicted["lat"], predicted["lng"]), (files.lat[rows], files.lng[rows])
    return geolocation_metrics(*answered, *true) | {
        "cell_top1": float((predicted["cell"][:, 0] == files.cell_label[rows]).mean()),
        "country_acc": country_accuracy(*answered, *true),
    }


def cell_centre_km(files: RunFiles, predicted: Arrays, rows: np.ndarray) -> np.ndarray:
    """Error in km of the centre of the named cell, without the offset."""
    lat, lng = cartesian_to_latlng(files.cells.centers[predicted["cell"][:, 0]])
    return haversine_km(lat, lng, files.lat[rows], files.lng[rows])


PLACE_WORDS = {
    "median_km": ("median error", "{:,.0f} km"),
    "mean_km": ("mean error", "{:,.0f} km"),
    "acc_1km": ("within 1 km (street)", "{:.1%}"),
    "acc_25km": ("within 25 km (city)", "{:.1%}"),
    "acc_200km": ("within 200 km (region)", "{:.1%}"),
    "acc_750km": ("within 750 km (country)", "{:.1%}"),
    "acc_2500km": ("within 2500 km (continent)", "{:.1%}"),
    "geoscore": ("GeoScore, of 5000", "{:,.0f}"),
    "cell_top1": ("cell named right", "{:.1%}"),
    "country_acc": ("country named right", "{:.1%}"),
    "n": ("images", "{:,}"),
    "n_missing": ("of these without an answer, counted as misses", "{:,}"),
}


def _in_words(name: str, figures: Mapping[str, float]) -> str:
    """One figure as `PLACE_WORDS` writes it; a distance over too many missing answers is no number."""
    return PLACE_WORDS[name][1].format(figures[name]) if np.isfinite(figures[name]) else "no answer"


def place_table(figures: Mapping[str, float]) -> pd.DataFrame:
    """Figures of merit of places in words (specification, section Evaluation Metrics, Stage 2)."""
    return pd.DataFrame(
        [
            {"figure": words, "value": _in_words(name, figures)}
            for name, (words, _) in PLACE_WORDS.items()
            if name in figures and (figures[name] or name != "n_missing")
        ],
        columns=["figure", "value"],
    )


def place_records(files: RunFiles, by_mode: Mapping[str, Arrays], rows: np.ndarray) -> dict[str, float]:
    """Figures to keep: `stage2.*` of the first mode, and median and GeoScore of every mode; no infinite ones.

    Args:
        files: the run.
        by_mode: of `predict_places`, by name; those of another recipe are called `recipe NAME`.
        rows: the rows that were predicted.
    """
    kept: dict[str, float] = {}
    for number, (mode, places) in enumerate(by_mode.items()):
        figures = place_figures(files, places, rows)
        if number == 0:
            kept |= {f"stage2.{name}": value for name, value in figures.items() if name not in ("n", "n_missing")}
        key = mode.replace("recipe ", "recipe.") if mode.startswith("recipe ") else f"variant.{mode}"
        kept |= {f"{key}.{name}": figures[name] for name in ("median_km", "geoscore") if figures}
    return {key: value for key, value in kept.items() if np.isfinite(value)}


def mode_table(files: RunFiles, by_mode: Mapping[str, Arrays], rows: np.ndarray) -> pd.DataFrame:
    """Figures of several answers for the same rows, a line each.

    Args:
        files: the run.
        by_mode: of `predict_places`, by name.
        rows: the rows that were predicted.
    """
    shown = ("median_km", "acc_25km", "acc_200km", "acc_750km", "geoscore")
    lines = []
    for mode, places in by_mode.items() if len(rows) else ():
        figures = geolocation_metrics(places["lat"], places["lng"], files.lat[rows], files.lng[rows])
        line = {"mode": mode} | {PLACE_WORDS[name][0]: _in_words(name, figures) for name in shown}
        if "residual_share" in places:
            line["share of the residual in the logits"] = f"{places['residual_share'].mean():.0%}"
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def attention_examples(
    files: RunFiles, encoder: ImageEncoder, predicted: Arrays, rows: np.ndarray, count: int
) -> tuple[list[Image.Image], list[np.ndarray], list[str]]:
    """Pictures as the model saw them, their attention grids and captions.

    Half are the nearest answers among the most certain, half the farthest, so that a reader sees both; the choice
    does not depend on how the maps look.

    Args:
        files: the run.
        encoder: the encoder, for its crop and its grid.
        predicted: of `predict_places`.
        rows: the rows that were predicted.
        count: how many examples.
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


def save_predictions(path: str | Path, files: RunFiles, by_mode: Mapping[str, Arrays], rows: np.ndarray) -> None:
    """Write the predicted places of all modes, one row per image and mode; the first mode is the main one."""
    parts = []
    for number, (mode, places) in enumerate(by_mode.items()):
        part = files.table.iloc[rows][["pano_id", "meta_name", "country"]].reset_index(drop=True)
        parts.append(
            part.assign(
                row=rows,
                mode=mode,
                main=number == 0,
                true_lat=files.lat[rows],
                true_lng=files.lng[rows],
                lat=places["lat"],
                lng=places["lng"],
                cell=places["cell"][:, 0],
                confidence=places["cell_probability"][:, 0],
                true_cell=files.cell_label[rows],
            )
        )
    pd.concat(parts, ignore_index=True).to_parquet(path)


def save_cell_scores(
    path: str | Path,
    files: RunFiles,
    model: Stage2CrossAttentionGeoHead,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
) -> None:
    """Write the logits of all cells for the validation and the test split, for pages that ask how sure the model is.

    They are counted from the highest of their row, which loses nothing of the probabilities and lets 16 bits do: the
    cells that matter lie near 0, where half precision is fine. `geocbm.sure.read_cell_scores` reads the file.

    Args:
        path: the file, `cell_scores.npz`.
        files: the run.
        model: the trained head of the main mode.
        concepts: of `pipeline.predict_concepts`.
        features: the adapted features.
    """
    from geocbm.encoders.loading import hash_weights
    from geocbm.stage2 import cell_logits, concept_input

    content: Arrays = {
        "cells_digest": np.asarray(files.cells.digest),
        "head_digest": np.asarray(hash_weights(model.state_dict().items())),
    }
    for split in ("val", "test"):
        logits = cell_logits(model, concept_input(model.config, concepts), features, files.rows[split])
        below = logits - logits.max(axis=1, keepdims=True)
        content[f"{split}_rows"] = files.rows[split]
        content[f"{split}_logits"] = np.maximum(below, np.finfo(np.float16).min).astype(np.float16)  # (n, N)
    np.savez_compressed(path, **content)  # type: ignore[arg-type]

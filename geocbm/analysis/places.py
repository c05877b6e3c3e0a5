"""Predicted places as arrays, their figures of merit in words, and examples to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.data import image_files
from geocbm.files import lineage
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics import (
    Resamples,
    country_of,
    geolocation_intervals,
    geolocation_metrics,
    recordable,
    recordables,
    spatial_blocks,
)
from geocbm.metrics.table import metric
from geocbm.run import Run

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.decoder import Decoder, PointChoice
    from geocbm.models.refinement import NeighbourRefiner
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead

Arrays = dict[str, np.ndarray]


def predict_places(
    files: Run,
    model: Stage2CrossAttentionGeoHead,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    rows: np.ndarray,
    refiner: NeighbourRefiner | None = None,
    decoder: Decoder | None = None,
) -> Arrays:
    """Places of some rows: `km` and what `stage2.predict_stage2` returns; cells best first, `[m, k]`."""
    from geocbm.models.stage2_inference import concept_input, predict_stage2

    given = concept_input(model.config, concepts)
    predicted = predict_stage2(model, given, features, rows, refiner=refiner, pooled=features, decoder=decoder)
    predicted["km"] = haversine_km(predicted["lat"], predicted["lng"], files.lat[rows], files.lng[rows])
    return predicted


def place_figures(
    files: Run, predicted: Arrays, rows: np.ndarray, n_resamples: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Figures of merit of predicted places (specification, section Evaluation Metrics, Stage 2).

    Args:
        files: the run.
        predicted: of `predict_places`.
        rows: the rows that were predicted.
        n_resamples: resamples behind each interval, by blocks of 100 km.
        seed: of the resamples.

    Returns:
        `value`, `low` and `high` of each of `PLACE_WORDS`, and the numbers `n` and `n_missing`; nothing without rows.
    """
    if not len(rows):
        return {}
    answered, true = (predicted["lat"], predicted["lng"]), (files.lat[rows], files.lng[rows])
    drawn = Resamples(spatial_blocks(*true), n_resamples, seed)
    counts = geolocation_metrics(*answered, *true)
    country, right_country = country_of(*answered), country_of(*true)
    return geolocation_intervals(*answered, *true, drawn) | {
        "cell_top1": drawn.figure(predicted["cell"][:, 0] == files.cell_label[rows]),
        "country_acc": drawn.figure((country == right_country) & (right_country != "")),
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


def choice_table(choice: PointChoice) -> pd.DataFrame:
    """Validation figures of every point that might be answered, in words; the one that is answered is marked."""
    from geocbm.models.decoder import POINT_WORDS

    return pd.DataFrame(
        [
            {
                "point": POINT_WORDS[name],
                "GeoScore": f"{own['geoscore']:,.0f}",
                "median error": f"{own['median_km']:,.0f} km" if np.isfinite(own["median_km"]) else "no answer",
                "": "answered" if name == choice.point else "",
            }
            for name, own in choice.figures.items()
        ]
    )


PLACE_WORDS = {
    "median_km": "median error",
    "mean_km": "mean error",
    "acc_1km": "within 1 km (street)",
    "acc_25km": "within 25 km (city)",
    "acc_200km": "within 200 km (region)",
    "acc_750km": "within 750 km (country)",
    "acc_2500km": "within 2500 km (continent)",
    "geoscore": "GeoScore, of 5000",
    "cell_top1": "cell named right",
    "country_acc": "country named right",
    "n": "images",
    "n_missing": "of these without an answer, counted as misses",
}


def _in_words(name: str, figures: Mapping[str, Any]) -> str:
    """One figure in its unit, with its interval; a distance over too many missing answers is no number."""
    kept = recordable(figures[name])
    return "no answer" if kept is None else metric(f"stage2.{name}").entry(kept)


def place_table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """Figures of merit of places in words (specification, section Evaluation Metrics, Stage 2)."""
    return pd.DataFrame(
        [
            {"figure": words, "value": _in_words(name, figures)}
            for name, words in PLACE_WORDS.items()
            if name in figures and (figures[name] or name != "n_missing")
        ],
        columns=["figure", "value"],
    )


def place_records(
    files: Run, by_mode: Mapping[str, Arrays], rows: np.ndarray, n_resamples: int = 200, seed: int = 0
) -> dict[str, float | dict[str, float]]:
    """Figures to keep: `stage2.*` of the first mode, and median and GeoScore of every mode; no infinite ones.

    Args:
        files: the run.
        by_mode: of `predict_places`, by name; those of another recipe are called `recipe NAME`.
        rows: the rows that were predicted.
        n_resamples: resamples behind each interval.
        seed: of the resamples.
    """
    kept: dict[str, Any] = {}
    for number, (mode, places) in enumerate(by_mode.items()):
        figures = place_figures(files, places, rows, n_resamples, seed)
        if number == 0:
            kept |= {f"stage2.{name}": value for name, value in figures.items() if name not in ("n", "n_missing")}
        key = mode.replace("recipe ", "recipe.") if mode.startswith("recipe ") else f"variant.{mode}"
        kept |= {f"{key}.{name}": figures[name] for name in ("median_km", "geoscore") if figures}
    return recordables(kept)


def mode_table(files: Run, by_mode: Mapping[str, Arrays], rows: np.ndarray) -> pd.DataFrame:
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
        line = {"mode": mode} | {PLACE_WORDS[name]: _in_words(name, figures) for name in shown}
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


def save_predictions(path: str | Path, files: Run, by_mode: Mapping[str, Arrays], rows: np.ndarray) -> None:
    """Write the predicted places of all modes, one row per image and mode; the first mode is the main one.

    `lat` and `lng` are the answer, `lat_<point>` and `lng_<point>` the points it was chosen from, NaN where a mode has
    no such point.
    """
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
        named = {name: values for name, values in places.items() if name.startswith(("lat_", "lng_"))}
        parts[-1] = parts[-1].assign(**named)
    others = [f"stage2_{mode.replace(' ', '_')}" for mode in list(by_mode)[1:]]
    kept = [name for name in others if files.path(f"{name}.safetensors").exists()]
    whole = pd.concat(parts, ignore_index=True)
    whole.attrs[lineage.KEY] = files.made_from("predictions.parquet", *kept)
    whole.to_parquet(path)


def save_cell_scores(
    path: str | Path,
    files: Run,
    model: Stage2CrossAttentionGeoHead,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
) -> None:
    """Write the logits of all cells for the validation and the test split, for pages that ask how sure the model is.

    `geocbm.evaluation.uncertainty.read_cell_scores` reads the file.

    Args:
        path: the file, `cell_scores.npz`.
        files: the run.
        model: the trained head of the main mode.
        concepts: of `pipeline.predict_concepts`.
        features: the adapted features.
    """
    from geocbm.encoders.loading import hash_weights
    from geocbm.geocells.distribution import in_half_precision
    from geocbm.models.stage2_inference import cell_logits, concept_input

    content: Arrays = {
        "cells_digest": np.asarray(files.cells.digest),
        lineage.KEY: np.asarray(lineage.as_text(files.made_from("cell_scores.npz"))),
        "head_digest": np.asarray(hash_weights(model.state_dict().items())),
    }
    for split in ("val", "test"):
        logits = cell_logits(model, concept_input(model.config, concepts), features, files.rows[split])
        content[f"{split}_rows"] = files.rows[split]
        content[f"{split}_logits"] = in_half_precision(logits)  # (n, N)
    np.savez_compressed(path, **content)  # type: ignore[arg-type]

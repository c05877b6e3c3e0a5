"""Metrics of Stage 2: how far predicted places are off, what a run keeps of them, and examples to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm.data import image_files
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics import (
    Resamples,
    country_of,
    geolocation_intervals,
    geolocation_metrics,
    metric_table,
    recordables,
    spatial_blocks,
)
from geocbm.run import Run

if TYPE_CHECKING:
    from PIL import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.models.decoder import PointChoice

Arrays = dict[str, np.ndarray]


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


def choice_table(choice: PointChoice) -> pd.DataFrame:
    """Validation metrics of every point that might be answered; the one that is answered is marked."""
    table = pd.DataFrame.from_dict(choice.figures, orient="index").rename_axis("point").round()
    return table.assign(answered=table.index == choice.point)


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

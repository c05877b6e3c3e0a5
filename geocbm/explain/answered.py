"""Explanations beside the answers that they explain: a run has several heads, and each explains its own answer only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.explain.contributions import Explanation, explain_scores
from geocbm.explain.flows import place_of_cells
from geocbm.geocells.distribution import sum_by_place
from geocbm.geodesy import haversine_km

if TYPE_CHECKING:
    from geocbm.explain.interventions import InterventionModel
    from geocbm.run import Run


def named_countries(model: InterventionModel, rows: np.ndarray, files: Run) -> np.ndarray:
    """For each picture the country that is explained, `[m]`: the one that holds the answered point, as in `predict`.

    Where the point lies in no country of the run it is the one whose cells have the most probability together, and
    where all cells lie in one country it is the likeliest cell.

    Args:
        model: Stage 2 in any mode.
        rows: the pictures.
        files: the run.
    """
    from geocbm.metrics.country_spelling import CountryNames, places_at

    places, cells = model.predict(np.asarray(rows)), files.cells
    names, believed = sum_by_place(places.probabilities, place_of_cells(cells))
    likeliest = names[believed.argmax(axis=1)].astype(str)
    if len(np.unique(cells.country)) < 2:
        return likeliest
    train = files.rows["train"]
    called = CountryNames.fit(files.lat[train], files.lng[train], files.country[train])
    nearest = cells.country[cells.assign(places.lat, places.lng)].astype(str)
    near = places_at(places.lat, places.lng)
    held = [called.country(place, own) for place, own in zip(near, nearest, strict=True)]
    return np.array([own if own in names else other for own, other in zip(held, likeliest, strict=True)])


def explain_country(model: InterventionModel, row: int, files: Run, caption: str) -> Explanation:
    """The country that the model names for a picture of the table, explained.

    Args:
        model: Stage 2 in any mode.
        row: the picture.
        files: the run.
        caption: what the picture truly is.
    """
    from geocbm.training import row_reader

    country = str(named_countries(model, np.array([row]), files)[0])
    vocabulary = files.concepts
    tokens = None
    if model.head.config.ablation_mode == "hybrid" and model.features is not None:
        tokens = row_reader(model.features, "tokens", half=True)(np.array([row]))
    return explain_scores(
        model.head,
        model.scores[[row]],
        place_of_cells(files.cells) == country,
        f"{country} for a picture of {caption}",
        (*vocabulary.metas, *vocabulary.parents),
        len(vocabulary.metas),
        tokens=tokens,
        answer=lambda edited: model.forward_one(row, edited),
        neutral=model.baseline,
        odds=True,
    )


def modes_explained(strict: InterventionModel, main: InterventionModel) -> dict[str, InterventionModel]:
    """The heads that a page explains, by their mode: the strict bottleneck, and the run's own where that is another."""
    return {model.head.config.ablation_mode: model for model in (strict, main)}


def answer_table(
    files: Run, models: Mapping[str, InterventionModel], rows: Sequence[int], captions: Sequence[str]
) -> pd.DataFrame:
    """What each head answers for some pictures: the country it names and how far off the point lies.

    Args:
        files: the run.
        models: of `modes_explained`.
        rows: the pictures.
        captions: what each picture truly is.
    """
    chosen = np.asarray(rows, dtype=np.int64)
    table: dict[str, list[str]] = {"picture": list(captions)}
    for mode, model in models.items() if len(chosen) else ():
        places = model.predict(chosen)
        km = haversine_km(places.lat, places.lng, files.lat[chosen], files.lng[chosen])
        named = named_countries(model, chosen, files)
        table[f"answer of {mode}"] = [f"{name}, {far:,.0f} km off" for name, far in zip(named, km, strict=True)]
    return pd.DataFrame(table)


def agreement_sentence(files: Run, models: Mapping[str, InterventionModel], rows: np.ndarray) -> str:
    """In how many pictures both heads name one country; empty where there is one head.

    Args:
        files: the run.
        models: of `modes_explained`.
        rows: the pictures.
    """
    if len(models) < 2 or not len(rows):
        return ""
    (first, one), (second, other) = models.items()
    same = named_countries(one, rows, files) == named_countries(other, rows, files)
    return (
        f"{first} and {second} are two models. They name the same country for {same.mean():.0%} of {len(rows):,} test "
        "pictures; for the others an explanation of the one explains nothing of the other's answer."
    )

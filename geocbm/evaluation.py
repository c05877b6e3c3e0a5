"""All methods on the test split of one run: what simple methods get, what the stages get, what could be had at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm import baselines, pipeline
from geocbm.baselines import Prediction
from geocbm.data import image_files
from geocbm.errors import MismatchError
from geocbm.geodesy import cartesian_to_latlng
from geocbm.metrics import country_of, error_km, expected_calibration_error
from geocbm.runs import RunFiles

METHOD_WORDS = {
    "chance": "chance (a random training image)",
    "prior": "prior",
    "mean_colour": "mean colour, 1-NN",
    "gallery": "gallery of Stage 0",
    "nearest_neighbour": "nearest neighbour",
    "linear_probe": "linear probe",
    "stage1": "Stage 1",
    "stage2": "Stage 2",
    "true_concepts": "true concepts (ceiling)",
}
"""What the methods are called on the page, in the order of the page; other recipes stand before the ceiling."""


def words_of(name: str) -> str:
    """What a method is called on the page."""
    recipe = name.removeprefix("recipe_")
    return METHOD_WORDS[name] if recipe == name else f"Stage 2, recipe {recipe}"


def in_order(names: Sequence[str]) -> list[str]:
    """Names of methods in the order of the page."""
    known = [name for name in METHOD_WORDS if name in names]
    others = [name for name in names if name.startswith("recipe_")]
    at = known.index("true_concepts") if "true_concepts" in known else len(known)
    return known[:at] + others + known[at:]


def simple_methods(files: RunFiles, cache: Path, seed: int = 0) -> list[Prediction]:
    """Answers of all baselines for the test split; the ceiling only where the data comes with ground truth.

    Args:
        files: the run, with Stage 0 trained.
        cache: folder of the feature stores.
        seed: seed of the fitted baselines.
    """
    vanilla = pipeline.open_features(files, "vanilla", cache).read_all("pooled").numpy()
    train, test = files.rows["train"], files.rows["test"]
    meta = files.meta_and_parent[0]
    learned: dict[str, Any] = {"country": files.country[train], "meta": meta[train]}
    places = {"lat": files.lat[train], "lng": files.lng[train]}
    centre_lat, centre_lng = cartesian_to_latlng(files.cells.centers)
    cells = {"cell": files.cell_label[train], "cell_lat": centre_lat, "cell_lng": centre_lng}
    colours = baselines.mean_colours(image_files(files.table))
    answers = [
        baselines.chance(**places, n=len(test), **learned, seed=seed),
        baselines.training_prior(**places, n=len(test), **learned, seed=seed),
        baselines.nearest_neighbour(
            colours[train], colours[test], **places, **learned, metric="euclidean", name="mean_colour"
        ),
        gallery(files, cache),
        baselines.nearest_neighbour(vanilla[train], vanilla[test], **places, **learned),
        baselines.linear_probe(vanilla[train], vanilla[test], **learned, **cells),
    ]
    concepts = visible_concepts(files)
    if concepts is not None:
        answers.append(baselines.true_concepts(concepts[train], concepts[test], **learned, **cells, seed=seed))
    return answers


def visible_concepts(files: RunFiles) -> np.ndarray | None:
    """Features of the true list of visible concepts of every row; None where the data has no ground truth."""
    from geocbm.atlas.dataset import load_ground_truth

    folder = Path(files.table.attrs["folder"])
    if not (folder / "ground_truth.jsonl.gz").exists():
        return None
    truth = load_ground_truth(folder)
    visible = [truth[pano_id]["concepts"] for pano_id in files.table["pano_id"]]
    return baselines.concept_features(visible, files.concepts.metas)


def gallery(files: RunFiles, cache: Path) -> Prediction:
    """GeoCLIP-style retrieval: the gallery place whose embedding is most like the adapted image features."""
    from geocbm.encoders import load_gallery, load_location_encoder
    from geocbm.gallery import adapted_gallery, gallery_embeddings

    places = load_gallery()
    embeddings = gallery_embeddings(load_location_encoder(), cache, places)
    adapted = adapted_gallery(pipeline.load_stage0(files)[0].gps_adapter, embeddings)
    features = pipeline.open_features(files, "adapted", cache).read("pooled", files.rows["test"])
    return baselines.gallery(features, adapted, places[:, 0], places[:, 1])


def stage_answers(files: RunFiles) -> list[Prediction]:
    """What Stage 1 says of concepts and Stage 2 of places, for the test split, as they were stored."""
    test = files.rows["test"]
    with np.load(files.need("concept_scores.npz"), allow_pickle=False) as stored:
        scores = stored["meta"]  # (n, k_m)
    if scores.shape != (len(files.table), len(files.concepts.metas)):
        raise MismatchError(
            f"concept_scores.npz of run {files.run!r} has the shape {scores.shape}, its table has {len(files.table)} "
            f"rows and {len(files.concepts.metas)} metas; make it again with: {files.remedy('concept_scores.npz')}"
        )
    named = scores[test].argmax(axis=1)
    answers = [Prediction("stage1", meta=named)]
    for mode, places in _stored_predictions(files).items():
        if mode == "" or mode.startswith("recipe "):
            name = mode.replace(" ", "_") or "stage2"
            answers.append(Prediction(name, places["lat"].to_numpy(), places["lng"].to_numpy()))
    return answers


def _stored_predictions(files: RunFiles) -> dict[str, pd.DataFrame]:
    """Stored predictions of Stage 2 by mode, in the order of the test split; the main mode is called ""."""
    stored = pd.read_parquet(files.need("predictions.parquet"))
    others = stored.loc[~stored["main"], "mode"].unique()
    by_mode = {"": stored[stored["main"]]} | {mode: stored[stored["mode"] == mode] for mode in others}
    return {mode: _checked(files, places) for mode, places in by_mode.items()}


def main_predictions(files: RunFiles) -> pd.DataFrame:
    """Stored predictions of the main mode of Stage 2, in the order of the test split.

    Raises:
        MismatchError: they are of other images than those of the test split.
    """
    return _stored_predictions(files)[""]


def _checked(files: RunFiles, stored: pd.DataFrame) -> pd.DataFrame:
    """Predictions in the order of the test split, refused if they are of other images."""
    places = stored.set_index("row").reindex(files.rows["test"])
    names = files.table["pano_id"].iloc[files.rows["test"]]
    if len(places) != len(stored) or places["pano_id"].tolist() != names.tolist():
        raise MismatchError(
            f"predictions.parquet of run {files.run!r} was made for another test split; make it again with: "
            f"{files.remedy('predictions.parquet')}"
        )
    return places.reset_index()


def measure(files: RunFiles, answers: Sequence[Prediction], n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """All figures of all methods with their intervals, a row per method, in the order of the page."""
    test = files.rows["test"]
    by_name = {answer.name: answer for answer in answers}
    ordered = [by_name[name] for name in in_order(list(by_name))]
    meta = files.meta_and_parent[0][test]
    return baselines.table(
        ordered, files.lat[test], files.lng[test], files.country[test], meta, n=n_resamples, seed=seed
    )


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """The table in words, each figure with its interval."""
    forms = {
        "median_km": ("median error, km", "{:,.0f}", 1.0),
        "country_acc": ("country right, %", "{:.1f}", 100.0),
        "geoscore": ("GeoScore", "{:,.0f}", 1.0),
        "meta_top1": ("labelled concept right, %", "{:.1f}", 100.0),
    }

    def cell(row: Mapping[Any, Any], figure: str) -> str:
        _, form, factor = forms[figure]
        if np.isnan(row[figure]):
            return ""
        parts = (form.format(factor * row[f"{figure}{end}"]) for end in ("", "_low", "_high"))
        return "{} [{}, {}]".format(*parts)

    return pd.DataFrame(
        [
            {"method": words_of(row["name"])} | {words: cell(row, figure) for figure, (words, *_) in forms.items()}
            for row in table.to_dict("records")
        ]
    )


def forest_rows(table: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Rows of one figure for `plots.forest`, methods under the names of the page."""
    rows = baselines.forest_rows(table, figure)
    return rows.assign(name=rows["name"].map(words_of))


def errors_km(files: RunFiles, answers: Sequence[Prediction]) -> dict[str, np.ndarray]:
    """Error of every method that names a place, by image of the test split."""
    test = files.rows["test"]
    by_name = {answer.name: answer for answer in answers}
    return {
        words_of(name): error_km(by_name[name].lat, by_name[name].lng, files.lat[test], files.lng[test])
        for name in in_order(list(by_name))
        if by_name[name].lat is not None
    }


def by_country(files: RunFiles, answer: Prediction) -> pd.DataFrame:
    """Median error and share of right countries by true country: columns `country, n, median_km, country_acc`."""
    test = files.rows["test"]
    truth = country_of(files.lat[test], files.lng[test])
    frame = pd.DataFrame(
        {
            "country": files.country[test],
            "km": error_km(answer.lat, answer.lng, files.lat[test], files.lng[test]),
            "right": country_of(answer.lat, answer.lng) == truth,
        }
    )
    grouped = frame.groupby("country").agg(n=("km", "size"), median_km=("km", "median"), country_acc=("right", "mean"))
    return grouped.reset_index()


def record(put: Callable[[str, Any], None], table: pd.DataFrame, confidence: np.ndarray, right: np.ndarray) -> None:
    """Record the figures of all methods with their intervals, and the calibration error.

    A stage's own figures, such as `stage1.meta_top1`, take the place of those its page recorded without an interval.

    Args:
        put: takes a dotted key and a figure.
        table: of `measure`.
        confidence: `[n]` probability of the named cell.
        right: `[n]` whether it was the true one.
    """
    for key, figure in baselines.records(table).items():
        own = key.removeprefix("baseline.") if key.startswith(("baseline.stage", "baseline.recipe_")) else key
        put(own.replace("recipe_", "recipe.", 1) if own.startswith("recipe_") else own, figure)
    put("sure.ece", expected_calibration_error(confidence, right))

"""Methods: baselines, oracles and the stages of a run on its test split, measured alike in one table."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from geocbm import metrics
from geocbm.data import image_files
from geocbm.data.concepts import META_TEMPLATES
from geocbm.data.simulated import has_ground_truth, load_ground_truth
from geocbm.encoders import prototypes
from geocbm.errors import MismatchError
from geocbm.evaluation.baselines import base, linear, neighbours, retrieval, simple
from geocbm.evaluation.baselines.base import Prediction, Task
from geocbm.files.progress import track
from geocbm.metrics import Estimate, Resamples, entry_of, estimate_columns, geoscore
from geocbm.models.decoder import POINT_WORDS, Points
from geocbm.run import Run, predictions
from geocbm.run.encoding import read_encoders
from geocbm.run.guessing import joint_text_encoder

METHOD_LABELS = {
    "chance": "chance (a random training image)",
    "prior": "prior",
    "mean_colour": "mean colour, 1-NN",
    "gallery": "gallery of Stage 0",
    "training_gallery": "gallery of training places",
    "geoclip": "GeoCLIP's own model",
    "nearest_neighbour": "nearest neighbour",
    "knn": "nearest neighbours",
    "zero_shot_country": "zero-shot country by prompts",
    "zero_shot_concept": "zero-shot concept by prompts",
    "linear_probe": "linear probe",
    "stage1": "Stage 1",
    "stage2": "Stage 2",
    "country_centroid": "true country (oracle)",
    "true_meta": "true label alone (oracle)",
    "true_concepts": "all concepts known (oracle)",
}
"""What methods are called, in the order of the page; modes of Stage 2 and baselines of one's own stand before the
simple."""

ORACLES = ("country_centroid", "true_meta", "true_concepts")
TOLD = {"country_centroid": "country_acc", "true_meta": "meta_top1"}
"""What an oracle is told, and therefore right about by construction: it is not measured."""

METRICS = ("median_km", "country_acc", "geoscore", "meta_top1")
"""What `measure` measures."""


def label_of(name: str, detail: str = "") -> str:
    """What a method is called, with what was chosen for it."""
    if name.startswith("variant_"):
        return f"Stage 2, {name.removeprefix('variant_')}"
    return METHOD_LABELS.get(name, name.replace("_", " ")) + (f", {detail}" if detail else "")


def by_label(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of methods by what these are called."""
    return {label_of(name): value for name, value in values.items()}


def in_order(answers: Iterable[Prediction]) -> list[Prediction]:
    """Methods in the order of the page, of two with one name the last."""
    by_name = {answer.name: answer for answer in answers}
    known = [name for name in METHOD_LABELS if name in by_name and name not in ORACLES]
    own = [name for name in by_name if name not in METHOD_LABELS]
    return [by_name[name] for name in (*known, *own, *(name for name in ORACLES if name in by_name))]


def all_baselines(run: Run, cache: Path, seed: int = 0, geoclip_backbone: str = "") -> list[Prediction]:
    """Answers of all baselines and oracles for the test split, learned from the training split alone.

    Left out are zero-shot prompts where texts and pictures share no space, GeoCLIP's own model without its backbone,
    and the classifier on the true concepts where the data comes without ground truth. `cache` is the folder of the
    feature stores, `geoclip_backbone` a folder or hub name.
    """
    if not len(run.pictures["test"]):
        return []
    task = Task.of(run)
    train, test = task.split("train"), task.split("test")
    vanilla = run.features("vanilla").read_all("pooled").numpy()
    adapted = run.features("adapted").read_all("pooled").numpy()
    colours = simple.mean_colours(track(image_files(run.table), "mean colours", unit="picture"))
    asked: list[tuple[base.Baseline, np.ndarray]] = [
        (simple.Chance(seed), vanilla),
        (simple.Prior(seed), vanilla),
        (neighbours.NearestNeighbour("mean_colour", "euclidean"), colours),
        *((gallery, adapted) for gallery in retrieval.stage0_galleries(run, cache)),
        (neighbours.NearestNeighbour(), vanilla),
        (neighbours.KNearest(), vanilla),
        (linear.LinearProbe(), vanilla),
        *((method, vanilla) for method in prompted(run, vanilla.shape[1])),
    ]
    if geoclip_backbone:
        asked.append(retrieval.geoclip(run, cache, geoclip_backbone))
    answers = [task.answer(method, features) for method, features in track(asked, "baselines")]
    answers += [simple.country_centroid(train, test.country), simple.true_meta(train, test.meta, seed)]
    concepts = visible_concepts(run)
    return answers if concepts is None else [*answers, task.answer(linear.TrueConcepts(seed), concepts)]


def visible_concepts(run: Run) -> np.ndarray | None:
    """Features of the true list of visible concepts of every row; None where the data has no ground truth."""
    folder = Path(run.table.attrs["folder"])
    if not has_ground_truth(folder):
        return None
    truth = load_ground_truth(folder)
    visible = [truth[pano_id]["concepts"] for pano_id in run.table["pano_id"]]
    return linear.concept_features(visible, run.concepts.metas)


def prompted(run: Run, width: int) -> list[base.Baseline]:
    """Zero-shot country and concept by prompts, with the untouched model; none where it has no joint space.

    Only countries of the training split can be named, as by every other method. `width` is that of the untouched
    encoder's pooled features.
    """
    encoders = read_encoders(run)
    if encoders.text_encoder not in ("", encoders.image_encoder):
        return []
    text = joint_text_encoder(encoders.image_encoder, width)
    if text is None:
        return []
    countries = sorted(set(run.country[run.pictures["train"]].tolist()))
    return [
        simple.ZeroShotCountry(prototypes(text, countries, simple.COUNTRY_TEMPLATES), countries),
        simple.ZeroShot(prototypes(text, run.concepts.metas, META_TEMPLATES)),
    ]


def stage_answers(run: Run) -> list[Prediction]:
    """What Stage 1 says of concepts and Stage 2 and its modes of places, for the test split, as 04 and 05 stored it."""
    test = run.pictures["test"]
    scores = predictions.read_concept_scores(run)["meta"]  # (n, k_m)
    answers = [Prediction("stage1", meta=scores[test].argmax(axis=1))]
    for mode, places in stored_predictions(run).items():
        if mode.startswith("recipe "):  # of runs of before: another recipe is a run of its own
            continue
        stem = f"stage2_{mode.replace(' ', '_')}" if mode else "stage2"
        answers.append(
            Prediction(
                f"variant_{mode}" if mode else "stage2",
                places["lat"].to_numpy(),
                places["lng"].to_numpy(),
                points=stored_points(places),
                choice=predictions.read_choice(run, stem),
            )
        )
    return answers


def stored_predictions(run: Run) -> dict[str, pd.DataFrame]:
    """Stored predictions of Stage 2 by mode, in the order of the test split; the main mode is called "".

    Those of other images than the test split's are a MismatchError.
    """
    with run.opened("predictions.parquet") as stored:
        if not np.isfinite(stored[["lat", "lng", "true_lat", "true_lng"]]).all(axis=None):
            raise ValueError("it holds places that are not numbers")
        others = stored.loc[~stored["main"], "mode"].unique()
        by_mode = {"": stored[stored["main"]]} | {mode: stored[stored["mode"] == mode] for mode in others}
    test = run.pictures["test"]
    names = run.table["pano_id"].iloc[test].tolist()
    found = {}
    for mode, rows in by_mode.items():
        places = rows.set_index("row").reindex(test)
        if len(places) != len(rows) or places["pano_id"].tolist() != names:
            raise MismatchError(
                f"predictions.parquet of run {run.name!r} was made for another test split; make it again with: "
                f"{run.remedy('predictions.parquet')}"
            )
        found[mode] = places.reset_index()
    return found


def main_predictions(run: Run) -> pd.DataFrame:
    """Stored predictions of the main mode of Stage 2, in the order of the test split (see `stored_predictions`)."""
    return stored_predictions(run)[""]


def stored_points(places: pd.DataFrame, names: Iterable[str] = POINT_WORDS) -> dict[str, Points]:
    """Those points of some `names` that a mode might have answered; none in files of before."""
    return {
        name: (places[f"lat_{name}"].to_numpy(), places[f"lng_{name}"].to_numpy())
        for name in names
        if f"lat_{name}" in places and (not len(places) or places[f"lat_{name}"].notna().any())
    }


def own_points(places: pd.DataFrame) -> dict[str, Points]:
    """The stored points of a mode that do not come from its distribution over cells."""
    return stored_points(places, ("offset", "neighbours"))


class TruePlaces:
    """Labels of the test pictures, countries by polygon and `n` resamples, against which all answers are measured."""

    def __init__(self, run: Run, n: int = 1000, seed: int = 0) -> None:
        self.labels, self.metas = Task.of(run).split("test"), run.labels_at(run.pictures["test"])  # metas [n, k_m]
        self.lat, self.lng = self.labels.lat, self.labels.lng
        self.country = metrics.country_of(self.lat, self.lng)
        self.draws = Resamples(metrics.spatial_blocks(self.lat, self.lng) if len(self) else [0], n, seed)

    def __len__(self) -> int:
        return len(self.labels)

    def values(self, lat: Any, lng: Any) -> dict[str, np.ndarray]:
        """`median_km`, `geoscore` and `country_acc` of places answered, `[n]` each.

        The country is that of the place by polygons; a place without one, as in the open sea, is a miss.
        """
        km, country = metrics.error_km(lat, lng, self.lat, self.lng), metrics.country_of(lat, lng)
        right = (country == self.country) & (country != "")
        return {"median_km": km, "geoscore": geoscore(km), "country_acc": right}


def measure(truth: TruePlaces, answers: Sequence[Prediction]) -> pd.DataFrame:
    """Measure all methods on the test split with the same resamples, in the order of the page.

    A method that names no country but a place is given the country of its place by country polygons, and is held
    against the country of the true place by the same polygons. A row per method: `name`, `method` (its label),
    `answered` (which point of its distribution), `METRICS` with their intervals (NaN where it does not answer or is
    `TOLD`), and `n_missing`, photographs for which a method of places names none; these count as misses.
    """
    rows = []
    for answer in in_order(answers):
        values = _values(answer, truth) if len(truth) else {}
        row: dict[str, Any] = {"name": answer.name, "method": label_of(answer.name, answer.detail)}
        row["answered"] = POINT_WORDS[answer.choice.point] if answer.choice else ""
        own = {metric: None if TOLD.get(answer.name) == metric else values.get(metric) for metric in METRICS}
        row |= estimate_columns(truth.draws, own)
        rows.append(row | {"n_missing": int(np.isinf(values["median_km"]).sum()) if "median_km" in values else 0})
    return pd.DataFrame(rows)


def _values(answer: Prediction, truth: TruePlaces) -> dict[str, np.ndarray]:
    """Values `[n]` of each metric that a method has."""
    values = {} if answer.lat is None else truth.values(answer.lat, answer.lng)
    for named in (answer.country, answer.meta):
        if named is not None and len(named) != len(truth):
            raise ValueError(f"{answer.name} has {len(named)} answers for {len(truth)} rows")
    if answer.country is not None:
        values["country_acc"] = np.asarray(answer.country) == truth.labels.country
    if answer.meta is not None:
        right = truth.metas[np.arange(len(truth)), np.asarray(answer.meta)]
        values["meta_top1"] = np.where(truth.metas.any(axis=1), right, np.nan)
    return values


def errors_km(truth: TruePlaces, answers: Sequence[Prediction]) -> dict[str, np.ndarray]:
    """Error of every method that names a place, by image of the test split, under its label."""
    return {
        label_of(one.name, one.detail): metrics.error_km(one.lat, one.lng, truth.lat, truth.lng)
        for one in in_order(answers)
        if one.lat is not None
    }


def records(table: pd.DataFrame) -> dict[str, float | Estimate]:
    """Metrics to keep of `measure`, by key of `metrics.json`; what was not measured or is infinite is left out.

    Those of a stage, such as `stage1.meta_top1` and `stage2.median_km`, its own page records too: the same numbers,
    with the same intervals where both draw as many resamples with one seed. In `metrics.json` these take their place.
    """
    kept: dict[str, Estimate] = {}
    for row in table.to_dict("records"):
        name = str(row["name"])
        own = name.replace("variant_", "variant.", 1) if name.startswith(("stage", "variant_")) else f"baseline.{name}"
        kept |= {f"{own}.{metric}": entry_of(row, metric) for metric in METRICS}
    return metrics.recordables(kept)

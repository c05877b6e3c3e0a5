"""What the stages of a run say of the test split, as notebooks 04 and 05 stored it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm.errors import MismatchError
from geocbm.evaluation.baselines import Prediction
from geocbm.run import Run

if TYPE_CHECKING:
    from geocbm.models.point_estimates import Points


def stage_answers(files: Run) -> list[Prediction]:
    """What Stage 1 says of concepts and Stage 2, its variants and the other recipe of places, for the test split."""
    test = files.rows["test"]
    with np.load(files.need("concept_scores.npz"), allow_pickle=False) as stored:
        scores = stored["meta"]  # (n, k_m)
    if scores.shape != (len(files.table), len(files.concepts.metas)):
        raise MismatchError(
            f"concept_scores.npz of run {files.name!r} has the shape {scores.shape}, its table has {len(files.table)} "
            f"rows and {len(files.concepts.metas)} metas; make it again with: {files.remedy('concept_scores.npz')}"
        )
    answers = [Prediction("stage1", meta=scores[test].argmax(axis=1))]
    for mode, places in stored_predictions(files).items():
        name = mode.replace(" ", "_", 1) if mode.startswith("recipe ") else f"variant_{mode}"
        answers.append(Prediction(name if mode else "stage2", places["lat"].to_numpy(), places["lng"].to_numpy()))
    return answers


def stored_predictions(files: Run) -> dict[str, pd.DataFrame]:
    """Stored predictions of Stage 2 by mode, in the order of the test split; the main mode is called "".

    Raises:
        MismatchError: they are of other images than those of the test split.
    """
    stored = pd.read_parquet(files.need("predictions.parquet"))
    others = stored.loc[~stored["main"], "mode"].unique()
    by_mode = {"": stored[stored["main"]]} | {mode: stored[stored["mode"] == mode] for mode in others}
    return {mode: _checked(files, places) for mode, places in by_mode.items()}


def own_points(places: pd.DataFrame) -> dict[str, Points]:
    """The stored points of a mode that do not come from its distribution over cells; none in files of before.

    Args:
        places: of `stored_predictions` or `main_predictions`.
    """
    return {name: points for name, points in stored_points(places).items() if name in ("offset", "neighbours")}


def stored_points(places: pd.DataFrame) -> dict[str, Points]:
    """All points that a mode might have answered, by the names of `sure.POINT_WORDS`; none in files of before."""
    from geocbm.evaluation.uncertainty import POINT_WORDS

    found = {}
    for name in POINT_WORDS:
        if f"lat_{name}" in places and (not len(places) or places[f"lat_{name}"].notna().any()):
            found[name] = (places[f"lat_{name}"].to_numpy(), places[f"lng_{name}"].to_numpy())
    return found


def main_predictions(files: Run) -> pd.DataFrame:
    """Stored predictions of the main mode of Stage 2, in the order of the test split.

    Raises:
        MismatchError: they are of other images than those of the test split.
    """
    return stored_predictions(files)[""]


def _checked(files: Run, stored: pd.DataFrame) -> pd.DataFrame:
    """Predictions in the order of the test split, refused if they are of other images."""
    places = stored.set_index("row").reindex(files.rows["test"])
    names = files.table["pano_id"].iloc[files.rows["test"]]
    if len(places) != len(stored) or places["pano_id"].tolist() != names.tolist():
        raise MismatchError(
            f"predictions.parquet of run {files.name!r} was made for another test split; make it again with: "
            f"{files.remedy('predictions.parquet')}"
        )
    return places.reset_index()

"""How sure the model may be of a new photograph, from what it said of the validation split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geocbm.errors import MismatchError, UserError
from geocbm.predict.answers import Region
from geocbm.run import Run

if TYPE_CHECKING:
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead


@dataclass(frozen=True)
class Calibration:
    """Temperature and conformal thresholds of a run, fitted on its validation photographs.

    The regions are those of `uncertainty.conformal` with chance left out: the scores of the validation photographs and
    those of a new one count the whole probability of a cell, not a random share of it. The same photograph then always
    gets the same region, and the coverage is at least the one that was asked for.

    Attributes:
        temperature: divisor of the logits.
        thresholds: of the score, by coverage.
        cell_km2: `[N]` land of each cell, km².
        n: validation photographs behind it.
    """

    temperature: float
    thresholds: dict[float, float]
    cell_km2: np.ndarray
    n: int

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities `[m, N]` of logits `[m, N]`."""
        from geocbm.evaluation.uncertainty import CellDistribution

        return CellDistribution(logits, self.temperature).probabilities(slice(None))

    def regions(self, probabilities: np.ndarray) -> list[tuple[Region, ...]]:
        """Regions of photographs with calibrated probabilities `[m, N]`, by rising coverage."""
        from geocbm.evaluation.uncertainty import rank_scores

        scores = rank_scores(probabilities, np.ones(len(probabilities)))  # (m, N)
        found = []
        for score, chance in zip(scores, probabilities, strict=True):
            order = np.argsort(-chance, kind="stable")
            inside = [(coverage, order[score[order] <= limit]) for coverage, limit in sorted(self.thresholds.items())]
            found.append(
                tuple(
                    Region(coverage, tuple(cells.tolist()), float(self.cell_km2[cells].sum()))
                    for coverage, cells in inside
                )
            )
        return found


def read_calibration(files: Run, head: Stage2CrossAttentionGeoHead | None = None) -> tuple[Calibration | None, str]:
    """Fit temperature and thresholds to the stored logits of the validation split.

    Args:
        files: the run.
        head: Stage 2 as it answers now; logits of another one calibrate nothing.

    Returns:
        The calibration and an empty text, or None and the sentence that says why there is none.
    """
    from geocbm.evaluation.uncertainty import (
        COVERAGES,
        CellDistribution,
        cell_areas,
        conformal_quantile,
        rank_scores,
        read_cell_scores,
    )
    from geocbm.metrics import fit_temperature

    lacks = "there are no conformal regions and the probabilities are not calibrated: "
    try:
        logits = read_cell_scores(files)["val"]
        if head is not None:
            _check_head(files, head)
    except UserError as problem:
        return None, lacks + str(problem)
    if not len(logits):
        return None, f"{lacks}run {files.run!r} has no validation split"
    true_cell = files.cell_label[files.rows["val"]]
    belief = CellDistribution(logits, fit_temperature(logits, true_cell))
    scores = np.empty(len(belief))
    for rows in belief.chunks():
        table = rank_scores(belief.probabilities(rows), np.ones(rows.stop - rows.start))
        scores[rows] = table[np.arange(len(table)), true_cell[rows]]
    train = files.rows["train"]
    return (
        Calibration(
            temperature=belief.temperature,
            thresholds={coverage: conformal_quantile(scores, coverage) for coverage in COVERAGES},
            cell_km2=cell_areas(files.cells, files.lat[train], files.lng[train], files.country[train]),
            n=len(belief),
        ),
        "",
    )


def _check_head(files: Run, head: Stage2CrossAttentionGeoHead) -> None:
    """Refuse logits that another Stage 2 gave; files of before heads were noted are taken as they are."""
    from geocbm.encoders.loading import hash_weights

    with np.load(files.need("cell_scores.npz"), allow_pickle=False) as stored:
        noted = str(stored["head_digest"]) if "head_digest" in stored else None
    if noted is not None and noted != hash_weights(head.state_dict().items()):
        raise MismatchError(
            f"cell_scores.npz of run {files.run!r} was made by another Stage 2 than stage2.safetensors holds; make it "
            f"again with: {files.remedy('cell_scores.npz')}"
        )

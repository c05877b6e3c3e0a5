"""Baselines that give a distribution over cells: the prior, nearest neighbours that vote, and the linear probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from geocbm.evaluation import baselines
from geocbm.evaluation.baselines import Prediction
from geocbm.evaluation.methods.decodings import Validation, decoded
from geocbm.evaluation.methods.retrieval import VOTERS, voted
from geocbm.run import Run

if TYPE_CHECKING:
    from geocbm.models.point_estimates import Points

_AT_ONCE = 256


def neighbours_inside(
    validation: Validation, features: np.ndarray, train: np.ndarray, rows: np.ndarray, logits: np.ndarray
) -> Points:
    """Mean place of the most similar training pictures inside the likeliest cell, as Stage 2 refines its answer.

    Number of neighbours and temperature are those of the recipe `refined`.

    Args:
        validation: the validation split, with the training places.
        features: `[n, d]` of all images.
        train: rows of the training images.
        rows: which images are asked about.
        logits: `[m, N]` of these.

    Returns:
        `[m]` latitudes and longitudes in degrees; every cell has a training picture.
    """
    import torch

    from geocbm.geodesy import cartesian_to_latlng
    from geocbm.models.refinement import NeighbourRefiner
    from geocbm.models.stage2 import Stage2Config

    config = Stage2Config(refine_cells=1, refine_neighbours=10, refine_temperature=0.1)
    places = validation.places
    refiner = NeighbourRefiner(
        torch.from_numpy(features[train]), *cartesian_to_latlng(places.training), places.training_cell
    )
    lat, lng = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        cell = torch.from_numpy(logits[some].argmax(axis=1))[:, None]
        asked = torch.from_numpy(features[rows[some]])
        near_lat, near_lng, _ = refiner.refine(asked, cell, torch.ones(cell.shape), config)
        lat[some], lng[some] = near_lat.double().numpy(), near_lng.double().numpy()
    return lat, lng


def prior(files: Run, validation: Validation, test: Prediction) -> Prediction:
    """The training split's own distribution over cells, the same for every image.

    Args:
        files: the run.
        validation: its validation split.
        test: the same answer for every test image (`baselines.training_prior`).
    """
    assert test.lat is not None and test.lng is not None
    counts = np.bincount(validation.places.training_cell, minlength=len(files.cells))
    logits = np.log(np.maximum(counts, 1e-3))[None]
    sizes = len(validation.cell), len(files.rows["test"])
    own: list[dict[str, Points]] = [{"own": (np.repeat(test.lat[:1], n), np.repeat(test.lng[:1], n))} for n in sizes]
    repeated = [np.repeat(logits, n, axis=0) for n in sizes]
    return decoded(validation, test, (repeated[0], repeated[1]), (own[0], own[1]))


def neighbours(
    files: Run, validation: Validation, features: np.ndarray, val: Prediction, test: Prediction
) -> Prediction:
    """Nearest neighbours: the place in their middle, or what they say as a distribution over cells.

    Args:
        files: the run.
        validation: its validation split.
        features: `[n, d]` of all images.
        val: what the nearest neighbours say of the validation images (`baselines.nearest_neighbour`).
        test: what they say of the test images.
    """
    train, cell = files.rows["train"], validation.places.training_cell
    asked = [files.rows["val"], files.rows["test"]]
    found = [baselines.most_similar(features[train], features[rows], VOTERS) if len(rows) else None for rows in asked]
    k = min(VOTERS, len(train))
    nobody = np.zeros((0, k), dtype=np.int64), np.zeros((0, k), dtype=np.float32)
    place, near = zip(*(nobody if one is None else one for one in found), strict=True)
    own: list[dict[str, Points]] = []
    for answer in (val, test):
        assert answer.lat is not None and answer.lng is not None
        own.append({"own": (answer.lat, answer.lng)})
    return voted(validation, test, near, place, cell, (own[0], own[1]))


def linear_probe(
    validation: Validation,
    features: np.ndarray,
    rows: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    name: str = "linear_probe",
) -> Prediction:
    """Linear probes for cells and whatever else is asked, each with the strength of its penalty chosen on validation.

    Args:
        validation: the validation split.
        features: `[n, d]` of all images.
        rows: row positions of `train`, `val` and `test`.
        labels: `[n]` of all images: `cell`, and perhaps `country` and `meta`.
        name: name of the method.
    """
    train, val, test = (rows[split] for split in ("train", "val", "test"))
    fitted = {
        label: baselines.fit_probe(features[train], values[train], features[val], values[val])
        for label, values in labels.items()
    }
    n_cells = len(validation.places.centers)
    logits, own = [], []
    for asked in (val, test):
        found = fitted["cell"].cell_logits(features[asked], n_cells) if len(asked) else np.zeros((0, n_cells))
        logits.append(found)
        own.append({"neighbours": neighbours_inside(validation, features, train, asked, found)})
    named = {label: probe.names(features[test]) for label, probe in fitted.items() if label != "cell"}
    detail = f"C = {fitted['cell'].strength:g}"
    answer = Prediction(name, country=named.get("country"), meta=named.get("meta"), detail=detail)
    return decoded(validation, answer, (logits[0], logits[1]), (own[0], own[1]))

"""Answer context: what answers need to know of a run beside its weights, worked out once and kept in one file.

Temperature, conformal thresholds, land of the cells, names of places and countries: all come from the table, the splits
and stored scores of the run. The first load works them out, after every check of `Run`, and writes them as safetensors
into the run's folder; later loads read them without the table, as long as every file they come from is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm import __version__
from geocbm.data.concepts import ConceptVocabulary
from geocbm.errors import DamagedError, MissingInputError, UserError
from geocbm.files import sha256_file
from geocbm.files.stored import opened, save_tensors
from geocbm.geocells import Geocells
from geocbm.geocells.distribution import CellDistribution, rank_scores
from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
from geocbm.metrics.places import CountryNames, Place, places_at
from geocbm.models.decoder import Decoder, Places, PointChoice
from geocbm.predict.answers import Region

if TYPE_CHECKING:
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
    from geocbm.run import Run

FILE = "answer_context.safetensors"
_CELLS = ("centers", "sample_to_cell", "counts", "scale_km")
_PLAIN = ("run", "simulated", "has_novelty", "remarks", "cell_places", "files")
_SOURCES = (
    *("stage?.safetensors", "stage?.json", "stage2_neighbours.safetensors", "stage2_decoding.json", "*_adopted.*"),
    *("table.parquet", "splits.json", "concepts.json", "geocells.npz", "features.json", "prototypes.safetensors"),
    *("cell_scores.npz", "concept_scores.npz", "novelty.safetensors", "stage1_floor.json"),
)
"""Files of a run that an answer depends on."""


@dataclass(frozen=True)
class Calibration:
    """Temperature and conformal thresholds of a run, fitted on its validation photographs.

    The regions are those of `uncertainty.conformal` with chance left out: scores count the whole probability of a cell,
    not a random share of it, so that a photograph always gets the same region, of at least the coverage asked for.
    """

    temperature: float  # divisor of the logits
    thresholds: dict[float, float]  # of the score, by coverage
    cell_km2: np.ndarray  # (N,): land of each cell
    n: int  # validation photographs behind it

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities `[m, N]` of logits `[m, N]`."""
        return CellDistribution(logits, self.temperature).probabilities(slice(None))

    def regions(self, probabilities: np.ndarray) -> list[tuple[Region, ...]]:
        """Regions of photographs with calibrated probabilities `[m, N]`, by rising coverage."""
        scores = rank_scores(probabilities, np.ones(len(probabilities)))  # (m, N)
        found = []
        for score, chance in zip(scores, probabilities, strict=True):
            order = np.argsort(-chance, kind="stable")
            inside = [(coverage, order[score[order] <= limit]) for coverage, limit in sorted(self.thresholds.items())]
            found.append(tuple(Region(c, tuple(own.tolist()), float(self.cell_km2[own].sum())) for c, own in inside))
        return found


@dataclass(frozen=True)
class AnswerContext:
    """What answers need to know of a run."""

    key: str  # digest of the files it was made from
    run: str
    simulated: bool  # whether its pictures come from a simulated world
    cells: Geocells
    concepts: ConceptVocabulary
    cell_places: tuple[Place, ...]  # for each cell the town nearest to the training photograph in its middle
    country_names: CountryNames
    calibration: Calibration | None
    decoder: Decoder  # which point is answered
    baseline: np.ndarray | None  # (k,): scores of metas and parents that say nothing, where the head reads embeddings
    clue_values: np.ndarray | None  # (2, k): scores of what can be seen and of what cannot (`predict.clues`)
    has_novelty: bool  # whether the run tells how unlike the training pictures a photograph is
    files: Mapping[str, str]  # digests of the files of the model that it was saved with; none in the folder of a run
    remarks: tuple[str, ...]  # sentences that go with every answer, such as why there is no calibration

    def save(self, path: Path) -> None:
        """Write it as safetensors, whole or not at all."""
        tensors: dict[str, np.ndarray] = {name: getattr(self.cells, name) for name in _CELLS}
        content: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN}
        content |= {"cell_countries": self.cells.country.tolist(), "cell_settings": self.cells.settings}
        content |= {"concepts": asdict(self.concepts), "called": self.country_names.called}
        content |= {name: getattr(self.decoder, name) for name in ("temperature", "bandwidth_km")}
        content["choice"], tensors["training"] = self.decoder.choice.record(), self.decoder.places.training
        if self.calibration is not None:
            calibration = asdict(self.calibration)
            tensors["cell_km2"] = calibration.pop("cell_km2")
            content["calibration"] = calibration | {"thresholds": list(self.calibration.thresholds.items())}
        if self.baseline is not None:
            tensors["baseline"] = self.baseline
        if self.clue_values is not None:
            tensors["clue_values"] = self.clue_values
        save_tensors(path, tensors, {"key": self.key, "content": json.dumps(content)})

    @classmethod
    def load(cls, path: Path, key: str | None = None) -> AnswerContext | None:
        """Read it; None where there is no such file, it is damaged, or it was made from other files than `key` says."""
        try:
            with opened(path, "") as (tensors, noted):
                return cls._of(tensors, noted) if key in (None, noted["key"]) else None
        except (DamagedError, MissingInputError):
            return None

    @classmethod
    def _of(cls, tensors: dict[str, np.ndarray], noted: dict[str, str]) -> AnswerContext:
        content = json.loads(noted["content"])
        cells = Geocells(
            country=np.array(content["cell_countries"], dtype=np.str_),
            settings=content["cell_settings"],
            **{name: tensors[name] for name in _CELLS},
        )
        names, calibration = content["concepts"], content.get("calibration")
        if calibration:
            calibration["thresholds"] = dict(calibration["thresholds"])
            calibration = Calibration(**calibration, cell_km2=tensors["cell_km2"])
        places = Places(cells.centers, tensors["training"], cells.sample_to_cell)
        choice = PointChoice.read(content["choice"])
        plain = {name: content[name] for name in _PLAIN}
        plain["cell_places"] = tuple(Place(*place) for place in content["cell_places"])
        return cls(
            **plain | {"remarks": tuple(content["remarks"])},
            key=noted["key"],
            cells=cells,
            concepts=ConceptVocabulary(tuple(names["metas"]), tuple(names["parents"]), names["meta_to_parent"]),
            country_names=CountryNames(content["called"]),
            calibration=calibration,
            decoder=Decoder(choice, content["temperature"], content["bandwidth_km"], places),
            baseline=tensors.get("baseline"),
            clue_values=tensors.get("clue_values"),
        )


def context_key(folder: Path) -> str:
    """Digest of all files of a run that an answer depends on, of its name and of the version of this package."""
    digest = hashlib.sha256(f"{__version__} {folder.name} clues\n".encode())
    for file in sorted({file for pattern in _SOURCES for file in folder.glob(pattern) if file.is_file()}):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def make_context(files: Run, head: Stage2CrossAttentionGeoHead, key: str) -> AnswerContext:
    """Work out the context of a run whose Stage 2 is now `head`."""
    from geocbm.evaluation.concept_floor import read_floor
    from geocbm.evaluation.novelty import read_novelty
    from geocbm.run import predictions

    calibration, lacks = fit_calibration(files, head)
    baseline, clue_values = _levels(files, head)
    novelty, lacks_too = read_novelty(files)
    train = files.pictures["train"]
    lat, lng = files.lat[train], files.lng[train]
    # The town is that of the photograph in the middle of a cell: its centre may lie in the sea.
    points, cell = latlng_to_cartesian(lat, lng), files.cells.sample_to_cell
    order = np.lexsort(((points * files.cells.centers[cell]).sum(axis=1), cell))
    nearest = order[np.diff(cell[order], append=-1) != 0]  # the last of each cell
    middle = np.array(files.cells.centers, dtype=float)
    middle[cell[nearest]] = points[nearest]
    guessed = "the concepts it was trained on are guesses of a model, not labels of people" if files.guessed else ""
    return AnswerContext(
        key=key,
        run=files.name,
        simulated=files.simulated,
        cells=files.cells,
        concepts=files.concepts,
        cell_places=tuple(places_at(*cartesian_to_latlng(middle))),
        country_names=files.country_names,
        calibration=calibration,
        decoder=predictions.load_decoder(files, head),
        baseline=baseline,
        clue_values=clue_values,
        has_novelty=novelty is not None,
        files={},
        remarks=tuple(remark for remark in (guessed, lacks, lacks_too, read_floor(files)) if remark),
    )


def fit_calibration(files: Run, head: Stage2CrossAttentionGeoHead | None = None) -> tuple[Calibration | None, str]:
    """Fit temperature and thresholds to the logits that `head` gave of the validation split, or say why not."""
    from geocbm.encoders.loading import hash_weights
    from geocbm.evaluation.uncertainty.assessment import read_cell_scores
    from geocbm.evaluation.uncertainty.cell_area import cell_areas
    from geocbm.evaluation.uncertainty.conformal import COVERAGES, conformal_quantile
    from geocbm.metrics.calibration import fit_temperature

    lacks = "there are no conformal regions and the probabilities are not calibrated: "
    try:
        logits = read_cell_scores(files)["val"]
        with files.opened("cell_scores.npz") as stored:
            noted = str(stored["head_digest"])
        if head is not None and noted != hash_weights(head.state_dict().items()):
            raise files.mismatch("cell_scores.npz", "was made by another Stage 2 than stage2.safetensors holds")
    except UserError as problem:
        return None, lacks + str(problem)
    if not len(logits):
        return None, f"{lacks}run {files.name!r} has no validation split"
    true_cell = files.cell_label[files.pictures["val"]]
    belief = CellDistribution(logits, fit_temperature(logits, true_cell))
    scores = np.empty(len(belief))
    for rows in belief.chunks():
        table = rank_scores(belief.probabilities(rows), np.ones(rows.stop - rows.start))
        scores[rows] = table[np.arange(len(table)), true_cell[rows]]
    train = files.pictures["train"]
    areas = cell_areas(files.cells, files.lat[train], files.lng[train], files.country[train])
    thresholds = {coverage: conformal_quantile(scores, coverage) for coverage in COVERAGES}
    return Calibration(belief.temperature, thresholds, areas, len(belief)), ""


def _levels(files: Run, head: Stage2CrossAttentionGeoHead) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Baseline `[k]` where the head keeps none, and values of clues `[2, k]`; None without stored scores."""
    import torch

    from geocbm.explain.concept_labels import intervention_values, read_concept_labels
    from geocbm.explain.interventions import baseline_scores
    from geocbm.run import predictions

    if not files.belongs("concept_scores.npz"):
        return None, None
    stored = predictions.read_concept_scores(files)
    scores = np.concatenate([stored["meta"], stored["parent"]], axis=1).astype(np.float32)
    rows = files.pictures["train"]
    found = intervention_values(scores, read_concept_labels(files), files.pictures["val"], rows)
    values = np.stack([found.present, found.absent]).astype(np.float32)
    return None if head.config.reads_scores else baseline_scores(head, torch.from_numpy(scores[rows])).numpy(), values

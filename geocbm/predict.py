"""The object for interactive use: load a run, hand it pictures, get places with their reasons.

model = GeoCBM.load("demo")
answers = model.predict(["road.jpg"])
answers[0].lat, answers[0].lng, answers[0].concepts[:3]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.runs import RunFiles

if TYPE_CHECKING:
    from PIL import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.stage1 import Stage1ConceptModel
    from geocbm.stage2 import NeighbourRefiner, Stage2CrossAttentionGeoHead


@dataclass(frozen=True)
class CellProbability:
    """One of the most probable cells: its index, country, centre in degrees, and probability."""

    cell: int
    country: str
    lat: float
    lng: float
    probability: float


@dataclass(frozen=True)
class Answer:
    """What the model says of one picture.

    Attributes:
        lat: predicted latitude in degrees.
        lng: predicted longitude in degrees.
        cells: the most probable cells, best first.
        concepts: fine concepts with their probability, best first.
        parents: coarse concepts with their probability, best first.
        attention: `(rows, columns)` mean attention of the heads on the picture as the model saw it; sums to one, or is
            zero where the head was trained without the picture (`concept_only`).
    """

    lat: float
    lng: float
    cells: tuple[CellProbability, ...]
    concepts: tuple[tuple[str, float], ...]
    parents: tuple[tuple[str, float], ...]
    attention: np.ndarray


class GeoCBM:
    """The three trained stages of a run as one callable.

    Args:
        files: the run.
        encoder: the image encoder with the blocks of Stage 0 in place.
        concept_model: Stage 1.
        geo_head: Stage 2.
        device: where to compute; None takes what Accelerate finds.
        refiner: training pictures that move the answer inside the most probable cells, if the run uses them.
    """

    def __init__(
        self,
        files: RunFiles,
        encoder: ImageEncoder,
        concept_model: Stage1ConceptModel,
        geo_head: Stage2CrossAttentionGeoHead,
        device: str | None = None,
        refiner: NeighbourRefiner | None = None,
    ) -> None:
        from accelerate import Accelerator

        self.files = files
        self.device = device or Accelerator().device
        self.encoder = encoder.to(self.device).eval()
        self.concept_model = concept_model.to(self.device).eval()
        self.geo_head = geo_head.to(self.device).eval()
        self.refiner = refiner

    @classmethod
    def load(cls, run: str | Path, device: str | None = None) -> GeoCBM:
        """Load a trained run.

        Args:
            run: name of the run, or the folder of its data.
            device: where to compute; None takes what Accelerate finds.

        Raises:
            MissingInputError: a stage of the run is not trained yet; the message names the command that trains it.
        """
        from geocbm import pipeline

        folder = Path(run)
        if not folder.is_dir():
            from geocbm.workbench import paths

            folder = paths.run_folder(str(run))
        files = RunFiles(folder)
        geo_head = pipeline.load_stage2(files)
        concept_model = pipeline.load_stage1(files)
        _, encoder = pipeline.load_stage0(files)
        return cls(files, encoder, concept_model, geo_head, device, pipeline.load_refiner(files, geo_head.config))

    def predict(
        self,
        images: Sequence[str | Path | Image.Image] | str | Path | Image.Image,
        top_k: int = 5,
        batch_size: int = 32,
    ) -> list[Answer]:
        """Say where pictures were taken, and through which concepts.

        Args:
            images: files or PIL images; a single one is taken as a list of one.
            top_k: how many cells and concepts to name.
            batch_size: pictures per forward pass.

        Returns:
            One answer per picture, in order.
        """
        if isinstance(images, (str, Path)) or hasattr(images, "convert"):
            images = [images]  # type: ignore[list-item]
        answers: list[Answer] = []
        for start in range(0, len(images), batch_size):
            answers += self._predict_batch(list(images[start : start + batch_size]), top_k)
        return answers

    def _predict_batch(self, images: list[Any], top_k: int) -> list[Answer]:
        import torch

        from geocbm.encoders import open_picture
        from geocbm.stage2 import concept_input, locate

        pictures = [open_picture(image) if isinstance(image, (str, Path)) else image for image in images]
        with torch.inference_mode():
            seen = self.encoder(self.encoder.preprocess(pictures).to(self.device))
            concepts = self.concept_model(seen.pooled, seen.tokens)
            said = {
                "concept_emb": concepts.concept_emb,
                "meta_probabilities": concepts.meta_logits.softmax(-1),
                "parent_probabilities": concepts.parent_logits.softmax(-1),
            }
            places = self.geo_head(concept_input(self.geo_head.config, said), seen.tokens)
            lat, lng = locate(self.geo_head, places, self.refiner, seen.pooled)
        cells = places.cell_logits.softmax(-1).cpu().numpy()  # (B, N)
        metas = said["meta_probabilities"].cpu().numpy()  # (B, k_m)
        parents = said["parent_probabilities"].cpu().numpy()  # (B, k_p)
        attention = places.attention.mean(1).cpu().numpy()  # (B, P)
        vocabulary = self.files.concepts
        return [
            Answer(
                lat=float(lat[i]),
                lng=float(lng[i]),
                cells=self._best_cells(cells[i], top_k),
                concepts=_best(vocabulary.metas, metas[i], top_k),
                parents=_best(vocabulary.parents, parents[i], top_k),
                attention=attention[i].reshape(self.encoder.grid),
            )
            for i in range(len(pictures))
        ]

    def _best_cells(self, probabilities: np.ndarray, top_k: int) -> tuple[CellProbability, ...]:
        from geocbm.geodesy import cartesian_to_latlng

        cells = self.files.cells
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        lat, lng = cartesian_to_latlng(cells.centers[order])
        return tuple(
            CellProbability(
                int(cell), str(cells.country[cell]), float(lat[i]), float(lng[i]), float(probabilities[cell])
            )
            for i, cell in enumerate(order)
        )


def _best(names: Sequence[str], probabilities: np.ndarray, top_k: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple((names[index], float(probabilities[index])) for index in order)

"""A trained run whose concepts can be edited: from edited scores of its pictures to places, in any mode of Stage 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from geocbm.explain.interventions import baseline_scores, predict_with_scores
from geocbm.training import row_reader

if TYPE_CHECKING:
    from geocbm.encoders.features import FeatureStore
    from geocbm.evaluation.uncertainty import Decoder
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.models.stage2 import NeighbourRefiner, Stage2CrossAttentionGeoHead, Stage2Output
    from geocbm.run import Run


class Places(NamedTuple):
    """What a model answers for `m` pictures.

    Attributes:
        lat: `[m]` degrees.
        lng: `[m]` degrees.
        logits: `[m, N]` of the cells, float32.
    """

    lat: np.ndarray
    lng: np.ndarray
    logits: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """`[m, N]` of the cells."""
        return torch.from_numpy(self.logits).double().softmax(-1).numpy()


class InterventionModel:
    """Stage 2 of a run in one mode, to be asked about its pictures with other concepts.

    Args:
        head: Stage 2.
        concepts: what Stage 1 says of all pictures (`pipeline.predict_concepts`).
        concept_model: Stage 1, for modes that read its embedding.
        features: adapted features of all pictures, for modes that look at the patches.
        refiner: training pictures that move the answer, if the mode uses them.
        train_rows: training pictures, whose mean is what "says nothing" in modes that read the embedding.
        decoder: which point of the distribution is answered; None for the argmax.
    """

    def __init__(
        self,
        head: Stage2CrossAttentionGeoHead,
        concepts: Mapping[str, Tensor],
        concept_model: Stage1ConceptModel | None = None,
        features: FeatureStore | None = None,
        refiner: NeighbourRefiner | None = None,
        train_rows: np.ndarray | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.head, self.concept_model, self.features, self.refiner = head.eval(), concept_model, features, refiner
        self.decoder = decoder
        self.n_metas = concepts["meta_probabilities"].shape[1]
        parts = [concepts["meta_probabilities"], concepts["parent_probabilities"]]
        self.scores = torch.cat(parts, dim=1).float().cpu()  # (n, k)
        self.concept_emb = concepts["concept_emb"].float().cpu()
        seen = None if train_rows is None else self.scores[train_rows]
        self.baseline = baseline_scores(head, seen).detach().float().cpu()  # (k,)

    def _outputs(
        self, rows: np.ndarray, edited: Tensor | None, chunk: int
    ) -> Iterator[tuple[np.ndarray, Stage2Output]]:
        """Rows and what Stage 2 says of them, a chunk at a time."""
        scores = self.scores[rows]
        edited = scores if edited is None else edited.float()
        reads = self.head.config.reads_tokens and self.features is not None
        tokens = row_reader(self.features, "tokens", half=True) if reads and self.features is not None else None
        device = self.head.cell_head.weight.device
        for start in range(0, max(len(rows), 1), chunk):
            some = slice(start, start + chunk)
            chosen = np.asarray(rows)[some]
            with torch.no_grad():
                output = predict_with_scores(
                    self.head,
                    scores[some].to(device),
                    edited[some].to(device),
                    self.concept_emb[chosen].to(device),
                    None if tokens is None else tokens(chosen).to(device),
                    self.concept_model,
                )
            yield chosen, output

    def predict(self, rows: np.ndarray, edited: Tensor | None = None, chunk: int = 128) -> Places:
        """Places of some pictures.

        Args:
            rows: which.
            edited: `(m, k)` scores to use instead of Stage 1's; None for Stage 1's own.
            chunk: pictures at once.
        """
        from geocbm.models.stage2 import locate

        pooled = None
        if self.refiner is not None and self.features is not None:
            pooled = row_reader(self.features, "pooled")
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for chosen, output in self._outputs(rows, edited, chunk):
            with torch.no_grad():
                near = None if pooled is None else pooled(chosen)
                lat, lng = locate(self.head, output, self.refiner, near, self.decoder)
            parts.append((lat.cpu().double(), lng.cpu().double(), output.cell_logits.cpu().float()))
        return Places(*(torch.cat(values).numpy() for values in zip(*parts, strict=True)))

    def forward_one(self, row: int, edited: Tensor) -> Stage2Output:
        """What Stage 2 says of one picture under many edits `(m, k)`."""
        (_, output), *_ = self._outputs(np.full(len(edited), row), edited, len(edited))
        return output

    def predict_one(self, row: int, edited: Tensor) -> Places:
        """Places of one picture under many edits `(m, k)`."""
        return self.predict(np.full(len(edited), row), edited)


def load_intervention_model(
    files: Run, features: FeatureStore, concepts: Mapping[str, Tensor], name: str = "stage2"
) -> InterventionModel:
    """Stage 2 of a run as it was trained, ready to be asked with other concepts.

    Args:
        files: the run.
        features: the adapted features.
        concepts: of `pipeline.predict_concepts`.
        name: stem of the checkpoint.
    """
    from geocbm import pipeline

    head = pipeline.load_stage2(files, name)
    refiner = pipeline.load_refiner(files, head.config, name)
    concept_model = None if head.config.reads_scores else pipeline.load_stage1(files)
    decoder = pipeline.load_decoder(files, head, name)
    return InterventionModel(head, concepts, concept_model, features, refiner, files.rows["train"], decoder)


def linear_cbm(files: Run, features: FeatureStore, concepts: dict[str, Tensor]) -> InterventionModel:
    """The run's head in mode `concept_scores`; one is trained, and not kept, where the run has none.

    Args:
        files: the run.
        features: the adapted features.
        concepts: of `pipeline.predict_concepts`.
    """
    from geocbm import pipeline

    head = pipeline.load_concept_head(files)
    if head is None:
        config = pipeline.load_stage2(files).config.in_mode("concept_scores", tracking="disabled")
        head = pipeline.fit_stage2(files, config, concepts, features, name=None)[0]
        return InterventionModel(head, concepts, decoder=pipeline.make_decoder(files, head, concepts, features))
    name = "stage2" if pipeline.load_stage2(files).config.ablation_mode == "concept_scores" else "stage2_concept_scores"
    return InterventionModel(head, concepts, decoder=pipeline.load_decoder(files, head, name))

"""GeoCBM for users: a trained run that says of pictures where they were taken, and through which concepts."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geocbm.encoders.processes import look_ahead
from geocbm.errors import MissingInputError, ParameterError, UserError, did_you_mean
from geocbm.evaluation.novelty import FILE as NOVELTY
from geocbm.evaluation.novelty import Novelty, NoveltyDetector
from geocbm.files import sha256_text
from geocbm.files.stored import opened
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics.places import Place, places_at
from geocbm.models import geocbm, loading, stage2_inference
from geocbm.models.stage2_inference import NeighbourRefiner
from geocbm.predict.answers import Answer, CellProbability, Region, Reply, best_names, why_countries_differ
from geocbm.predict.clues import Clue, clue_scores, read_clues, with_scores
from geocbm.predict.context import FILE as CONTEXT
from geocbm.predict.context import AnswerContext, context_key, make_context
from geocbm.predict.pretrained import ENCODER, Pretrained
from geocbm.predict.views import Preparation, Prepared, even_batches, joined_maps, middle_views, pool_views

if TYPE_CHECKING:
    from PIL import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.explain.attribution import Explanation
    from geocbm.geocells import Geocells
    from geocbm.run import Run

BATCH, ACCELERATOR_BATCH = 16, 32
"""Photographs per forward pass on a processor, where larger batches leave its caches, and on an accelerator."""
MOST_WORKERS, MOST_ACCELERATOR_WORKERS = 4, 16
"""Threads that answer side by side; with an accelerator most of their time goes into reading."""


class GeoCBM(Pretrained):
    """The three trained stages of a run as one callable.

    `folder` holds the training pictures that move the answer inside the most probable cells, and what tells how unlike
    them a photograph is, as far as the run uses them.
    """

    def __init__(
        self,
        network: geocbm.GeoCBM,
        context: AnswerContext,
        folder: Path,
        device: str | None = None,
        files: Run | None = None,
    ) -> None:
        from accelerate import Accelerator

        self.device = device or Accelerator().device
        self.network = network.to(self.device)
        neighbours = folder / "stage2_neighbours.safetensors"
        self.refiner = NeighbourRefiner.load(neighbours) if network.geo_head.config.refines else None
        self.novelty = NoveltyDetector.load(folder / NOVELTY) if context.has_novelty else None
        self.context, self.remarks = context, context.remarks
        self.decoder, self.calibration = context.decoder, context.calibration
        self.prepare = Preparation(self.encoder)
        self.folder, self._files = folder, files
        self.clues: tuple[Clue, ...] = ()

    @classmethod
    def load(cls, run: str | Path, device: str | None = None) -> GeoCBM:
        """Load a trained run; where a stage is not trained yet, the error has the command that trains it."""
        from geocbm.encoders import load_image_encoder
        from geocbm.files import paths
        from geocbm.run import Run, folder_of, open_run

        files = Run(folder_of(run))
        if not files.folder.is_dir() and did_you_mean(files.name, paths.runs_in(files.folder.parent)):
            open_run(run)  # says which name was meant
        key = context_key(files.folder)
        context = AnswerContext.load(files.path(CONTEXT), key)
        # The context was written after every check of the run, and no file has changed since.
        find = files.need if context is None else files.in_use
        geo_head = loading.load_stage2(find("stage2.safetensors"))
        concept_model = loading.load_stage1(find("stage1.safetensors"))
        adapted = find("stage0.safetensors")  # before the encoder is loaded, which takes a while
        with opened(find("features.json"), partial(files.remedy, "features.json")) as content:
            name = str(content["encoders"][ENCODER])
        encoder = load_image_encoder(name)
        loading.load_stage0(adapted, encoder)
        if context is None:
            context = make_context(files, geo_head, key)
            with suppress(OSError):  # the run lies where nothing can be written; the next start works it out again
                context.save(files.path(CONTEXT))
        network = geocbm.GeoCBM(encoder, concept_model, geo_head)
        return cls(network, context, files.folder, device, files)

    @property
    def files(self) -> Run:
        """The run; a model that was loaded with `from_pretrained` has none (MissingInputError)."""
        if self._files is None:
            raise MissingInputError(
                f"a saved model has no files of its run; load the run itself: GeoCBM.load({self.context.run!r})"
            )
        return self._files

    @property
    def encoder(self) -> ImageEncoder:
        """The image encoder with the blocks of Stage 0 in place."""
        assert self.network.encoder is not None
        return self.network.encoder

    @property
    def cells(self) -> Geocells:
        """The geocells among which it chooses."""
        return self.context.cells

    @property
    def concepts(self) -> Any:
        """The metas and parents that it names, a `ConceptVocabulary`."""
        return self.context.concepts

    def set_clues(self, given: Sequence[str] = (), denied: Sequence[str] = ()) -> None:
        """Answer from now on as if concepts, or parents, of these names could and could not be seen.

        See `geocbm.predict.clues`; without names the model answers by itself again.

        Raises:
            ParameterError: a name is unknown or given both ways, or the answer does not depend on concepts.
            MissingInputError: the run has no scores from which to read what says "can be seen".
        """
        mode = self.network.geo_head.config.ablation_mode
        if (given or denied) and mode == "image_only":
            raise ParameterError(
                f"run {self.context.run!r} answers with ablation_mode='image_only', which reads no concept: a clue "
                "could change nothing; ask a run of another mode"
            )
        values = self.context.clue_values
        if (given or denied) and values is None:
            self.files.need("concept_scores.npz")
        self.clues = () if values is None else read_clues(given, denied, self.concepts, values)

    def digest(self) -> str:
        """16 hexadecimal digits that change whenever an answer might: of the encoder's weights and the run's files."""
        return sha256_text(f"{self.context.key} {self.encoder.fingerprint()}")[:16]

    def predict(
        self, images: Sequence[str | Path | Image.Image] | str | Path | Image.Image, top_k: int = 5
    ) -> list[Answer]:
        """Say where pictures (files or PIL images, or a single one) were taken, and through which concepts, in order.

        Raises:
            UserError: a picture cannot be read; `predict_each` goes on with the others.
        """
        several: Any = [images] if isinstance(images, (str, Path)) or hasattr(images, "convert") else images
        answers = []
        for reply in self.predict_each(several, top_k):
            if reply.answer is None:
                raise reply.problem or UserError(f"{reply.source} has no answer")
            answers.append(reply.answer)
        return answers

    def predict_each(
        self,
        photographs: Iterable[Any],
        top_k: int = 5,
        batch_size: int | None = None,
        keep_seen: bool = False,
        keep_output: bool = False,
        answered: Collection[int] = (),
    ) -> Iterator[Reply]:
        """Yield a reply for each photograph, in order; one that cannot be read stops none of the others.

        Several threads take a batch each, read it and answer for it, so that some read while others compute. On a
        processor they share its cores: one core each is faster than all of them on one batch after the other.

        Photographs are files, contents of files (bytes) or PIL images. A reply keeps each picture as the model saw it
        with `keep_seen`, and what the network says of it, for `explain`, with `keep_output`.

        Photographs whose numbers, from 0, are `answered` get no reply. The others are answered for in the batches that
        they would be in without these: the size of a batch may change the last digits of an answer.
        """
        on_processor = torch.device(self.device).type == "cpu"
        if batch_size is None:
            batch_size = BATCH if on_processor else ACCELERATOR_BATCH
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            if value < 1:
                raise ParameterError(f"{name} is {value}; give at least 1")
        reply = partial(self._reply, top_k=top_k, keep_seen=keep_seen, keep_output=keep_output, answered=answered)
        threads = torch.get_num_threads()
        workers = min(MOST_WORKERS, threads) if on_processor else min(MOST_ACCELERATOR_WORKERS, os.cpu_count() or 1)
        all_batches = even_batches(enumerate(photographs), batch_size, workers)
        batches = (batch for batch in all_batches if not all(number in answered for number, _ in batch))
        first = list(islice(batches, 2))
        if len(first) < 2:
            for batch in first:
                yield from reply(batch)
            return
        # The number holds for the thread that sets it.
        share = partial(torch.set_num_threads, max(1, threads // workers))
        try:
            for _, replies in look_ahead(reply, chain(first, batches), workers, workers, share):
                yield from replies
        finally:
            torch.set_num_threads(threads)  # for threads that are yet to come

    def explain(self, image: Any, country: str | None = None, cell: int | None = None) -> Explanation:
        """Which concepts led to the answer for a photograph, see `geocbm.predict.explaining.explain`."""
        from geocbm.predict.explaining import explain

        return explain(self, image, country, cell)

    def _reply(
        self,
        batch: Sequence[tuple[int, Any]],
        top_k: int,
        keep_seen: bool,
        keep_output: bool,
        answered: Collection[int],
    ) -> list[Reply]:
        """Read a batch of numbered photographs and answer for what could be read."""
        replies, photos = [], []
        for _, source in batch:
            try:
                photos.append(self.prepare(source, keep_seen))
                replies.append(Reply(source, seen=photos[-1].seen))
            except UserError as problem:
                replies.append(Reply(source, problem=problem))
        found = iter(self._answer(photos, top_k) if photos else [])
        for i, reply in enumerate(replies):
            if reply.problem is None:
                answer, output = next(found)
                replies[i] = replace(reply, answer=answer, output=output if keep_output else None)
        return [reply for (number, _), reply in zip(batch, replies, strict=True) if number not in answered]

    def _answer(self, photos: Sequence[Prepared], top_k: int) -> list[tuple[Answer, geocbm.GeoCBMOutput]]:
        """Answers for photographs, each with what the network says of its views; all views go through it together."""
        counts = [len(photo.pixels) for photo in photos]
        with torch.inference_mode():
            seen = self.network(torch.cat([photo.pixels for photo in photos]).to(self.device))  # V views of B pictures
            pooled = pool_views(counts, seen)
            lat, lng = self._locate(pooled)
            before = lat, lng
        if self.clues:
            with torch.no_grad():  # not in inference mode: moving an embedding takes derivatives
                seen = self._with_clues(seen)
                pooled = pool_views(counts, seen)
                lat, lng = self._locate(pooled)
            moved_km = haversine_km(*before, lat, lng)
        cells = _numpy(pooled.place.cell_logits.softmax(-1))  # (B, N)
        calibrated: np.ndarray | None = None
        regions: Sequence[tuple[Region, ...]] = [()] * len(photos)
        if self.calibration is not None:
            calibrated = self.calibration.probabilities(_numpy(pooled.place.cell_logits))
            regions = self.calibration.regions(calibrated)
        unlike: Sequence[Novelty | None] = [None] * len(photos)
        if self.novelty is not None:
            unlike = middle_views(self.novelty.judge(_numpy(seen.pooled)), counts)
        places = self._places(lat, lng)
        metas = _numpy(pooled.concepts.meta_probabilities)  # (B, k_m)
        parents = _numpy(pooled.concepts.parent_probabilities)  # (B, k_p)
        countries, ends = self.cells.countries.tolist(), np.cumsum(counts)
        found = []
        for i, photo in enumerate(photos):
            output = seen.rows(slice(ends[i] - counts[i], ends[i]))
            chance = cells[i] if calibrated is None else calibrated[i]
            by_country = self.cells.by_country(chance)
            named = best_names(self.concepts.metas, metas[i], top_k)
            shares = dict(zip(countries, by_country.tolist(), strict=True))
            likeliest = str(self.cells.country[chance.argmax()])
            own = unlike[i]
            answer = Answer(
                lat=float(lat[i]) + 0.0,  # never -0.0
                lng=float(lng[i]) + 0.0,
                cells=self._best_cells(cells[i], None if calibrated is None else calibrated[i], top_k),
                concepts=named,
                parents=best_names(self.concepts.parents, parents[i], top_k),
                attention=joined_maps(_numpy(output.place.attention.mean(1)), self.encoder.grid, photo.upright),
                place=places[i],
                countries=best_names(countries, by_country, top_k),
                temperature=None if self.calibration is None else self.calibration.temperature,
                regions=regions[i],
                concept_maps=self._maps(output, [name for name, _ in named], photo.upright),
                notes=tuple(note for note in (own and own.sentence(), *photo.notes, *self.remarks) if note),
                unlike=own,
                country=places[i].country,
                countries_differ=why_countries_differ(places[i].country, shares, likeliest),
                views=counts[i],
                seen_share=photo.share,
            )
            if self.clues:
                place = float(before[0][i]), float(before[1][i])
                answer = replace(answer, clues=self.clues, without_clues=place, moved_km=float(moved_km[i]))
            found.append((answer.with_own_place(photo.own_place), output))
        return found

    def _locate(self, pooled: geocbm.GeoCBMOutput) -> tuple[np.ndarray, np.ndarray]:
        """Latitudes and longitudes of pictures, degrees, `[B]` each."""
        head = self.network.geo_head
        lat, lng = stage2_inference.locate(head, pooled.place, self.refiner, pooled.pooled, self.decoder)
        return lat.astype(np.float64), lng.astype(np.float64)

    def _with_clues(self, seen: geocbm.GeoCBMOutput) -> geocbm.GeoCBMOutput:
        """What the network says of views with the scores that the clues give them."""
        concepts = seen.concepts._replace(concept_emb=seen.concepts.concept_emb.clone())
        scores = concepts.probabilities.clone()
        assert self.context.clue_values is not None
        edited = clue_scores(scores, self.clues, self.concepts, self.context.clue_values)
        tokens = seen.patch_tokens.clone()
        return with_scores(self.network, seen._replace(concepts=concepts, patch_tokens=tokens), edited)

    def _places(self, lat: np.ndarray, lng: np.ndarray) -> list[Place]:
        """The place of each point, its country as the run's table spells it."""
        nearest = self.cells.country[self.cells.assign(lat, lng)].astype(str)
        names = self.context.country_names
        return [
            place._replace(country=names.country(place, own))
            for place, own in zip(places_at(lat, lng), nearest, strict=True)
        ]

    def _maps(
        self, output: geocbm.GeoCBMOutput, names: Sequence[str], upright: bool
    ) -> tuple[tuple[str, np.ndarray], ...]:
        """Maps of some concepts from the views of a picture; a view counts as much as it shows the concept."""
        if output.concepts.meta_maps is None:
            return ()
        index, shares = self.concepts.concept_to_idx, _numpy(output.concepts.meta_probabilities)  # (V, k_m)
        maps = _numpy(output.concepts.meta_maps.softmax(1))  # (V, P, k_m)
        return tuple(
            (name, joined_maps(maps[..., index[name]], self.encoder.grid, upright, shares[:, index[name]]))
            for name in names
        )

    def _best_cells(
        self, probabilities: np.ndarray, calibrated: np.ndarray | None, top_k: int
    ) -> tuple[CellProbability, ...]:
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        lat, lng = cartesian_to_latlng(self.cells.centers[order])
        return tuple(
            CellProbability(
                cell=int(cell),
                country=str(self.cells.country[cell]),
                lat=float(lat[i]),
                lng=float(lng[i]),
                probability=float(probabilities[cell]),
                calibrated=None if calibrated is None else float(calibrated[cell]),
                place=self.context.cell_places[cell],
            )
            for i, cell in enumerate(order)
        )


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy()

"""A trained run as one callable."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.analysis.concept_floor import read_floor
from geocbm.errors import ParameterError, UserError
from geocbm.evaluation.novelty import Novelty, NoveltyDetector, read_novelty
from geocbm.predict.answers import Answer, CellProbability, Place, Region, Reply
from geocbm.predict.calibration import Calibration, read_calibration
from geocbm.predict.countries import CountryNames, why_countries_differ
from geocbm.run import Run

if TYPE_CHECKING:
    from PIL import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.evaluation.uncertainty import Decoder
    from geocbm.explain.contributions import Explanation
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.models.stage2 import NeighbourRefiner, Stage2CrossAttentionGeoHead
    from geocbm.predict.views import Prepared

BATCH, ACCELERATOR_BATCH = 16, 32
"""Photographs per forward pass on a processor, where larger batches leave its caches, and on an accelerator."""
MOST_WORKERS, MOST_ACCELERATOR_WORKERS = 4, 16
"""Threads that answer side by side; with an accelerator most of their time goes into reading."""


class GeoCBM:
    """The three trained stages of a run as one callable.

    Args:
        files: the run.
        encoder: the image encoder with the blocks of Stage 0 in place.
        concept_model: Stage 1.
        geo_head: Stage 2.
        device: where to compute; None takes what Accelerate finds.
        refiner: training pictures that move the answer inside the most probable cells, if the run uses them.
        calibration: temperature and regions, if the run has them.
        remarks: sentences that go with every answer, such as why there is no calibration.
        novelty: tells how unlike the training pictures a photograph is, if the run knows.
        decoder: which point of the distribution is answered, as the run chose it; None for the argmax.
    """

    def __init__(
        self,
        files: Run,
        encoder: ImageEncoder,
        concept_model: Stage1ConceptModel,
        geo_head: Stage2CrossAttentionGeoHead,
        device: str | None = None,
        refiner: NeighbourRefiner | None = None,
        calibration: Calibration | None = None,
        remarks: tuple[str, ...] = (),
        novelty: NoveltyDetector | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        from accelerate import Accelerator

        from geocbm.predict.views import Preparation

        self.files = files
        self.device = device or Accelerator().device
        self.encoder = encoder.to(self.device).eval()
        self.concept_model = concept_model.to(self.device).eval()
        self.geo_head = geo_head.to(self.device).eval()
        self.refiner = refiner
        self.calibration = calibration
        self.remarks = remarks
        self.novelty = novelty
        self.decoder = decoder
        self.prepare = Preparation(self.encoder)
        self._cell_places = _cell_places(files)
        self._country_names = CountryNames.of_run(files)
        self._countries = files.cells.countries

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
        from geocbm.workbench import paths, state

        folder = Path(run)
        if not folder.is_dir():
            folder = paths.run_folder(str(run))
        files = Run(folder)
        geo_head = pipeline.load_stage2(files)
        concept_model = pipeline.load_stage1(files)
        _, encoder = pipeline.load_stage0(files)
        refiner = pipeline.load_refiner(files, geo_head.config)
        calibration, lacks = read_calibration(files, geo_head)
        novelty, lacks_too = read_novelty(files)
        changed = state.remark(folder)
        remarks = tuple(remark for remark in (lacks, lacks_too, read_floor(files), changed) if remark)
        decoder = pipeline.load_decoder(files, geo_head)
        return cls(files, encoder, concept_model, geo_head, device, refiner, calibration, remarks, novelty, decoder)

    def predict(
        self,
        images: Sequence[str | Path | Image.Image] | str | Path | Image.Image,
        top_k: int = 5,
        batch_size: int | None = None,
    ) -> list[Answer]:
        """Say where pictures were taken, and through which concepts.

        Args:
            images: files or PIL images; a single one is taken as a list of one.
            top_k: how many cells, countries and concepts to name.
            batch_size: pictures per forward pass; None takes what suits the device.

        Returns:
            One answer per picture, in order.

        Raises:
            UserError: a picture cannot be read; `predict_each` goes on with the others.
        """
        if isinstance(images, (str, Path)) or hasattr(images, "convert"):
            images = [images]  # type: ignore[list-item]
        answers = []
        for reply in self.predict_each(images, top_k, batch_size):  # type: ignore[arg-type]
            if reply.answer is None:
                raise reply.problem or UserError(f"{reply.source} has no answer")
            answers.append(reply.answer)
        return answers

    def predict_each(
        self, photographs: Iterable[Any], top_k: int = 5, batch_size: int | None = None, keep_seen: bool = False
    ) -> Iterator[Reply]:
        """Answer for any number of photographs, one after the other; one that cannot be read stops none of the others.

        Several threads take a batch each, read it and answer for it, so that some read while others compute. On a
        processor they share its cores: one core each is faster than all of them on one batch after the other. A few
        batches are held at a time, however many photographs there are.

        Args:
            photographs: files, contents of files (bytes) or PIL images.
            top_k: how many cells, countries and concepts to name.
            batch_size: photographs per forward pass; None takes what suits the device.
            keep_seen: return each picture as the model saw it.

        Yields:
            A reply for each photograph, in order.
        """
        import torch

        on_processor = torch.device(self.device).type == "cpu"
        if batch_size is None:
            batch_size = BATCH if on_processor else ACCELERATOR_BATCH
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            if value < 1:
                raise ParameterError(f"{name} is {value}; give at least 1")
        threads = torch.get_num_threads()
        workers = min(MOST_WORKERS, threads) if on_processor else min(MOST_ACCELERATOR_WORKERS, os.cpu_count() or 1)
        batches = _even_batches(photographs, batch_size, workers)
        first = list(islice(batches, 2))
        if len(first) < 2:
            for batch in first:
                yield from self._reply(batch, top_k, keep_seen)
            return
        # The number holds for the thread that sets it.
        share = partial(torch.set_num_threads, max(1, threads // workers))
        pool = ThreadPoolExecutor(workers, "photographs", initializer=share)
        try:
            ahead = deque(pool.submit(self._reply, batch, top_k, keep_seen) for batch in first)
            while ahead:
                for batch in islice(batches, workers + 1 - len(ahead)):
                    ahead.append(pool.submit(self._reply, batch, top_k, keep_seen))
                yield from ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)  # for threads that are yet to come

    def explain(self, image: Any, country: str | None = None, cell: int | None = None) -> Explanation:
        """Which concepts led to the answer for a photograph, see `geocbm.predict.explaining.explain`."""
        from geocbm.predict.explaining import explain

        return explain(self, image, country, cell)

    def _reply(self, sources: Sequence[Any], top_k: int, keep_seen: bool) -> list[Reply]:
        """Read a batch and answer for what could be read."""
        read = [self._prepare(source, keep_seen) for source in sources]
        answers = iter(self._answer([found for found in read if not isinstance(found, UserError)], top_k))
        return [
            Reply(source, problem=found)
            if isinstance(found, UserError)
            else Reply(source, answer=next(answers), seen=found.seen)
            for source, found in zip(sources, read, strict=True)
        ]

    def _prepare(self, source: Any, keep_seen: bool) -> Prepared | UserError:
        """Read a photograph for the encoder, or say why it cannot be read."""
        try:
            return self.prepare(source, keep_seen)
        except UserError as problem:
            return problem

    def _answer(self, read: list[Prepared], top_k: int) -> list[Answer]:
        if not read:
            return []
        import torch

        from geocbm.metrics import places_of
        from geocbm.models.stage2 import concept_input, locate
        from geocbm.predict.views import joined_maps, middle_views, pool_views

        counts = [len(photo.pixels) for photo in read]
        with torch.inference_mode():
            seen = self.encoder(torch.cat([photo.pixels for photo in read]).to(self.device))  # V views of B pictures
            concepts = self.concept_model(seen.pooled, seen.tokens)
            said = {
                "concept_emb": concepts.concept_emb,
                "meta_probabilities": concepts.meta_logits.softmax(-1),
                "parent_probabilities": concepts.parent_logits.softmax(-1),
            }
            places = self.geo_head(concept_input(self.geo_head.config, said), seen.tokens)
            attention = places.attention.mean(1).float().cpu().numpy()  # (V, P)
            of_view = said["meta_probabilities"].float().cpu().numpy()  # (V, k_m)
            places, said, pooled = pool_views(counts, places, said, seen.pooled)
            lat, lng = (
                values.double().cpu().numpy()
                for values in locate(self.geo_head, places, self.refiner, pooled, self.decoder)
            )
            logits = places.cell_logits.float().cpu().numpy()  # (B, N)
            cells = places.cell_logits.softmax(-1).float().cpu().numpy()  # (B, N)
            metas = said["meta_probabilities"].float().cpu().numpy()  # (B, k_m)
            parents = said["parent_probabilities"].float().cpu().numpy()  # (B, k_p)
            maps = None if concepts.meta_maps is None else concepts.meta_maps.softmax(1).float().cpu().numpy()
        calibrated: np.ndarray | None = None
        regions: list[tuple[Region, ...]] = [()] * len(read)
        if self.calibration is not None:
            calibrated = self.calibration.probabilities(logits)
            regions = self.calibration.regions(calibrated)
        near = [Place(*names) for names in places_of(lat, lng)[["city", "region", "country"]].to_numpy()]
        nearest = self.files.cells.country[self.files.cells.assign(lat, lng)].astype(str)
        held_by = [self._country_names.country(place, own) for place, own in zip(near, nearest, strict=True)]
        unlike: list[Novelty] | list[None] = [None] * len(read)
        if self.novelty is not None:
            unlike = middle_views(self.novelty.judge(seen.pooled.float().cpu().numpy()), counts)
        vocabulary = self.files.concepts
        answers = []
        ends = np.cumsum(counts)
        for i, photo in enumerate(read):
            views = slice(ends[i] - counts[i], ends[i])
            chance = cells[i] if calibrated is None else calibrated[i]
            by_country = self.files.cells.by_country(chance)
            named = _best(vocabulary.metas, metas[i], top_k)
            shares = dict(zip(self._countries.tolist(), by_country.tolist(), strict=True))
            differ = why_countries_differ(held_by[i], shares, str(self.files.cells.country[chance.argmax()]))
            answer = Answer(
                lat=float(lat[i]) + 0.0,  # never -0.0
                lng=float(lng[i]) + 0.0,
                cells=self._best_cells(cells[i], None if calibrated is None else calibrated[i], top_k),
                concepts=named,
                parents=_best(vocabulary.parents, parents[i], top_k),
                attention=joined_maps(attention[views], self.encoder.grid, photo.upright),
                place=near[i]._replace(country=held_by[i]),
                countries=_best(self._countries.tolist(), by_country, top_k),
                temperature=None if self.calibration is None else self.calibration.temperature,
                regions=regions[i],
                concept_maps=()
                if maps is None
                else self._maps(maps[views], of_view[views], [name for name, _ in named], photo.upright),
                notes=(*_warning(unlike[i]), *photo.notes, *self.remarks),
                unlike=unlike[i],
                country=held_by[i],
                countries_differ=differ,
                views=counts[i],
                seen_share=photo.share,
            )
            answers.append(answer.with_own_place(photo.own_place))
        return answers

    def _maps(
        self, maps: np.ndarray, shares: np.ndarray, names: Sequence[str], upright: bool
    ) -> tuple[tuple[str, np.ndarray], ...]:
        """Maps of some concepts from all of a picture, `(V, P, k_m)`; a view counts as much as it shows the concept."""
        from geocbm.predict.views import joined_maps

        index = self.files.concepts.concept_to_idx
        return tuple(
            (name, joined_maps(maps[..., index[name]], self.encoder.grid, upright, shares[:, index[name]]))
            for name in names
        )

    def _best_cells(
        self, probabilities: np.ndarray, calibrated: np.ndarray | None, top_k: int
    ) -> tuple[CellProbability, ...]:
        from geocbm.geodesy import cartesian_to_latlng

        cells = self.files.cells
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        lat, lng = cartesian_to_latlng(cells.centers[order])
        return tuple(
            CellProbability(
                cell=int(cell),
                country=str(cells.country[cell]),
                lat=float(lat[i]),
                lng=float(lng[i]),
                probability=float(probabilities[cell]),
                calibrated=None if calibrated is None else float(calibrated[cell]),
                place=self._cell_places[cell],
            )
            for i, cell in enumerate(order)
        )


def _warning(unlike: Novelty | None) -> tuple[str, ...]:
    """The first note of a photograph that is unlike the training pictures."""
    return () if unlike is None or not unlike.unlike else (unlike.sentence(),)


def _best(names: Sequence[str], probabilities: np.ndarray, top_k: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple((names[index], float(probabilities[index])) for index in order)


def _even_batches(photographs: Iterable[Any], most: int, workers: int) -> Iterator[list[Any]]:
    """Batches of at most `most`; the last photographs are divided evenly, so that no worker is left without any."""
    sources = iter(photographs)
    while block := list(islice(sources, most * workers)):
        size = -(-len(block) // workers)
        for start in range(0, len(block), size):
            yield block[start : start + size]


def _cell_places(files: Run) -> list[Place]:
    """For each cell the town nearest to the training photograph in its middle.

    The centre itself may lie in the sea or beyond a border.
    """
    from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
    from geocbm.metrics import places_of

    cells, train = files.cells, files.rows["train"]
    points = latlng_to_cartesian(files.lat[train], files.lng[train])  # (n, 3)
    near = (points * cells.centers[cells.sample_to_cell]).sum(axis=1)
    middle = np.array(cells.centers, dtype=float)
    for row in np.argsort(near, kind="stable"):  # the last one written is the nearest
        middle[cells.sample_to_cell[row]] = points[row]
    lat, lng = cartesian_to_latlng(middle)
    return [Place(*names) for names in places_of(lat, lng)[["city", "region", "country"]].to_numpy()]

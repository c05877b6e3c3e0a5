"""Measuring the controls of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geocbm import pipeline
from geocbm.evaluation.methods import stored_predictions
from geocbm.explain.controls.directions import random_concepts
from geocbm.metrics import error_km, spatial_blocks
from geocbm.run import Run

if TYPE_CHECKING:
    import pandas as pd

    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead

SCORES = "concept_scores"


@dataclass(frozen=True)
class Control:
    """A head with something taken from it, held against the same head as it is.

    Attributes:
        name: key of the figures, `control.<name>`.
        words: what was done.
        mode: ablation mode of the head.
        km: `[draws, n]` errors under the control.
        own_km: `[n]` errors of the run itself.
        expected: what should happen if concepts and patches do what they are said to do.
    """

    name: str
    words: str
    mode: str
    km: np.ndarray
    own_km: np.ndarray
    expected: str


@dataclass(frozen=True)
class Controls:
    """All controls of a run.

    Attributes:
        main: ablation mode of the run.
        controls: in the order of the page.
        blocks: `[n]` spatial blocks of the test images.
        km: `[n]` errors of the run by ablation mode.
        residual_share: `[n]` part of the logits of `hybrid` that comes from the patches; None without that variant.
    """

    main: str
    controls: tuple[Control, ...]
    blocks: np.ndarray
    km: Mapping[str, np.ndarray]
    residual_share: np.ndarray | None

    def __getitem__(self, name: str) -> Control:
        return next(control for control in self.controls if control.name == name)


class _Exchanged:
    """Features in which rows stand for others, or the patches of each image stand in another order."""

    def __init__(self, features: FeatureStore, source: np.ndarray | None = None, order_seed: int | None = None) -> None:
        self.features, self.source, self.order_seed = features, source, order_seed

    def read(self, kind: str, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """Features `(len(rows), ...)`."""
        found = self.features.read(kind, rows if self.source is None else self.source[rows], dtype)
        if kind != "tokens" or self.order_seed is None:
            return found
        generator = torch.Generator().manual_seed(self.order_seed)
        order = torch.rand(found.shape[:2], generator=generator).argsort(1)  # (B, P), another one for each image
        return found.gather(1, order[..., None].expand_as(found))


def derangement(n: int, seed: int) -> np.ndarray:
    """Positions `[n]` of other rows, drawn at random: no row keeps its own, each is used once; needs two rows."""
    if n < 2:
        raise ValueError(f"n is {n}: with fewer than two rows none can take the place of another")
    order = np.random.default_rng(seed).permutation(n)
    other = np.empty(n, dtype=np.int64)
    other[order] = np.roll(order, 1)
    return other


class _Bench:
    """The trained heads of a run and what they read, ready to be disturbed."""

    def __init__(self, files: Run, cache: Path) -> None:
        from geocbm.models import stage1

        self.files, self.test = files, files.rows["test"]
        self.features = pipeline.open_features(files, "adapted", cache)
        stored = stored_predictions(files)
        self.main = str(stored[""]["mode"].iloc[0])
        self.km = {mode or self.main: self.errors(places) for mode, places in stored.items()}
        self.device = pipeline.compute_device()
        self.stage1 = pipeline.load_stage1(files).to(self.device)
        said = stage1.predict_stage1(self.stage1, self.features, self.test)
        # Heads index rows of the whole table; only those of the test split are ever asked for.
        self.concepts = {name: self.for_all_rows(value) for name, value in said.items()}

    def for_all_rows(self, values: Tensor) -> Tensor:
        """A table `(rows of the table, c)` that holds the values `(n, c)` of the test split."""
        table = torch.zeros(len(self.files.table), values.shape[1])
        table[self.test] = values
        return table

    def errors(self, places: pd.DataFrame | Mapping[str, np.ndarray]) -> np.ndarray:
        """Errors `[n]` in km."""
        return error_km(places["lat"], places["lng"], self.files.lat[self.test], self.files.lng[self.test])

    def checkpoint(self, mode: str) -> str | None:
        """Stem of the checkpoint of a mode whose predictions are stored; None where the run has none."""
        name = "stage2" if mode == self.main else f"stage2_{mode}"
        return name if mode in self.km and self.files.path(f"{name}.safetensors").exists() else None

    def head(self, mode: str) -> tuple[Stage2CrossAttentionGeoHead, str]:
        """The trained head of a mode that has a checkpoint, and its stem."""
        name = self.checkpoint(mode)
        assert name is not None
        return pipeline.load_stage2(self.files, name).to(self.device), name

    def answers(
        self, mode: str, concepts_of: np.ndarray | None = None, pictures: _Exchanged | None = None
    ) -> dict[str, np.ndarray]:
        """What a head says when the concepts, or all that comes from the picture, are of other test images.

        Args:
            mode: which head.
            concepts_of: `[n]` positions in the test split whose concepts are used instead.
            pictures: features that are read instead: patch tokens, and pooled features for the refiner.
        """
        from geocbm.models import stage2

        head, name = self.head(mode)
        given = stage2.concept_input(head.config, self.concepts)
        if concepts_of is not None:
            given = self.for_all_rows(given[self.test[concepts_of]])
        source = pictures or self.features
        refiner = pipeline.load_refiner(self.files, head.config, name)
        decoder = pipeline.load_decoder(self.files, head, name)
        return stage2.predict_stage2(head, given, source, self.test, refiner=refiner, pooled=source, decoder=decoder)

    def rows_of(self, positions: np.ndarray) -> np.ndarray:
        """For every row of the table the row that stands for it: test rows are exchanged, others keep their place."""
        source = np.arange(len(self.files.table))
        source[self.test] = self.test[positions]
        return source


def measure(files: Run, cache: Path, draws: int = 3, seed: int = 0) -> Controls:
    """Measure all controls that the trained heads of a run allow, on its test split; none without test images.

    Args:
        files: the run, with all stages trained.
        cache: folder of the feature stores.
        draws: sets of random directions, and exchanges between test images.
        seed: seed of the first draw.
    """
    if not len(files.rows["test"]):
        return Controls("", (), np.zeros(0, dtype=np.int64), {}, None)
    bench = _Bench(files, cache)
    seeds = list(range(seed, seed + draws))
    controls: list[Control] = []
    if len(bench.test) >= 2:
        others = [derangement(len(bench.test), each) for each in seeds]
        controls = [
            *_random(bench, seeds),
            *_exchanged_concepts(bench, others),
            *_exchanged_patches(bench, others, seed),
        ]
    share = None
    if bench.checkpoint("hybrid"):
        share = bench.answers("hybrid")["residual_share"]
    blocks = spatial_blocks(files.lat[bench.test], files.lng[bench.test])
    return Controls(bench.main, tuple(controls), blocks, bench.km, share)


def _random(bench: _Bench, seeds: list[int]) -> list[Control]:
    """The linear head on random directions, trained as the run trains it on concepts."""
    config = _scores_config(bench)
    if SCORES not in bench.km:
        own = pipeline.predict_concepts(bench.files, bench.features)
        bench.km[SCORES] = _fitted_km(bench, config, own)
    km = [
        _fitted_km(bench, config, concepts)
        for concepts in random_concepts(bench.stage1, bench.features, bench.files.rows["train"], seeds)
    ]
    return [
        Control(
            "random_concepts",
            "random directions",
            SCORES,
            np.stack(km),
            bench.km[SCORES],
            "falls, if the named concepts are needed",
        )
    ]


def _scores_config(bench: _Bench) -> Stage2Config:
    """Settings with which the run trains the linear head on the probabilities of concepts."""
    trained = SCORES if bench.checkpoint(SCORES) else bench.main
    config = bench.head(trained)[0].config
    return config.in_mode(SCORES, init_from_stage0=False, tracking="disabled")


def _fitted_km(bench: _Bench, config: Stage2Config, concepts: dict[str, Tensor]) -> np.ndarray:
    """Errors `[n]` of a linear head that is trained on given probabilities of concepts."""
    from geocbm.models import stage2

    head, _ = pipeline.fit_stage2(bench.files, config, concepts, bench.features, name=None, report=lambda line: None)
    given = stage2.concept_input(config, concepts)
    decoder = pipeline.make_decoder(bench.files, head, concepts, bench.features)
    return bench.errors(stage2.predict_stage2(head, given, bench.features, bench.test, decoder=decoder))


def _exchanged_concepts(bench: _Bench, others: list[np.ndarray]) -> list[Control]:
    controls = []
    for mode in dict.fromkeys([bench.main, SCORES, "hybrid"]):
        if mode == "image_only" or not bench.checkpoint(mode):
            continue
        km = np.stack([bench.errors(bench.answers(mode, concepts_of=other)) for other in others])
        expected = "falls to chance" if mode in (SCORES, "concept_only") else "falls, if the head listens to concepts"
        name = f"shuffled_concepts_{mode}"
        controls.append(Control(name, "concepts swapped", mode, km, bench.km[mode], expected))
    return controls


def _exchanged_patches(bench: _Bench, others: list[np.ndarray], seed: int) -> list[Control]:
    controls = []
    for mode in dict.fromkeys([bench.main, "both", "hybrid"]):
        if not bench.checkpoint(mode) or not bench.head(mode)[0].config.reads_tokens:
            continue
        exchanged = [_Exchanged(bench.features, bench.rows_of(other)) for other in others]
        in_order = _Exchanged(bench.features, order_seed=seed)
        for name, words, pictures, expected in (
            ("shuffled_patches", "patches swapped", exchanged, "falls by what goes past the concepts"),
            ("patch_order", "patches reordered", [in_order], "changes nothing: the head knows no positions"),
        ):
            km = np.stack([bench.errors(bench.answers(mode, pictures=each)) for each in pictures])
            controls.append(Control(f"{name}_{mode}", words, mode, km, bench.km[mode], expected))
    return controls

"""One batch of a stage: pictures, targets, shapes, terms of the loss, and the gradient of each part of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from geocbm import data, plots, training
from geocbm.data.concepts import UNKNOWN
from geocbm.errors import ParameterError
from geocbm.files.progress import is_live
from geocbm.models.stage0 import Stage0Config
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import Stage2Config
from geocbm.run import Run, encoding, stages
from geocbm.run.run import LABELS, Batch
from geocbm.training import checkpoints
from geocbm.training.epoch import forward_batch, forward_names
from geocbm.workbench import html
from geocbm.workbench.explorers.shared import WRAP, figure_widget, page, redraw, said, show

if TYPE_CHECKING:
    from geocbm.run.stages import PreparedStage

TRAINED, UNTRAINED = "as trained", "before training"
WHOLE = "loss"  # the term that is the weighted sum of all others
FEWEST, FIRST, MOST = 4, 8, 12  # pictures of a batch


def batch(run: Run, stage: str) -> None:
    """Show one batch of a trained stage and one step on it; a page shows the terms and gradients of the first batch.

    Args:
        run: the run.
        stage: `stage0`, `stage1` or `stage2`.

    Raises:
        ParameterError: another stage.
        MissingInputError: the stage is not trained yet.
    """
    step = TrainingStep(run, stage)
    if is_live():
        show(BatchExplorer(step).box)
        return
    split = step.splits[-1]
    html.put_figure(step.figure(step.read(step.draw(split, FIRST, 0)), TRAINED, WHOLE, split))


class TrainingStep:
    """The model of a stage (`stage0`, ...) with the weights it started from and those it came to, and its loss."""

    def __init__(self, run: Run, stage: str) -> None:
        prepare = {"stage0": _stage0, "stage1": _stage1, "stage2": _stage2}
        if stage not in prepare:
            raise ParameterError(f"stage={stage!r}; give one of {', '.join(map(repr, prepare))}")
        self.run, self.stage = run, stage
        splits = ("pretrain_train", "pretrain_val") if stage == "stage0" else ("train", "val")
        self.splits = [split for split in splits if len(run.rows[split])]  # the last is shown first
        path, number = run.need(f"{stage}.safetensors"), int(stage[-1])
        tensors, described = checkpoints.load_checkpoint(path, run.remedy(path.name), number)
        self.prepared = prepare[stage](run, described["config"])
        model = self.prepared.model.cpu()
        self.weights = {UNTRAINED: checkpoints.snapshot(model)}
        checkpoints.restore(model, tensors, path)
        self.weights[TRAINED] = checkpoints.snapshot(model)
        self._present = TRAINED

    def draw(self, split: str, n: int, seed: int) -> np.ndarray:
        """Rows of a split, drawn at random and sorted."""
        rows = self.run.rows[split]
        return np.sort(np.random.default_rng(seed).choice(rows, min(n, len(rows)), replace=False))

    def read(self, rows: np.ndarray) -> Batch:
        """What the stage reads of some rows."""
        return Batch(self.prepared.train.read(rows))

    def measure(self, read: Batch, weights: str, term: str = WHOLE) -> tuple[pd.DataFrame, pd.DataFrame]:
        """One step: the terms of the loss (`loss_terms`), and the gradient of one of them (`gradient_norms`)."""
        model = self.prepared.model
        if weights != self._present:
            model.load_state_dict(self.weights[weights], strict=False)
            self._present = weights
        model.eval().zero_grad()
        terms = self.prepared.loss(forward_batch(model, forward_names(model), read), read)
        if terms[term].requires_grad:
            terms[term].backward()
        return training.loss_terms(terms, self.prepared.settings), training.gradient_norms(model).fillna(0.0)

    def figure(self, read: Batch, weights: str, term: str, split: str) -> go.Figure:
        """The step as bars."""
        title = f"Stage {self.stage[-1]} {weights}, {len(read['row'])} pictures of {split}"
        return plots.loss_and_gradients(*self.measure(read, weights, term), title)

    def targets(self, read: Batch) -> pd.DataFrame:
        """Targets of each picture: what of `LABELS` the stage reads, and the names of concept and parent."""
        concepts = self.run.concepts
        frame = pd.DataFrame({name: read[name].numpy() for name in LABELS if name in read})
        for name, names in (("concept_idx", concepts.metas), ("parent_idx", concepts.parents)):
            frame[name] = [f"{index} ({names[index] if index >= 0 else UNKNOWN})" for index in frame[name]]
        return frame.set_index("row")


def _stage0(run: Run, config: dict[str, Any]) -> PreparedStage:
    encoders = encoding.read_encoders(run)
    encoder, vanilla = encoding.load_image_encoder(encoders.image_encoder), run.features("vanilla")
    return stages.prepare_stage0(run, Stage0Config(**config), encoders, encoder, vanilla)


def _stage1(run: Run, config: dict[str, Any]) -> PreparedStage:
    return stages.prepare_stage1(run, Stage1Config(**config), run.features("adapted"), None, lambda _line: None)


def _stage2(run: Run, config: dict[str, Any]) -> PreparedStage:
    features = run.features("adapted")
    concepts = stages.predict_concepts(run, features)
    return stages.prepare_stage2(run, Stage2Config(**config), concepts, features, report=lambda _line: None)


class BatchExplorer:
    """Controls for a batch of a stage and what a step on it does.

    Args:
        step: the stage.
    """

    def __init__(self, step: TrainingStep) -> None:
        self.step = step
        self.split = ipywidgets.Dropdown(options=step.splits, value=step.splits[-1], description="split")
        self.size = ipywidgets.IntSlider(FIRST, FEWEST, MOST, description="pictures", continuous_update=False)
        self.draw = ipywidgets.BoundedIntText(0, 0, 9999, description="draw")
        self.weights = ipywidgets.Dropdown(options=[TRAINED, UNTRAINED], description="weights")
        self.term = ipywidgets.Dropdown(options=[WHOLE], description="gradient of")
        self.pictures, self.tables, self.status = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._read()
        self.term.options = list(step.measure(self.batch, TRAINED)[0].index)
        self.bars = figure_widget(self._figure(), 900)
        controls = [self.split, self.size, self.draw, self.weights, self.term]
        for control in controls:
            control.observe(self._on_change, "value")
        bar = ipywidgets.HBox(controls, layout=WRAP)
        self.box = ipywidgets.VBox([bar, self.status, self.pictures, self.bars, self.tables])

    def _read(self) -> None:
        """Read the batch that the controls describe."""
        step, run = self.step, self.step.run
        rows = step.draw(self.split.value, self.size.value, self.draw.value)
        self.batch, chosen = step.read(rows), run.table.iloc[rows]
        pictures = [data.open_picture(path) for path in data.image_files(chosen)]
        texts = (chosen["meta_name"].astype(str) + ", " + chosen["country"].astype(str)).tolist()
        self.pictures.value = page(html.gallery_html(pictures, texts, texts, 120))
        shapes = html.table_html(self.batch.shapes(), "What the stage reads", index=True)
        targets = html.table_html(step.targets(self.batch), "Targets", index=True)
        self.tables.value = page(f'<div style="display:flex;flex-wrap:wrap;gap:24px">{shapes}{targets}</div>')

    def _figure(self) -> go.Figure:
        figure = self.step.figure(self.batch, self.weights.value, self.term.value, self.split.value)
        self.status.value = said(figure.layout.meta["alt"])
        return figure

    def _on_change(self, change: Any) -> None:
        if change["owner"] not in (self.weights, self.term):
            self._read()
        redraw(self.bars, self._figure())

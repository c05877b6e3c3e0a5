"""Your photograph: a file of one's own, the answer, and the reasons for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from html import escape
from typing import Any

import anywidget
import ipywidgets
import plotly.graph_objects as go
import traitlets

from geocbm import plots
from geocbm.data import image_files
from geocbm.data.images.containers import RAW_ENDINGS
from geocbm.data.images.photographs import printable
from geocbm.errors import UserError
from geocbm.files.progress import is_live
from geocbm.plots.answer import answer_map
from geocbm.predict.answers import Reply, answer_text
from geocbm.predict.model import GeoCBM
from geocbm.run import Run
from geocbm.workbench import html
from geocbm.workbench.explorers.shared import figure_widget, page, redraw, said, show

TOP = 5  # places, countries and concepts that are named
WIDTH, MAP_WIDTH = 260, 150  # pixels of the picture and of each concept's map


def photograph(run: Run, model: GeoCBM | None = None) -> None:
    """Take a photograph and show where it was taken and why; a page shows the answer for a picture of the run.

    Args:
        run: a trained run.
        model: that of the run where it is loaded already.
    """
    explorer = PhotographExplorer(model or GeoCBM.load(run.folder))
    split = next(name for name in ("test", "val", "train") if len(run.rows[name]))
    example, called = image_files(run.table.iloc[run.pictures[split][:1]])[0], f"a picture of the {split} split"
    if is_live():
        explorer.show(example, called)  # what is read once is read by now, and the first photograph need not wait
        show(explorer.box)
        return
    page, figures = explorer.answer(example, called)
    html.put(page, html.clean_text(page))
    for figure in figures:
        html.put_figure(figure)


class FileDrop(anywidget.AnyWidget):
    """A field on which a file is dropped, with a button to choose one.

    The file comes in parts: JupyterLab's server ends the connection upon a message of more than 10 MiB, and photographs
    are larger. `take` is told the content and the name of each.
    """

    _esm = html.TEMPLATES / "file_drop.js"
    accept = traitlets.Unicode(",".join(("image/*", ".heic", ".heif", *RAW_ENDINGS))).tag(sync=True)

    def __init__(self, take: Callable[[bytes, str], None]) -> None:
        super().__init__()
        self._take, self._parts = take, []  # type: tuple[Callable[[bytes, str], None], list[bytes]]
        self.on_msg(self._on_part)

    def _on_part(self, _widget: Any, told: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        if told["begin"] == 0:
            self._parts = []
        self._parts.append(bytes(buffers[0]))
        if told["whole"]:
            content, self._parts = b"".join(self._parts), []
            self._take(content, str(told["name"]))


class PhotographExplorer:
    """A field for a file, and what the model says of it.

    Files are strangers': they are read as `geocbm predict` reads them, and what it refuses is said in one sentence.

    Args:
        model: the run.
    """

    def __init__(self, model: GeoCBM) -> None:
        self.model = model
        self.drop = FileDrop(self.show)
        self.hint = ipywidgets.HTML(said("JPEG, PNG, WebP, HEIC or a camera's raw file; it is read here and not kept."))
        self.page = ipywidgets.HTML()
        self.figures = ipywidgets.VBox()
        self.box = ipywidgets.VBox([self.drop, self.hint, self.page, self.figures])

    def answer(self, source: Any, name: str) -> tuple[str, list[go.Figure]]:
        """What is shown of a photograph: HTML, the map, and the contributions of concepts.

        Args:
            source: a file, its content or a PIL image.
            name: what it is called.
        """
        (reply,) = self.model.predict_each([source], TOP, keep_seen=True, keep_output=True)
        if reply.answer is None or reply.seen is None:
            if not isinstance(reply.problem, UserError):
                raise reply.problem or AssertionError("neither an answer nor a problem")
            sentence = str(reply.problem).replace("the picture", printable(name), 1)  # content has no name
            return f'<p role="alert">{escape(sentence)}</p>', []
        calibration, cells = self.model.calibration, self.model.cells
        land = None if calibration is None else calibration.cell_km2
        figures = [answer_map(reply.answer, cells.centers, cells.country, land)]
        with suppress(UserError):  # a run of one country, or one that cannot say what it is without a concept
            figures.append(plots.contribution_bars([self.model.explain(reply)]))
        return self._page(reply, name), figures

    def _page(self, reply: Reply, name: str) -> str:
        answer, seen = reply.answer, reply.seen
        assert answer is not None and seen is not None
        shares = dict(answer.concepts)
        pictures, texts = [seen], [f"{printable(name)}, as the model saw it"]
        if answer.attention.max() > answer.attention.min():  # else that of a head that looks at no patch
            pictures.append(plots.blend_heat(seen, answer.attention, WIDTH))
            texts.append("attention, mean of the heads")
        gallery = html.gallery_html(pictures, texts, texts, WIDTH)
        maps = [plots.blend_heat(seen, grid, MAP_WIDTH) for _, grid in answer.concept_maps]
        where = [f"{concept} ({shares[concept]:.0%})" for concept, _ in answer.concept_maps]
        gallery += html.gallery_html(maps, where, where, MAP_WIDTH) if maps else ""
        return said(*answer_text(name, answer).splitlines()) + page(gallery)

    def show(self, source: Any, name: str) -> None:
        """Answer for a photograph, see `answer`, and show it; what takes its time is announced.

        Figures are drawn anew and not made anew: each one made sends all of plotly, 5 MB, to the browser.
        """
        self.page.value, self.figures.layout.visibility = said(f"Reading {printable(name)} …"), "hidden"
        self.page.value, figures = self.answer(source, name)
        made = self.figures.children
        if [len(old.data) for old in made] == [len(new.data) for new in figures]:
            for old, new in zip(made, figures, strict=True):
                redraw(old, new)
        else:
            self.figures.children = [figure_widget(figure, 900) for figure in figures]
        self.figures.layout.visibility = "visible"

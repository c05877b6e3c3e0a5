"""One page about a user's own photographs, complete in itself; nothing of their EXIF data is in its pictures."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm import __version__
from geocbm.data.images.photographs import printable
from geocbm.data.simulated import TRAINED_ON
from geocbm.errors import UserError
from geocbm.files import atomic_path
from geocbm.predict.answers import in_degrees

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.predict.answers import Answer, Reply
    from geocbm.predict.model import GeoCBM

MOST_PHOTOS = 200
"""Photographs a page shows; a browser has trouble with more maps."""
WIDTH, MAP_WIDTH = 300, 150
"""Width in pixels of the two large pictures and of the map of a concept."""
MOST_TERMS = 8
"""Concepts whose part in the answer is shown."""
UNLIKELY = 0.01
"""Probability below which that many unlike photographs are no chance."""
_OUTLINES = 2
"""Traces of a map that are the same on every map: coast and borders."""
_QUALITY = 82


@dataclass(frozen=True)
class Bar:
    """A name with a probability, drawn as a bar."""

    name: str
    detail: str
    share: float


@dataclass(frozen=True)
class Term:
    """What a concept adds to the explained score, drawn to the left or the right of 0.

    Attributes:
        name: the concept.
        value: what it adds, nats.
        width: length of its bar, from 0 to 50 % of the track.
    """

    name: str
    value: float
    width: float


@dataclass(frozen=True)
class Reasons:
    """What spoke for a country, and what against.

    Attributes:
        target: the country.
        quantity: what the terms belong to, "log odds".
        exact: whether the terms add up to it.
        total: the quantity.
        terms: the largest ones.
    """

    target: str
    quantity: str
    exact: bool
    total: float
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Section:
    """What the page says of one photograph; texts are plain and are escaped by the template."""

    name: str = ""
    problem: str = ""
    coordinates: str = ""
    near: str = ""
    seen: str = ""
    views: int = 1
    wide: bool = False
    attention: str = ""
    attention_alt: str = ""
    concept_maps: tuple[tuple[str, str, str], ...] = ()
    places: tuple[Bar, ...] = ()
    countries: tuple[Bar, ...] = ()
    concepts: tuple[Bar, ...] = ()
    parents: tuple[Bar, ...] = ()
    regions: tuple[tuple[str, int, str, str], ...] = ()
    notes: tuple[str, ...] = ()
    warning: str = ""
    alt: str = ""
    differ: str = ""
    reasons: tuple[Reasons, ...] = ()


class PhotoPage:
    """Collects answers and writes the page.

    Args:
        model: the run that answers.

    Attributes:
        shown: photographs on the page.
        left_out: photographs beyond `MOST_PHOTOS`.
    """

    def __init__(self, model: GeoCBM) -> None:
        self._model = model
        self._paths: list[str] = []
        self._sections: list[Section] = []
        self._figures: list[dict[str, Any] | None] = []
        self._outlines: list[Any] = []
        self.left_out = 0

    @property
    def shown(self) -> int:
        """Number of photographs on the page, those without an answer included."""
        return len(self._sections)

    def add(self, path: str, reply: Reply, problem: str = "") -> None:
        """Add a photograph.

        Args:
            path: where it lies; the page shows of it what tells the photographs apart.
            reply: of `predict_each`, with the picture kept.
            problem: why it has no answer.
        """
        if self.shown >= MOST_PHOTOS:
            self.left_out += 1
            return
        self._paths.append(path)
        if reply.answer is None or reply.seen is None:
            self._sections.append(Section(problem=problem))
            self._figures.append(None)
        else:
            figure, alt = self._map(reply.answer)
            section = self._section(reply.answer, reply.seen, alt)
            self._sections.append(replace(section, reasons=tuple(self._reasons(reply))))
            self._figures.append(figure)

    def write(self, path: Path) -> None:
        """Write the page."""
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs

        loader = PackageLoader("geocbm.predict")
        pages = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        unlike = sum(bool(section.warning) for section in self._sections)
        text = pages.get_template("photo.html.j2").render(
            sections=[
                replace(section, name=name, problem=section.problem.replace(printable(path), name))
                for section, path, name in zip(self._sections, self._paths, _short_names(self._paths), strict=True)
            ],
            run=self._model.context.run,
            calibration=self._model.calibration,
            cells=len(self._model.cells),
            left_out=self.left_out,
            simulated=TRAINED_ON if self._model.context.simulated else "",
            unlike=unlike,
            too_many=self._too_many(unlike),
            novelty=self._model.novelty,
            version=__version__,
            plotly=Markup(get_plotlyjs()),
            outlines=Markup(_script_json(self._outlines)),
            figures=Markup(_script_json(self._figures)),
        )
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _too_many(self, unlike: int) -> bool:
        """Whether more photographs are unlike the training pictures than false alarms of like ones would explain."""
        from scipy.stats import binom

        novelty, answered = self._model.novelty, sum(not section.problem for section in self._sections)
        return novelty is not None and unlike > 0 and float(binom.sf(unlike - 1, answered, novelty.level)) < UNLIKELY

    def _map(self, answer: Answer) -> tuple[dict[str, Any], str]:
        """A map without its outlines, which the page holds once, and its description."""
        from geocbm.plots.answer import answer_map

        calibration, cells = self._model.calibration, self._model.cells
        land = None if calibration is None else calibration.cell_km2
        figure = json.loads(answer_map(answer, cells.centers, cells.country, land).to_json())
        self._outlines = figure["data"][:_OUTLINES]
        return {"data": figure["data"][_OUTLINES:], "layout": figure["layout"]}, figure["layout"]["meta"]["alt"]

    def _reasons(self, reply: Reply) -> Iterator[Reasons]:
        """What led to the country of the point, and to the likeliest one where that is another."""
        from geocbm.explain.attribution import EXACT

        if reply.answer is None:
            return
        countries = self._model.cells.country
        for country in dict.fromkeys((reply.answer.country, reply.answer.countries[0][0])):
            if country not in countries:
                continue
            try:
                why = self._model.explain(reply, country=country)
            except UserError:  # a run of one country, or one that cannot say what it is without a concept
                continue
            largest = why.largest(MOST_TERMS)
            top = float(largest["term"].abs().max())
            if not top > 0:  # a head that reads no concepts
                continue
            terms = tuple(
                Term(str(row["name"]), float(row["term"]), 50 * abs(float(row["term"])) / top)
                for row in largest.to_dict("records")
            )
            yield Reasons(why.target, why.quantity, why.method == EXACT, why.total, terms)

    def _section(self, answer: Answer, seen: Image, alt: str) -> Section:
        wide = seen.width > seen.height
        times = answer.views if wide else 1  # views side by side
        attention, attention_alt = "", ""
        if np.ptp(answer.attention) > 1e-9:  # even attention is that of a head without eyes
            attention = _heat(seen, answer.attention, times * WIDTH)
            row, column = np.unravel_index(answer.attention.argmax(), answer.attention.shape)
            attention_alt = (
                f"The same with attention laid over it; it is highest in row {row + 1} of {answer.attention.shape[0]}, "
                f"column {column + 1} of {answer.attention.shape[1]}"
            )
        shares = dict(answer.concepts)
        warning = "" if answer.unlike is None else answer.unlike.sentence()
        country = self._model.cells.country
        return Section(
            coordinates=in_degrees(answer.lat, answer.lng),
            near=answer.place.label(),
            seen=_data_uri(seen, times * WIDTH),
            views=answer.views,
            wide=wide and answer.views > 1,
            attention=attention,
            attention_alt=attention_alt,
            concept_maps=tuple(
                (concept, f"{100 * shares[concept]:.0f}", _heat(seen, grid, times * MAP_WIDTH))
                for concept, grid in answer.concept_maps
            ),
            places=tuple(Bar(cell.country, cell.place.label(False), cell.best) for cell in answer.cells),
            countries=_bars(answer.countries),
            concepts=_bars(answer.concepts),
            parents=_bars(answer.parents),
            regions=tuple(
                (
                    f"{100 * region.coverage:.0f}",
                    len(region.cells),
                    f"{region.area_km2:,.0f} km²",
                    "; ".join(dict.fromkeys(str(country[cell]) for cell in region.cells)),
                )
                for region in answer.regions
            ),
            notes=tuple(note for note in answer.notes if note != warning),
            differ=answer.countries_differ,
            warning=warning,
            alt=alt,
        )


def _short_names(paths: list[str]) -> list[str]:
    """Paths without the folders they have in common: a page may be handed on, and need not tell where things lie."""
    folders = {str(Path(path).parent) for path in paths}
    if len(folders) == 1:
        return [printable(Path(path).name) for path in paths]
    try:
        common = os.path.commonpath(folders)
        return [printable(Path(path).relative_to(common)) for path in paths]
    except ValueError:  # some from the root, some from here
        return [printable(path) for path in paths]


def _bars(shares: tuple[tuple[str, float], ...]) -> tuple[Bar, ...]:
    return tuple(Bar(name, "", share) for name, share in shares)


def _heat(seen: Image, grid: np.ndarray, width: int) -> str:
    from geocbm.plots.pictures import blend_heat

    return _data_uri(blend_heat(seen, grid, width), width)


def _data_uri(picture: Image, width: int) -> str:
    """A picture of the given width as an address; pixels only, nothing else of the file it came from."""
    from PIL import Image as pillow

    small = picture.resize((width, round(width * picture.height / picture.width)), pillow.Resampling.LANCZOS)
    small.info.clear()
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _script_json(content: Any) -> str:
    """JSON in which nothing can close the script element that holds it."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

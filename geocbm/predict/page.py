"""One page about a user's own photographs, complete in itself; nothing of their EXIF data is in its pictures."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm import __version__
from geocbm.data.simulated import TRAINED_ON
from geocbm.errors import UserError, printable
from geocbm.files import write_text
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


class PhotoPage:
    """Collects answers of up to `MOST_PHOTOS` photographs and writes the page."""

    def __init__(self, model: GeoCBM) -> None:
        self._model = model
        self._paths: list[str] = []
        self._sections: list[dict[str, Any]] = []  # what the template shows of each photograph
        self._figures: list[dict[str, Any] | None] = []
        self._outlines: list[Any] = []

    @property
    def shown(self) -> int:
        """Number of photographs on the page, those without an answer included."""
        return len(self._sections)

    def add(self, path: str, reply: Reply, problem: str = "") -> None:
        """Add a photograph."""
        if self.shown >= MOST_PHOTOS:
            return
        self._paths.append(path)
        section: dict[str, Any] = {"problem": problem, "answer": reply.answer, "warning": ""}
        figure = None
        if reply.answer is not None and reply.seen is not None:
            figure = self._map(reply.answer)
            section |= self._pictures(reply.answer, reply.seen) | _sentences(reply.answer)
            section |= {"alt": figure["layout"]["meta"]["alt"], "reasons": list(self._reasons(reply, reply.answer))}
        self._sections.append(section)
        self._figures.append(figure)

    def write(self, path: Path, left_out: int = 0) -> None:
        """Write the page, which says how many photographs were left out."""
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
        from scipy.stats import binom

        pages = Environment(
            loader=PackageLoader("geocbm.predict"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        model = self._model
        unlike = sum(bool(section["warning"]) for section in self._sections)
        answered = sum(not section["problem"] for section in self._sections)
        text = pages.get_template("photo.html.j2").render(
            sections=[
                section | {"name": name, "problem": section["problem"].replace(printable(path), name)}
                for section, path, name in zip(self._sections, self._paths, _short_names(self._paths), strict=True)
            ],
            run=model.context.run,
            calibration=model.calibration,
            cells=len(model.cells),
            country_of=model.cells.country,
            left_out=left_out,
            simulated=TRAINED_ON if model.context.simulated else "",
            unlike=unlike,
            # More photographs are unlike the training pictures than false alarms of like ones would explain.
            too_many=model.novelty and unlike and binom.sf(unlike - 1, answered, model.novelty.level) < UNLIKELY,
            novelty=model.novelty,
            version=__version__,
            plotly=Markup(get_plotlyjs()),
            outlines=Markup(_script_json(self._outlines)),
            figures=Markup(_script_json(self._figures)),
        )
        write_text(path, text)

    def _map(self, answer: Answer) -> dict[str, Any]:
        """A map without its outlines, which the page holds once."""
        from geocbm.plots.answer import answer_map

        calibration, cells = self._model.calibration, self._model.cells
        land = None if calibration is None else calibration.cell_km2
        figure = json.loads(answer_map(answer, cells.centers, cells.country, land).to_json())
        self._outlines = figure["data"][:_OUTLINES]
        return {"data": figure["data"][_OUTLINES:], "layout": figure["layout"]}

    def _reasons(self, reply: Reply, answer: Answer) -> Iterator[dict[str, Any]]:
        """What led to the country of the point, and to the likeliest one where that is another."""
        countries = self._model.cells.country
        for country in dict.fromkeys((answer.country, answer.countries[0][0])):
            if country not in countries:
                continue
            try:
                why = self._model.explain(reply, country=country)
            except UserError:  # a run of one country, or one that cannot say what it is without a concept
                continue
            terms = why.largest(MOST_TERMS)
            if terms["term"].abs().max() > 0:  # not so of a head that reads no concepts
                terms["width"] = 50 * terms["term"].abs() / terms["term"].abs().max()  # % of the track, from its middle
                yield {"why": why, "terms": terms.to_dict("records")}

    def _pictures(self, answer: Answer, seen: Image) -> dict[str, Any]:
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
        return {
            "seen": _data_uri(seen, times * WIDTH),
            "wide": wide and answer.views > 1,
            "attention": attention,
            "attention_alt": attention_alt,
            "concept_maps": [
                (concept, shares[concept], _heat(seen, grid, times * MAP_WIDTH))
                for concept, grid in answer.concept_maps
            ],
        }


def _sentences(answer: Answer) -> dict[str, Any]:
    warning = "" if answer.unlike is None else answer.unlike.sentence()
    return {
        "coordinates": in_degrees(answer.lat, answer.lng),
        "near": answer.place.label(),
        "warning": warning,
        "places": [(cell.country, cell.best, cell.place.label(False)) for cell in answer.cells],
        "notes": [note for note in answer.notes if note != warning],
    }


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

"""Guess it yourself: a picture first, your place on the map, then the true place and the model's, both scored."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets
import numpy as np
import plotly.graph_objects as go
from PIL import Image

from geocbm import data
from geocbm.errors import ParameterError
from geocbm.files.progress import is_live
from geocbm.geodesy import haversine_km
from geocbm.metrics import geoguessr_points
from geocbm.plots.maps import LINES, outline
from geocbm.plots.pictures import data_uri
from geocbm.plots.theme import INK, PALETTE, finish
from geocbm.plots.values import km_text, plural
from geocbm.run import Run
from geocbm.workbench import html
from geocbm.workbench.explorers.answered_pictures import answered
from geocbm.workbench.explorers.shared import WRAP, figure_widget, said, show

STEP = 0.5
"""Degrees between two places that a click can mean: about 20 km off on average, which costs about 1 % of the points."""
WIDTH, PAGE_ROUNDS = 340, 3
YOU, MODEL, TRUTH = "you", "model", "true place"
ASK = "Click where it was taken"


def guess(run: Run, seed: int = 0) -> None:
    """Play: where was this picture taken? A page shows three pictures whose places unfold."""
    game = Game(run, seed)
    if is_live():
        show(GuessExplorer(game).box)
        return
    page = ""
    for _ in range(min(PAGE_ROUNDS, len(game.rows))):
        picture = html.image_html(data.open_picture(game.file), "A picture to be placed", 240)
        told = f"<details><summary>Where was it taken?</summary>{escape(game.told())}</details>"
        page += f'<figure style="margin:0;max-width:240px">{picture}{told}</figure>'
        game.next()
    html.put(f'<div style="display:flex;flex-wrap:wrap;gap:8px">{page}</div>', "In JupyterLab this cell is a game.")


class Game:
    """Test pictures in random order, what was guessed of them, and the points.

    Args:
        seed: of the order of the pictures.

    Attributes:
        rows: of the pictures, in the order of the game.
        played: errors of the person and of the model in each round, km.

    Raises:
        ParameterError: the run has no test picture.
    """

    def __init__(self, run: Run, seed: int = 0) -> None:
        self.run, self.frame = run, answered(run)
        if not len(self.frame):
            raise ParameterError(f"run={run.name!r} has no test picture to guess; give one with a test split")
        self.rows = np.random.default_rng(seed).permutation(self.frame.index.to_numpy())
        self.played: list[tuple[float, float]] = []
        self._number = 0

    @property
    def row(self) -> int:
        """The present picture."""
        return int(self.rows[self._number % len(self.rows)])

    @property
    def file(self) -> Any:
        """File of the present picture."""
        return data.image_files(self.run.table.iloc[[self.row]])[0]

    @property
    def places(self) -> dict[str, tuple[float, float]]:
        """Where the present picture was taken and where the model places it, degrees."""
        true = float(self.run.lat[self.row]), float(self.run.lng[self.row])
        lat, lng = self.frame.loc[[self.row], ["lat", "lng"]].to_numpy()[0].tolist()
        return {TRUTH: true, MODEL: (lat, lng)}

    @property
    def totals(self) -> tuple[int, int]:
        """Points of the person and of the model so far."""
        mine, models = (sum(int(geoguessr_points(km)) for km in side) for side in zip(*self.played, strict=True))
        return mine, models

    def guess(self, lat: float, lng: float) -> float:
        """Error of a guess in degrees for the present picture, km."""
        km = float(haversine_km(lat, lng, *self.places[TRUTH]))
        self.played.append((km, float(haversine_km(*self.places[MODEL], *self.places[TRUTH]))))
        return km

    def next(self) -> None:
        """Go on to the next picture; after the last one the first comes again."""
        self._number += 1

    def told(self) -> str:
        """What the present picture truly is, and what the model answered."""
        one = self.frame.loc[self.row]
        (lat, lng), km = self.places[TRUTH], float(haversine_km(*self.places[MODEL], *self.places[TRUTH]))
        return (
            f"{one['country']} ({lat:.2f}, {lng:.2f}), labelled {one['concept']}. The model answered {one['answer']}, "
            f"{km_text(km)} off: {int(geoguessr_points(km)):,} points."
        )


def guess_map(title: str) -> go.Figure:
    """A flat map of the world that takes clicks everywhere, for `marks`."""
    fig = go.Figure()
    for kind, colour, width in LINES:
        lng, lat = outline(kind)
        # A line that leaves on one side and comes back on the other would be drawn right across the map.
        lng = np.where(np.abs(np.diff(lng, prepend=lng[:1])) > 180, np.nan, lng)
        line = {"width": width, "color": colour}
        fig.add_scatter(x=lng, y=lat, mode="lines", line=line, hoverinfo="skip", showlegend=False, name=kind)
    # Only a trace takes clicks: this one is everywhere and cannot be seen. Of a heatmap every cell would be sent,
    # copied and compared in the browser at each change of anything, a sixth of a second long.
    size = round(360 / STEP), round(180 / STEP)
    place = {"x0": -180 + STEP / 2, "dx": STEP, "y0": -90 + STEP / 2, "dy": STEP}
    fig.add_image(
        source=data_uri(Image.new("RGB", size)),
        opacity=0,
        hovertemplate="%{y:.1f}, %{x:.1f}<extra></extra>",
        name="grid",
        **place,
    )
    fig.update_xaxes(range=[-180, 180], visible=False, constrain="domain")
    fig.update_yaxes(range=[-60, 84], visible=False, scaleanchor="x", constrain="domain")
    layout = {"margin": {"l": 8, "r": 8, "t": 44, "b": 8}, "plot_bgcolor": "#F7F9FB", "dragmode": "pan"}
    return finish(fig, title, "Map of the world that takes a click as a guess.", 330, hovermode="closest", **layout)


def marks(places: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Dots with words at places in degrees, and lines to the true one: shapes, for which nothing else is drawn anew."""
    # Colours, and how far the words stand to the right and up, in pixels.
    looks = {YOU: (PALETTE[1], 0, 18), MODEL: (PALETTE[0], 30, -18), TRUTH: (INK, -40, -18)}
    shapes: list[dict[str, Any]] = []
    for name, (lat, lng) in places.items():
        colour, right, up = looks[name]
        if TRUTH in places and name != TRUTH:
            ends = dict(zip(("y0", "x0", "y1", "x1"), (lat, lng, *places[TRUTH]), strict=True))
            shapes.append({"type": "line", "line": {"color": colour, "width": 1.5, "dash": "dot"}} | ends)
        at = {"xanchor": lng, "yanchor": lat, "xsizemode": "pixel", "ysizemode": "pixel", "line": {"width": 0}}
        label = {"text": name, "font": {"color": colour}, "textposition": "middle center"}
        shapes.append(at | {"type": "circle", "name": name, "fillcolor": colour} | _box(0, 0, 5))
        shapes.append(at | {"type": "rect", "label": label} | _box(right, up, 10))
    return shapes


def _box(right: float, up: float, half: float) -> dict[str, float]:
    """Corners of a square around a point, in pixels."""
    return {"x0": right - half, "x1": right + half, "y0": up - half, "y1": up + half}


class GuessExplorer:
    """Picture, map and score of a game."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self.lat = ipywidgets.BoundedFloatText(0.0, min=-90, max=90, step=STEP, description="latitude")
        self.lng = ipywidgets.BoundedFloatText(0.0, min=-180, max=180, step=STEP, description="longitude")
        for field in (self.lat, self.lng):
            field.layout.width = "190px"
        self.button = ipywidgets.Button(description="Guess", button_style="primary")
        self.next = ipywidgets.Button(description="Next picture", disabled=True)
        self.picture, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        self.map = figure_widget(guess_map(ASK), 600)
        self.map.data[len(LINES)].on_click(self._on_click)
        self._show_picture()
        for field in (self.lat, self.lng):
            field.observe(lambda _change: self._on_place(), "value")
        self.button.on_click(lambda _button: self._on_guess())
        self.next.on_click(lambda _button: self._on_next())
        rows = [self.picture, self.map], [self.lat, self.lng, self.button, self.next]
        self.box = ipywidgets.VBox([*(ipywidgets.HBox(row, layout=WRAP) for row in rows), self.status])

    @property
    def place(self) -> tuple[float, float]:
        """Where the fields point, degrees."""
        return self.lat.value, self.lng.value

    def _on_click(self, _trace: Any, points: Any, _state: Any) -> None:
        if points.xs and points.ys:
            self.lat.value, self.lng.value = float(points.ys[0]), float(points.xs[0])

    def _on_place(self) -> None:
        if not self.button.disabled:
            self._mark({YOU: self.place}, "Your place; press Guess")

    def _on_guess(self) -> None:
        km = self.game.guess(*self.place)
        self.button.disabled, self.next.disabled = True, False
        self._mark({YOU: self.place, **self.game.places}, "You, the model and the true place")
        mine, models = self.game.totals
        self.status.value = said(
            self.game.told(),
            f"You: {km_text(km)} off, {int(geoguessr_points(km)):,} points. "
            f"After {plural(len(self.game.played), 'round')}: you {mine:,}, the model {models:,}.",
        )

    def _on_next(self) -> None:
        self.game.next()
        self.button.disabled, self.next.disabled = False, True
        self._mark({}, ASK)
        self._show_picture()

    def _mark(self, places: dict[str, tuple[float, float]], title: str) -> None:
        with self.map.batch_update():
            self.map.layout.shapes = marks(places)
            self.map.layout.title.text = title

    def _show_picture(self) -> None:
        self.picture.value = html.image_html(data.open_picture(self.game.file), "A picture to be placed", WIDTH)
        self.status.value = said("Where was it taken? Click the map, or enter degrees; then press Guess.")

"""The map of geocells: colours of samples and stars, interactive and as a picture, by the same rule."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import ImageColor

from geocbm import plots
from geocbm.geocells import build_geocells
from geocbm.geodesy import cartesian_to_latlng, haversine_km, latlng_to_cartesian
from geocbm.metrics import country_of
from geocbm.plots.cells import CELL_COLOURS, NORTH, SOUTH, STAR, cell_borders, cell_colours

# Two cells in one country, one in another; the centres lie apart from the samples.
LAT = np.array([10.0, 14.0, 40.0, 44.0, -30.0, -34.0])
LNG = np.array([20.0, 24.0, 60.0, 64.0, -100.0, -104.0])
TABLE = pd.DataFrame({"lat": LAT, "lng": LNG})


@pytest.fixture
def cells():
    return build_geocells(LAT, LNG, ["A"] * 4 + ["B"] * 2, min_samples_per_cell=2)


def test_neighbours_differ_and_few_cells_have_colours_of_their_own() -> None:
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(400, 3))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    colours = cell_colours(centers)
    cosine = centers @ centers.T - 3 * np.eye(400)
    nearest = cosine.argsort(axis=1)[:, ::-1][:, :2]
    assert (colours[nearest] == colours[:, None]).mean() < 0.01
    assert len(set(cell_colours(centers[:10]))) == 10
    assert set(colours) == set(range(len(CELL_COLOURS)))


def test_the_interactive_map_has_a_colour_per_cell_and_red_stars(cells) -> None:
    fig = plots.cell_map(cells, TABLE)
    samples, borders, centres = fig.data[-3:]
    assert borders.mode == "lines" and borders.name == "borders of cells"
    of_cell = np.asarray(CELL_COLOURS)[cell_colours(cells.centers)]
    assert list(samples.marker.color) == of_cell[cells.sample_to_cell].tolist()
    assert len(set(samples.marker.color)) == len(cells.centers) == 3
    assert (centres.marker.symbol, centres.marker.color) == ("star", STAR)
    assert len(centres.lat) == 3
    assert fig.data[0].mode == "lines"  # else no map is drawn without a network


def test_cells_of_one_country_are_shown_from_near_and_those_of_the_world_from_afar(cells) -> None:
    lat, lng = np.linspace(60.0, 68.0, 30), np.linspace(22.0, 30.0, 30)
    near = build_geocells(lat, lng, np.full(30, "Finland"), min_samples_per_cell=10)
    geo = plots.cell_map(near, pd.DataFrame({"lat": lat, "lng": lng})).layout.geo
    west, east = geo.lonaxis.range
    assert -30 < west < 22 and 30 < east < 80 and geo.lataxis.range[0] > 50
    assert plots.cell_map(cells, TABLE).layout.geo.lonaxis.range == (-180, 180)


def test_the_picture_shows_the_same_colours_at_the_same_places(cells) -> None:
    width = 1200
    picture = plots.cell_picture(cells, TABLE, width)
    scale = width / 360
    assert picture.width == width and picture.height > scale * (NORTH - SOUTH)

    def at(lat: float, lng: float) -> tuple[int, ...]:
        return picture.getpixel((round((lng + 180) * scale), round((NORTH - lat) * scale)))

    of_cell = np.asarray(CELL_COLOURS)[cell_colours(cells.centers)]
    for lat, lng, cell in zip(LAT, LNG, cells.sample_to_cell, strict=True):
        assert np.abs(np.subtract(at(lat, lng), ImageColor.getrgb(of_cell[cell]))).max() < 40
    for lat, lng in zip(*cartesian_to_latlng(cells.centers), strict=True):
        assert np.abs(np.subtract(at(lat, lng), ImageColor.getrgb(STAR))).max() < 40
    # No coast line runs across the world where it meets the antimeridian.
    pixels = np.asarray(picture.convert("L"))[: round(scale * (NORTH - SOUTH))]
    assert (pixels < 200).mean(axis=1).max() < 0.5


@pytest.mark.parametrize(
    ("country", "places"),
    [
        ("Fiji", [(-16.6, 179.2), (-16.9, -179.95), (-17.8, 178.0), (-16.3, -179.4)]),
        ("Russia", [(66.5, 172.0), (66.5, -172.0), (68.5, 179.0), (62.5, 175.0), (60.0, 150.0)]),
        ("Antarctica", [(-88.0, 0.0), (-88.0, 120.0), (-88.0, -120.0), (-75.0, 179.0), (-75.0, -100.0)]),
    ],
)
def test_borders_of_cells_lie_between_two_centres_across_the_antimeridian_and_at_the_pole(country, places):
    own = np.array(places, dtype=float)
    cells = SimpleNamespace(centers=latlng_to_cartesian(*own.T), country=np.full(len(own), country, dtype=object))
    lng, lat = cell_borders(cells)
    known = np.isfinite(lat)
    assert known.sum() > 4 and np.array_equal(known, np.isfinite(lng))
    assert (country_of(lat[known], lng[known]) == country).all()
    km = np.sort(haversine_km(lat[known][:, None], lng[known][:, None], *own.T), axis=1)
    np.testing.assert_allclose(km[:, 0], km[:, 1], atol=1e-3)
    step = np.abs(np.diff(lng))
    assert np.nanmax(step) <= 180
    assert np.nanmax(haversine_km(lat[:-1], lng[:-1], lat[1:], lng[1:])) < 45  # 0.4 degrees

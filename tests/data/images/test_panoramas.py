"""Views of panoramas show what lies there, and say what they leave out."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image

from geocbm.data.images.metadata import Sphere, described_sphere
from geocbm.data.images.panoramas import cut_views
from geocbm.data.images.photographs import read_photograph

DESCRIPTION = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {}/></rdf:RDF></x:xmpmeta>'
)


def ramp(width: int, height: int) -> Image.Image:
    """Red says where from left to right, green from top to bottom."""
    x = np.tile((np.arange(width) + 0.5) / width * 255, (height, 1))
    y = np.tile(((np.arange(height) + 0.5) / height * 255)[:, None], (1, width))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).round().astype(np.uint8))


def described(**entries: object) -> Sphere | None:
    stream = io.BytesIO()
    text = DESCRIPTION.format(" ".join(f'GPano:{name}="{value}"' for name, value in entries.items()))
    ramp(80, 40).save(stream, "JPEG", xmp=text.encode())
    return read_photograph(stream.getvalue()).sphere


def test_an_ordinary_picture_is_left_as_it_is():
    for size in ((64, 48), (48, 64), (160, 90), (199, 100)):
        views = cut_views(ramp(*size))
        assert [view.size for view in views.pictures] == [size] and views.note == "" and views.share == 1


@pytest.mark.parametrize(("size", "count"), [((200, 100), 2), ((300, 100), 3), ((250, 100), 3), ((204, 100), 2)])
def test_squares_side_by_side_cover_a_flat_picture(size, count):
    for upright in (False, True):
        views = cut_views(ramp(*(size[::-1] if upright else size)))
        assert (len(views.pictures), views.upright) == (count, upright)
        assert all(view.size == (100, 100) for view in views.pictures)
        channel = 1 if upright else 0
        ends = [np.asarray(view)[..., channel].astype(float) for view in views.pictures]
        # From the first to the last colour of the ramp, without a gap of more than a twentieth of a side.
        assert ends[0].min() <= 1 and ends[-1].max() >= 254
        assert all(later.min() <= former.max() + 7 for former, later in itertools.pairwise(ends))
        assert views.share == pytest.approx(min(1, count * 100 / size[0])) and f"{count} square views" in views.note


def test_of_a_very_long_picture_it_is_said_how_much_was_seen():
    views = cut_views(ramp(1600, 100))
    assert len(views.pictures) == 8 and views.share == 0.5 and "hold 50% of it" in views.note


def test_what_a_file_says_of_its_sphere():
    assert described(ProjectionType="equirectangular") == Sphere(360, 90, -90)
    part = described(
        ProjectionType="equirectangular", FullPanoWidthPixels=8000, FullPanoHeightPixels=4000,
        CroppedAreaImageWidthPixels=4000, CroppedAreaImageHeightPixels=1000, CroppedAreaTopPixels=1500,
    )  # fmt: skip
    assert part == Sphere(180, 22.5, -22.5)
    assert described(ProjectionType="cylindrical") is None
    assert described(ProjectionType="equirectangular", FullPanoWidthPixels="many") is None
    assert described(ProjectionType="equirectangular", FullPanoWidthPixels=-1) is None
    assert described_sphere(Image.new("RGB", (4, 4))) is None


def test_views_of_a_sphere_look_along_the_horizon():
    views = cut_views(ramp(720, 360), Sphere())
    assert len(views.pictures) == 4 and not views.upright
    # Longitudes of the middles: -90, 0, 90 and 180 degrees, red = (lng / 360 + 1/2) * 255; the last looks at the seam.
    for view, red in zip(views.pictures, (63.75, 127.5, 191.25), strict=False):
        pixels = np.asarray(view).astype(float)
        middle = len(pixels) // 2
        assert pixels[middle - 1 : middle + 1, middle - 1 : middle + 1, 0].mean() == pytest.approx(red, abs=1)
        assert pixels[middle - 1 : middle + 1, middle - 1 : middle + 1, 1].mean() == pytest.approx(127.5, abs=1)
        # In the middle of the upper edge the view looks 45 degrees up, in its corner atan(1 / sqrt 2) = 35.26.
        assert pixels[0, middle, 1] == pytest.approx(255 * 0.25, abs=2)
        assert pixels[0, 0, 1] == pytest.approx(255 * (90 - 35.264) / 180, abs=2)
        # A quarter of the way from the middle to the right edge lies at atan(1 / 4) = 14.04 degrees.
        assert pixels[middle, round(len(pixels) * 0.625), 0] == pytest.approx(red + 255 * 14.036 / 360, abs=1.5)
    last = np.asarray(views.pictures[3]).astype(float)
    middle = len(last) // 2
    assert last[middle, middle - 3, 0] > 240 and last[middle, middle + 3, 0] < 15
    # Four of the six sides of a cube.
    assert views.share == pytest.approx(2 / 3) and "4 views of 90 degrees" in views.note and "67%" in views.note


def test_a_straight_line_of_the_world_is_straight_in_a_view():
    """A wall at distance 1 to the front with an edge at height 1/2: in the sphere it is an arch, in a view a line."""
    width, height = 720, 360
    lng = ((np.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    lat = (0.5 - (np.arange(height) + 0.5) / height) * math.pi
    front = np.abs(lng) < math.pi / 2 - 0.05
    edge = np.arctan(0.5 * np.cos(lng))  # (W,)
    pixels = np.where((lat[:, None] > edge[None]) & front[None], 0, 255).astype(np.uint8)
    picture = Image.fromarray(np.repeat(pixels[..., None], 3, -1))
    view = np.asarray(cut_views(picture, Sphere()).pictures[1])[..., 0]
    rows = (view < 128).sum(axis=0)
    # tan(45) = 1 is the upper edge of the view: the line stands at a quarter of its height.
    assert np.abs(rows - len(view) / 4).max() <= 1.5


def test_a_strip_of_a_sphere_is_seen_as_high_as_it_is():
    views = cut_views(ramp(800, 200), Sphere(360, 45, -45))
    assert len(views.pictures) == 4 and views.share == pytest.approx(4 * math.pi / 3 * 2 / (2 * math.pi * math.sqrt(2)))
    views = cut_views(ramp(800, 200), Sphere(180, 22.5, -22.5))
    assert len(views.pictures) == 4  # 180 degrees in views of 45
    first, last = (np.asarray(view)[..., 0].astype(float) for view in (views.pictures[0], views.pictures[-1]))
    middle = len(first) // 2
    assert first[middle, 0] <= 2 and last[middle, -1] >= 253
    assert len(cut_views(ramp(800, 100), Sphere(180, 10, -10)).pictures) == 8  # too low for a lens: squares
    assert len(cut_views(ramp(100, 100), Sphere(40, 20, -20)).pictures) == 1


def sphere_without_words(noise: int = 0) -> Image.Image:
    """An equirectangular picture: poles of one colour, and edges that meet."""
    lng = (np.arange(400) + 0.5) / 400 * 2 * math.pi
    lat = (0.5 - (np.arange(200) + 0.5) / 200) * math.pi
    value = 128 + 100 * np.cos(lat)[:, None] * np.sin(3 * lng)[None]
    value = value + np.random.default_rng(0).integers(-noise, noise + 1, value.shape)
    return Image.fromarray(np.repeat(value.clip(0, 255).round().astype(np.uint8)[..., None], 3, -1))


def test_a_sphere_is_told_by_its_poles_and_its_seam():
    views = cut_views(sphere_without_words(noise=3))
    assert len(views.pictures) == 4 and "as its edges tell" in views.note
    assert "square" in cut_views(ramp(400, 200)).note  # two to one, and no sphere
    assert "square" in cut_views(Image.new("RGB", (400, 200), (9, 9, 9))).note
    turned = sphere_without_words().transpose(Image.Transpose.ROTATE_90)
    assert "square" in cut_views(turned).note

"""Coordinates of a file are read where they make sense, and are nothing at all where they do not."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from geocbm.exif import own_coordinates

LAT_REF, LAT, LNG_REF, LNG = 1, 2, 3, 4


def reopened(entries: dict, kind: str = "JPEG") -> Image.Image:
    """A picture with these GPS entries, written and read again."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif.get_ifd(0x8825).update(entries)
    if kind == "TIFF":  # Pillow writes a directory of TIFF only from the entry itself
        exif[0x8825] = entries
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind, exif=exif)
    return Image.open(stream)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_degrees_minutes_and_seconds_become_signed_degrees(kind):
    sydney = {LAT_REF: "S", LAT: (33.0, 52.0, 10.0), LNG_REF: "E", LNG: (151.0, 12.0, 30.0)}
    # 33 + 52/60 + 10/3600 and 151 + 12/60 + 30/3600
    assert own_coordinates(reopened(sydney, kind)) == pytest.approx((-33.869444, 151.208333), abs=1e-5)


def test_hemispheres_and_short_forms():
    west = {LAT_REF: "n", LAT: (1.5,), LNG_REF: "W", LNG: (2.0, 30.0)}
    assert own_coordinates(reopened(west)) == pytest.approx((1.5, -2.5))
    equator = {LAT_REF: "N", LAT: (0.0, 0.0, 0.0), LNG_REF: "E", LNG: (6.0, 0.0, 0.0)}
    assert own_coordinates(reopened(equator)) == (0.0, 6.0)


@pytest.mark.parametrize(
    "damage",
    [
        {LAT_REF: "X"},
        {LAT_REF: ""},
        {LNG: (181.0, 0.0, 0.0)},
        {LAT: (90.0, 0.0, 1.0)},
        {LAT: (1.0, 2.0, 3.0, 4.0)},
        {LAT_REF: "?"},
    ],
)
def test_damaged_entries_are_none(damage):
    good = {LAT_REF: "N", LAT: (10.0, 0.0, 0.0), LNG_REF: "E", LNG: (20.0, 0.0, 0.0)}
    assert own_coordinates(reopened(good)) == (10.0, 20.0)
    assert own_coordinates(reopened(good | damage)) is None
    lacking = {key: value for key, value in good.items() if key not in damage}
    assert own_coordinates(reopened(lacking)) is None


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_zero_denominators_and_garbage_are_none():
    # A GPS directory whose latitude is 0/0 degrees, as cameras write it that have no fix.
    directory = b"II*\0\x08\0\0\0\x01\0\x25\x88\x04\0\x01\0\0\0\x1a\0\0\0\0\0\0\0"
    entry = b"\x01\0\x02\0\x02\0\0\0N\0\0\0", b"\x02\0\x05\0\x01\0\0\0\x50\0\0\0"
    east = b"\x03\0\x02\0\x02\0\0\0E\0\0\0", b"\x04\0\x05\0\x01\0\0\0\x50\0\0\0"
    gps = b"\x04\0" + entry[0] + entry[1] + east[0] + east[1] + b"\0\0\0\0" + b"\0" * 8
    for exif in (b"Exif\0\0" + directory + gps, b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stream, "JPEG", exif=exif)
        assert own_coordinates(Image.open(stream)) is None
    assert own_coordinates(Image.new("RGB", (8, 8))) is None

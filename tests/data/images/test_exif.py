"""Coordinates of a file are read where they make sense, and are nothing at all where they do not."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from geocbm.data.images.metadata import own_position

LAT_REF, LAT, LNG_REF, LNG = 1, 2, 3, 4


def own_coordinates(image: Image.Image) -> tuple[float, float] | None:
    found = own_position(image)
    return found and found.place


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
        {LAT: (10.0, 61.0, 0.0)},
        {LNG: (20.0, 0.0, 61.0)},
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


def written_with(values: dict, kind: str = "JPEG") -> Image.Image:
    """A picture with a position in rationals; None stands for 0/0."""
    from PIL.TiffImagePlugin import IFDRational

    entries = {
        key: tuple(IFDRational(0, 0) if part is None else IFDRational(*part) for part in value)
        if isinstance(value, list)
        else value
        for key, value in values.items()
    }
    return reopened(entries, kind)


@pytest.mark.parametrize(
    ("lat", "expected", "remark"),
    [
        ([(52, 1), (30, 1), None], 52.5, "its own coordinates are known to the minute only"),
        ([(52, 1), (3050, 100), None], 52 + 30.5 / 60, None),  # a part of a minute says more than the seconds would
        ([(52, 1), None, None], 52.0, "its own coordinates are known to the degree only"),
        ([(52, 1), None, (7, 1)], 52.0, "its own coordinates are known to the degree only"),
        ([(52, 1), (30, 1)], 52.5, None),
        ([(5251234, 100000)], 52.51234, None),
        ([(52, 1), (60, 1), (0, 1)], 53.0, None),  # rounded up by the writer
    ],
)
def test_a_position_is_kept_as_far_as_it_is_known(lat, expected, remark):
    entries = {LAT_REF: "N", LAT: lat, LNG_REF: "E", LNG: [(13, 1), (15, 1), (36, 1)]}
    found = own_position(written_with(entries))
    assert found.place == pytest.approx((expected, 13.26), abs=1e-6)
    assert found.remarks == (() if remark is None else (remark,))


def test_no_coordinate_is_minus_zero():
    entries = {LAT_REF: "S", LAT: [(0, 1), (0, 1), (0, 1)], LNG_REF: "W", LNG: [(0, 1), (0, 1), (0, 1)]}
    found = own_position(written_with(entries))
    assert [str(part) for part in found.place] == ["0.0", "0.0"]
    assert found.remarks == ("its own coordinates are 0, 0, which usually stand for no position at all",)
    (remark,) = own_position(written_with(entries | {LNG: [(7, 1), (0, 1), (0, 1)], 9: "V"})).remarks
    assert "no fix" in remark


def test_a_damaged_position_is_said_to_be_one():
    entries = {LAT_REF: "N", LAT: [(91, 1), (0, 1), (0, 1)], LNG_REF: "E", LNG: [(13, 1), (0, 1), (0, 1)]}
    found = own_position(written_with(entries))
    assert found.place is None and "damaged" in found.remarks[0]
    nothing = {LAT_REF: "N", LAT: [None, None, None], LNG_REF: "E", LNG: [None, None, None]}
    assert own_position(written_with(nothing)) is None  # a camera without a fix: there is no position to speak of


XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
xmlns:exif="http://ns.adobe.com/exif/1.0/" {attributes}>{elements}</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def with_xmp(lat: str, lng: str, kind: str = "JPEG", as_elements: bool = False, before: str = "") -> Image.Image:
    if as_elements:
        text = XMP.format(
            attributes="",
            elements=f"<exif:GPSLatitude>{lat}</exif:GPSLatitude><exif:GPSLongitude>{lng}</exif:GPSLongitude>",
        )
    else:
        text = XMP.format(attributes=f'exif:GPSLatitude="{lat}" exif:GPSLongitude="{lng}"', elements="")
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind, xmp=(before + text).encode())
    return Image.open(stream)


@pytest.mark.parametrize("as_elements", [True, False])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_position_that_stands_in_xmp_only_is_found(kind, as_elements):
    assert own_coordinates(with_xmp("52,30.5N", "13,15,36W", kind, as_elements)) == pytest.approx(
        (52 + 30.5 / 60, -13.26)
    )


@pytest.mark.parametrize(
    ("lat", "lng", "expected"),
    [
        ("0,0.0S", "0,0.0W", (0.0, 0.0)),
        ("33,51.5s", "151,12.6e", (-33.858333, 151.21)),
        ("-33.5", "151.25", (-33.5, 151.25)),
        ("91,0N", "13,0E", None),
        ("52,61N", "13,0E", None),
        ("north", "13,0E", None),
        ("52,30.5N", "", None),
    ],
)
def test_forms_of_a_position_in_xmp(lat, lng, expected):
    found = own_coordinates(with_xmp(lat, lng))
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_exif_is_asked_before_xmp_and_xml_of_strangers_declares_nothing():
    assert own_coordinates(with_xmp("1,0N", "2,0E")) == (1.0, 2.0)
    bomb = '<!DOCTYPE x [<!ENTITY a "1,0N">]>'
    image = with_xmp("1,0N", "2,0E")
    image.info["xmp"] = image.info["xmp"].replace(b"<x:xmpmeta", bomb.encode() + b"<x:xmpmeta")
    assert own_position(image) is None
    image.info["xmp"] = b"<x" + b" " * (1 << 21)
    assert own_position(image) is None
    both = with_xmp("1,0N", "2,0E")
    both.getexif().get_ifd(0x8825).update({LAT_REF: "N", LAT: (10.0,), LNG_REF: "E", LNG: (20.0,)})
    assert own_coordinates(both) == (10.0, 20.0)

"""Every kind of file is either read, with a word on how, or refused with one sentence."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from camera_files import HEIC, HEIC_TEN_BITS, dng
from PIL import Image, TiffImagePlugin

from geocbm.data.images import photographs
from geocbm.data.images.metadata import own_position
from geocbm.data.images.photographs import ending_of, read_photograph
from geocbm.errors import MissingInputError, UserError, printable

RED = Image.new("RGB", (64, 48), (200, 30, 30))


def written(kind: str = "JPEG", image: Image.Image = RED, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_plain_picture_has_nothing_to_be_said():
    photo = read_photograph(written("PNG"))
    assert photo.picture.mode == "RGB" and photo.picture.getpixel((5, 5)) == (200, 30, 30)
    assert (photo.notes, photo.own_place) == ((), None)


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        *((written(kind), f".{kind.lower()}") for kind in ("PNG", "WEBP", "GIF", "BMP", "AVIF")),
        *(
            (written("JPEG"), ".jpg"),
            (written("TIFF"), ".tif"),
            (written("JPEG2000"), ".jp2"),
            (written("PPM"), ".ppm"),
        ),
        *((HEIC, ".heic"), (dng(), ".dng"), (b"RIFF, but no picture", ".img"), (b"", ".img")),
    ],
)
def test_endings_are_those_of_what_a_file_holds(content, ending):
    assert ending_of(content) == ending


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (written("JPEG", RED.convert("CMYK")), "its colours are CMYK"),
        (written("GIF", save_all=True, append_images=[RED.rotate(90)]), "animated; the first frame was used"),
        (written("WEBP", lossless=True, save_all=True, append_images=[RED.rotate(90)]), "it is animated"),
        (written("PNG", save_all=True, append_images=[RED.rotate(90)]), "it is animated"),
        (written("TIFF", save_all=True, append_images=[RED.rotate(90)]), "several pages; the first was used"),
        (png(2, 1, 16, 2, b"\0" + b"\xc8\x00\x1e\x00\x1e\x00" * 2), "it has 16 bits per channel"),
    ],
)
def test_odd_kinds_are_read_and_it_is_said_how(content, words):
    photo = read_photograph(content)
    (note,) = photo.notes
    assert words in note
    # A palette of 256 colours holds this red only roughly.
    np.testing.assert_allclose(photo.picture.getpixel((1, 0)), (200, 30, 30), atol=22)


def test_sixteen_bits_of_grey_and_transparency():
    deep = written("PNG", Image.fromarray(np.full((9, 9), 257 * 51, dtype=np.uint16)))
    photo = read_photograph(deep)
    assert photo.picture.getpixel((0, 0)) == (51, 51, 51) and "16 bits" in photo.notes[0]
    photo = read_photograph(written("PNG", Image.new("RGBA", (4, 4), (9, 9, 9, 0))))
    assert photo.picture.getpixel((0, 0)) == (255, 255, 255)
    assert photo.notes == ("it has transparent parts, which were taken as white",)
    assert read_photograph(written("PNG", RED.convert("RGBA"))).notes == ()  # a channel that hides nothing
    assert read_photograph(written("PNG", RED.convert("P"))).notes == ()


def test_a_phone_that_stores_previews_beside_the_picture_made_no_animation():
    assert read_photograph(written("MPO", save_all=True, append_images=[RED])).notes == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_kept_when_the_picture_is_reduced(kind, orientation):
    picture = Image.new("RGB", (640, 480), (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, 320, 240))  # red corner: upper left of the file
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = written(kind, picture, exif=exif)
    whole, small = (read_photograph(content, least_side=side).picture for side in (480, 100))
    sizes = {"JPEG": ((640, 480), (160, 120)), "PNG": ((640, 480), (160, 120))}[kind]
    if orientation > 4:
        sizes = tuple((height, width) for width, height in sizes)
    assert (whole.size, small.size) == sizes
    corner = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}[orientation]
    for image in (whole, small):
        place = tuple(round((0.25 + 0.5 * side) * length) for side, length in zip(corner, image.size, strict=True))
        assert image.getpixel(place)[0] > 200 > 50 > image.getpixel(place)[2]


def test_a_reduced_picture_is_the_mean_of_what_it_replaces():
    generator = np.random.default_rng(0)
    values = generator.integers(0, 255, (400, 600, 3), dtype=np.uint8)
    photo = read_photograph(written("PNG", Image.fromarray(values)), least_side=100)
    expected = values.reshape(100, 4, 150, 4, 3).mean((1, 3))
    np.testing.assert_allclose(np.asarray(photo.picture, dtype=float), expected, atol=0.51)
    jpeg = read_photograph(written("JPEG", Image.fromarray(values), quality=100, subsampling=0), least_side=100)
    np.testing.assert_allclose(np.asarray(jpeg.picture, dtype=float), expected, atol=6)


def test_transparency_is_averaged_in_strips_as_in_one_piece(monkeypatch):
    monkeypatch.setattr(photographs, "_STRIP", 10)
    pixels = np.random.default_rng(0).integers(0, 255, (101, 67, 4), dtype=np.uint8)
    for image in (Image.fromarray(pixels, "RGBA"), Image.fromarray(pixels[..., 2:], "LA")):
        found = photographs._reduced(image, least_side=16)
        assert found.mode == image.mode and np.array_equal(np.asarray(found), np.asarray(image.reduce(4)))


def test_a_hundred_megapixels_are_read_small_and_the_limit_of_pillow_stays():
    before = Image.MAX_IMAGE_PIXELS
    content = written("JPEG", Image.new("L", (12_000, 8_500), 99), quality=30)
    photo = read_photograph(content)
    assert photo.picture.size == (3000, 2125) and photo.picture.getpixel((7, 7)) == pytest.approx((99, 99, 99), abs=2)
    assert photo.notes == ("it has 102 megapixels and was read as 3000 x 2125",)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"^X is empty \(0 bytes\); fetch it again$"),
        (b"hello", "^X is no picture, or its beginning is damaged; give JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "^X is no picture"),
        (written()[:25], "^X is cut off"),
        (written()[:-150], "^X is cut off; fetch it again$"),
        (written("PNG", RED.resize((300, 200)).rotate(3))[:-200], "^X is cut off"),
        (written("WEBP")[:40], "^X is damaged"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"0" * 99, "^X is a HEIF picture .* save it as JPEG$"),
        # An item whose type is no text: libheif's binding ends the whole process over it.
        (HEIC.replace(b"Exif\0\0\0\0\xdfiprp", b"\xff\xff\xff\xff\0\0\0\0\xdfiprp"), "^X is a HEIF"),
        (HEIC[:300], "^X is a HEIF picture .* save it as JPEG$"),
        (dng()[:-500], "^X is cut off; fetch it again$"),
        (b"FUJIFILMCCD-RAW 0201FF383501" + b"0" * 900, "^X is a camera's raw file .* export it as JPEG$"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom" + b"0" * 300, "^X is a camera's raw file .* export it as JPEG$"),
        # A sensor that LibRaw cannot read (a compression of nobody): its preview is not answered in its place.
        (dng().replace(b"\x03\x01\x03\0\x01\0\0\0\x01\0", b"\x03\x01\x03\0\x01\0\0\0\x99\x99"), "export it as JPEG$"),
        (png(30_000, 30_000, 8, 2, b""), "^X has 900 megapixels, at most 200 are read; give a smaller copy$"),
        (written("PNG", Image.new("L", (1, 5000))), "^X is 1 x 5000 pixels, too narrow"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(content, words):
    with pytest.raises(UserError, match=words) as caught:
        read_photograph(content, "X")
    assert str(caught.value).count("\n") == 0


def test_a_file_decoded_in_parts_may_be_larger(monkeypatch):
    monkeypatch.setattr(photographs, "MOST_PIXELS", 4000)
    monkeypatch.setattr(photographs, "MOST_WHOLE_PIXELS", 3000)
    assert read_photograph(written("JPEG")).picture.size == (64, 48)  # 3072 pixels
    for content in (written("PNG"), written("JPEG", progressive=True)):
        with pytest.raises(UserError, match="at most 0 are read"):
            read_photograph(content)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(MissingInputError, match=r"gone\.jpg' does not exist; check the name"):
        read_photograph(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match="is no file; give a picture, or a folder of pictures"):
        read_photograph(tmp_path)
    for name in ("a\0b.jpg", "x" * 5000):
        with pytest.raises(UserError, match=r"check the name"):
            read_photograph(name)
    with pytest.raises(UserError, match=r"'.*a\?\[31mb\.jpg' does not exist"):
        read_photograph(tmp_path / "a\x1b[31mb.jpg")
    assert printable("tab\there") == "tab?here"


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UserError, match="is no file"):
        read_photograph(tmp_path / "pipe.jpg")


def test_coordinates_of_the_file_come_along():
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (10.0, 30.0, 0.0), 3: "W", 4: (20.0, 0.0, 0.0)}
    assert read_photograph(written(exif=exif)).own_place == (10.5, -20.0)
    opened = Image.open(io.BytesIO(written(exif=exif)))
    assert read_photograph(opened).own_place == (10.5, -20.0)


def test_a_heic_is_turned_once_and_its_position_comes_along():
    photo = read_photograph(HEIC)
    assert photo.picture.size == (48, 64) and photo.own_place == (10.5, -20.0) and photo.notes == ()
    # Red moves from the upper left to the upper right.
    assert photo.picture.getpixel((42, 5))[0] > 200 > 50 > photo.picture.getpixel((5, 5))[0]
    assert photo.picture.getpixel((42, 58))[0] < 50 and photo.picture.getpixel((5, 5))[2] > 180
    deep = read_photograph(HEIC_TEN_BITS)
    assert deep.picture.getpixel((9, 9)) == (100, 100, 100)
    assert deep.notes == ("it has 10 bits per channel; they were reduced to 8",)


@pytest.mark.parametrize("brand", [b"mif1", b"msf1", b"miaf"])
def test_an_avif_may_call_itself_by_another_brand(brand):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = bytearray(written("AVIF", Image.new("RGB", (64, 48), (200, 30, 30)), exif=exif))
    assert content[8:12] == b"avif"
    content[8:12] = brand
    photo = read_photograph(bytes(content))
    assert photo.picture.size == (48, 64)  # turned, and once
    np.testing.assert_allclose(photo.picture.getpixel((9, 9)), (200, 30, 30), atol=12)


@pytest.mark.parametrize("version", [True, False])
def test_a_raw_file_is_answered_from_its_sensor(version):
    content = dng(version=version)
    with Image.open(io.BytesIO(content)) as preview:  # what other readers find in it
        assert preview.width * preview.height == 64 * 48 and preview.convert("RGB").getpixel((5, 5))[1] > 150
    photo = read_photograph(content)
    assert photo.picture.size == (48, 64)  # half of 128 x 96, after a quarter turn to the right
    assert photo.own_place == (-33.5, 151.0)
    assert any("camera's raw file" in note for note in photo.notes)
    red, blue = photo.picture.getpixel((42, 5)), photo.picture.getpixel((5, 58))
    assert red[0] > 200 > 60 > red[1] and blue[2] > 200 > 60 > blue[0]
    assert read_photograph(dng(orientation=1)).picture.size == (64, 48)


def test_a_tiff_whose_first_page_is_a_preview_is_read_from_the_next():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    picture = Image.new("RGB", (200, 100), (0, 0, 250))
    content = written(
        "TIFF", Image.new("RGB", (20, 10), (250, 0, 0)), tiffinfo=tags, save_all=True, append_images=[picture]
    )
    entry = struct.pack("<HHI", 254, 4, 1)
    before, _, after = content.rpartition(entry)  # of the second page
    photo = read_photograph(before + entry + b"\0" + after[1:])
    assert photo.picture.size == (200, 100) and photo.picture.getpixel((3, 3)) == (0, 0, 250)
    assert photo.notes == ("its first page is a preview; page 2 was used",)


def gps_directory(at: int = 8) -> bytes:
    """A TIFF of one directory of GPS entries: 10 degrees 30 minutes S, 20 E."""

    def rationals(*values: int) -> bytes:
        return b"".join(struct.pack("<II", value, 1) for value in values)

    tail = at + 2 + 4 * 12 + 4
    entries = [
        struct.pack("<HHI4s", 1, 2, 2, b"S"), struct.pack("<HHII", 2, 5, 3, tail),
        struct.pack("<HHI4s", 3, 2, 2, b"E"), struct.pack("<HHII", 4, 5, 3, tail + 24),
    ]  # fmt: skip
    return struct.pack("<H", 4) + b"".join(entries) + b"\0\0\0\0" + rationals(10, 30, 0) + rationals(20, 0, 0)


@pytest.mark.parametrize("kind", ["CR3", "RAF", "RW2", "ORF", "DNG"])
def test_positions_of_raw_files_that_are_no_tiff(kind):
    """Only where the position stands differs between makers; LibRaw reads the pixels of all."""
    from geocbm.data.images.containers import copy_metadata

    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "S", 2: (10.0, 30.0, 0.0), 3: "E", 4: (20.0, 0.0, 0.0)}
    tiff = exif.tobytes().removeprefix(b"Exif\0\0")
    little = tiff[:2] == b"II"
    if kind == "CR3":
        inner = b"II*\0\x08\0\0\0" + gps_directory()
        content = b"\0\0\0\x18ftypcrx \0\0\0\0crx isom" + struct.pack(">I", 8 + len(inner)) + b"CMT4" + inner
    elif kind == "RAF":
        preview = written("JPEG", exif=exif)
        content = b"FUJIFILMCCD-RAW ".ljust(84, b"0") + struct.pack(">II", 160, len(preview)) + b"0" * 68 + preview
    else:
        number = {"RW2": b"U\0", "ORF": b"RO"}.get(kind, tiff[2:4]) if little else tiff[2:4]
        content = tiff[:2] + number + tiff[4:]
    picture = Image.new("RGB", (8, 8))
    copy_metadata(io.BytesIO(content), picture)
    assert own_position(picture).place == pytest.approx((-10.5, 20.0))
    assert picture.getexif().get(0x0112) is None  # LibRaw turns the pixels itself


def test_a_tiff_whose_pixels_look_like_a_cameras_mark_is_a_tiff():
    picture = Image.new("L", (16, 16), ord("I"))
    plain = written("TIFF", picture)
    strip = struct.pack("<HHII", 273, 4, 1, 8)  # pixels at byte 8, before the directory
    width, height = (struct.pack("<HHII", tag, 4, 1, 16) for tag in (256, 257))
    others = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in ((258, 8), (259, 1), (262, 1), (277, 1))]
    rows, count = struct.pack("<HHII", 278, 4, 1, 16), struct.pack("<HHII", 279, 4, 1, 256)
    directory = struct.pack("<H", 9) + b"".join(sorted([width, height, *others, strip, rows, count])) + b"\0\0\0\0"
    for first in (b"IIII", b"CR"):
        content = b"II*\0" + struct.pack("<I", 8 + 256) + first.ljust(256, b"I") + directory
        assert read_photograph(content).picture.size == (16, 16)
    assert read_photograph(plain).picture.getpixel((3, 3)) == (73, 73, 73)

"""Picture files of known pixels: every kind that Pillow writes, whole and damaged, and what must be seen in them."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from tests.camera_files import HEIC, HEIC_TEN_BITS, dng

READ = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "MPO")
LOSSY = {"JPEG": 14, "MPO": 14, "WEBP": 14, "AVIF": 14, "GIF": 40}  # mean difference in levels that is allowed
ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "tif", "bmp", "avif", "jp2", "ppm", "heic", "dng", "JPG", "mpo")
PARTS = (
    "is cut off",
    "is damaged",
    "is no picture",
    "is empty",
    "too narrow",
    "megapixels",
    "is a HEIF",
    "is a camera's",
)


@dataclass
class Case:
    """A file and what must come of it: its pixels, one of some sentences, or either."""

    content: bytes | Callable[[Path], None]
    right: np.ndarray | None = None  # (H, W, 3) levels, as a reader must see it
    off: float = 1.0  # mean difference that is allowed
    said: tuple[str, ...] | None = None  # parts of sentences of which a refusal must hold one; None: never refused
    noted: str = ""  # part of a note
    place: tuple[float, float] | None = None
    any_pixels: bool = False  # damage that no checksum can tell: another picture is as good as a refusal
    suffix: str = ""
    size: tuple[int, int] | None = None  # of what is read, where the pixels are not known


def values(rng: random.Random, channels: int = 3, smooth: bool = True) -> np.ndarray:
    """A picture `(H, W, channels)` of soft colours."""
    height, width = rng.randint(16, 70), rng.randint(16, 70)
    y, x = np.mgrid[0:height, 0:width]
    of = [rng.uniform(0, 1) * x / width + rng.uniform(0, 1) * y / height for _ in range(channels)]
    return np.stack([(each * rng.uniform(60, 127)).clip(0, 255) for each in of], -1).astype(np.uint8)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(float) / 255
    return colour * share + 255 * (1 - share)


def of_mode(mode: str, rng: random.Random) -> tuple[Image.Image, np.ndarray]:
    """A picture of a mode of Pillow, and by hand what it shows."""
    grey, colour = values(rng, 1)[..., 0], values(rng)
    alpha = np.resize(values(rng, 1)[..., 0], grey.shape)
    if mode == "1":
        return Image.fromarray(grey > 60), _same(np.where(grey > 60, 255, 0))
    if mode == "L":
        return Image.fromarray(grey), _same(grey)
    if mode == "LA":
        return Image.fromarray(np.stack([grey, alpha], -1), "LA"), over_white(_same(grey), alpha)
    if mode == "P":
        palette = np.frombuffer(rng.randbytes(768), np.uint8).reshape(256, 3)
        image = Image.fromarray(grey, "P")
        image.putpalette(palette.tobytes())
        return image, palette[grey].astype(float)
    if mode == "RGBA":
        alpha = np.resize(values(rng, 1)[..., 0], colour.shape[:2])
        return Image.fromarray(np.concatenate([colour, alpha[..., None]], -1), "RGBA"), over_white(colour, alpha)
    if mode == "CMYK":
        four = values(rng, 4)
        return Image.fromarray(four, "CMYK"), (255.0 - four[..., :3]) * (255.0 - four[..., 3:]) / 255
    if mode == "YCbCr":
        image = Image.fromarray(colour).convert("YCbCr")
        return image, np.asarray(image.convert("RGB"), dtype=float)
    if mode == "I;16":
        deep = grey.astype(np.uint16) * 257 + 90
        return Image.fromarray(deep), _same(np.rint(deep / 257.0))
    if mode in ("I", "F"):
        scaled = grey.astype(np.int32) * 257 if mode == "I" else (grey / 255.0).astype(np.float32)
        return Image.fromarray(scaled), _same(grey)
    return Image.fromarray(colour), colour.astype(float)


def _same(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey, dtype=float)[..., None], 3, -1)


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    if kind in ("JPEG", "MPO", "WEBP", "AVIF"):
        options = {"quality": 95} | options
    image.save(stream, kind, **options)
    return stream.getvalue()


def _plain(kinds: tuple[str, ...], rng: random.Random, **options: Any) -> tuple[str, bytes, np.ndarray]:
    """A file of one of these kinds with 8-bit colours; its pixels."""
    kind = rng.choice(kinds)
    image, right = of_mode("RGB", rng)
    return kind, written(image, kind, **options), right


def every_kind(rng: random.Random) -> Case:
    """A kind of file in a mode; some that Pillow would read are not among those that are read here."""
    while True:
        kind, mode = rng.choice(sorted(Image.SAVE)), rng.choice(MODES)
        image, right = of_mode(mode, rng)
        if mode in ("I", "I;16", "F") and kind not in ("PNG", "TIFF", "PPM", "JPEG2000") and kind in READ:
            continue  # Pillow would write it in 8 bits, cut off
        if mode == "RGBA" and kind in ("BMP", "DIB"):
            continue  # nor does it note that the fourth channel is transparency
        try:
            content = written(image, kind)
        except Exception:  # Pillow does not write this mode
            continue
        if kind in READ:
            return Case(content, right, LOSSY.get(kind, 1.0), suffix=rng.choice(ENDINGS))
        return Case(content, said=("is no picture",), suffix=rng.choice(ENDINGS))


def turned(rng: random.Random) -> Case:
    """EXIF orientation, undone by hand."""
    orientation = rng.randint(1, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    kind, content, right = _plain(("JPEG", "PNG", "TIFF", "WEBP", "AVIF"), rng, exif=exif)
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }
    return Case(content, turns[orientation](right), LOSSY.get(kind, 1.0))


def animated(rng: random.Random) -> Case:
    kind = rng.choice(["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
    image, right = of_mode("RGB", rng)
    others = [image.rotate(90).resize(image.size) for _ in range(rng.randint(1, 5))]
    said = "the first was used" if kind == "TIFF" else "the first frame was used"
    content = written(image, kind, save_all=True, append_images=others)
    return Case(content, right, LOSSY.get(kind, 1.0), noted=said)


def cut(rng: random.Random) -> Case:
    """The beginning of a file: the whole picture, or a sentence."""
    kind, content, right = _plain(READ, rng)
    at = rng.choice([rng.randint(1, len(content) - 1), len(content) - rng.randint(1, 9), rng.randint(1, 40)])
    return Case(content[:at], right, LOSSY.get(kind, 1.0), said=PARTS)


def flipped(rng: random.Random) -> Case:
    """Some bytes changed: a sentence, or another picture, which no reader can tell."""
    _, content, right = _plain(READ, rng)
    if rng.random() < 0.25:
        content = rng.choice([HEIC, HEIC_TEN_BITS, dng()])
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 9, 60])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return Case(bytes(changed), right, said=PARTS, any_pixels=True)


def behind(rng: random.Random) -> Case:
    """Something behind the end of a file."""
    kind, content, right = _plain(("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO"), rng)
    more = rng.choice([b"<script>alert(1)</script>", rng.randbytes(900), content, b"PK\x03\x04"])
    return Case(content + more, right, LOSSY.get(kind, 1.0))


def foreign(rng: random.Random) -> Case:
    """What is no picture, or one whose reader would start a program."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n%%EOF\n"
    dos = b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(eps)) + bytes(20) + eps
    kinds = [eps, dos, b"%PDF-1.7\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a", b"\xff\xd8\xff", b"BM"]
    kinds += [
        b"\x1f\x8b\x08" + rng.randbytes(50),
        rng.randbytes(900),
        b"\0" * 900,
        b"P6\n-5 5\n255\n",
        b"RIFF\0\0\0\0WEBP",
    ]
    kinds += [b"P6\n99999999 99999999\n255\n", b"II*\0\x08\0\0\0\0\0\0\0\0\0", b"II*\0\x08\0\0\0\xff\xff" + b"\1" * 99]
    kinds += [
        b"\x89PNG\r\n\x1a\n",
        b"\0\0\0\x20ftypavif",
        b"\0\0\0\x0cjP  \r\n\x87\n",
        b"push graphic-context\nurl(|id)\n",
    ]
    return Case(rng.choice(kinds), said=PARTS, suffix=rng.choice(ENDINGS))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, more: bytes = b"") -> bytes:
    """A PNG written by hand."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packed = zlib.compress(rows, 1)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + more + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep(rng: random.Random) -> Case:
    """Sixteen bits of each colour, with and without transparency."""
    height, width, channels = rng.randint(8, 40), rng.randint(8, 40), rng.choice([1, 2, 3, 4])
    array = np.frombuffer(rng.randbytes(2 * height * width * channels), ">u2").reshape(height, width, channels)
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    content = png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows)
    levels = array.astype(float) / 257
    colour = levels[..., : 3 if channels > 2 else 1] * np.ones(3)
    right = over_white(colour, levels[..., -1]) if channels in (2, 4) else colour
    return Case(content, right, 1.0, noted="16 bits per channel")


def keyed(rng: random.Random) -> Case:
    """A colour, or entries of a palette, that stand for nothing: white."""
    grey = values(rng, 1)[..., 0] // 8
    palette = np.frombuffer(rng.randbytes(768), np.uint8).reshape(256, 3)
    if rng.random() < 0.4:
        gone = int(grey[0, 0])
        rows = b"".join(b"\0" + row.tobytes() for row in grey)
        content = png(grey.shape[1], grey.shape[0], 8, 0, rows, _chunk(b"tRNS", struct.pack(">H", gone)))
        right = np.where((grey == gone)[..., None], 255.0, _same(grey))
        return Case(content, right, 1.0, noted="transparent parts")
    image = Image.fromarray(grey, "P")
    image.putpalette(palette.tobytes())
    if rng.random() < 0.5:
        alpha = np.frombuffer(rng.randbytes(256), np.uint8)
        return Case(written(image, "PNG", transparency=alpha.tobytes()), over_white(palette[grey], alpha[grey]), 1.0)
    gone = int(grey[0, 0])
    right = np.where((grey == gone)[..., None], 255.0, palette[grey].astype(float))
    return Case(written(image, rng.choice(["GIF", "PNG"]), transparency=gone), right, 1.0, noted="transparent parts")


def located(rng: random.Random) -> Case:
    """A position of its own, sound or odd."""
    exif = Image.Exif()
    exif[0x010F] = "maker"  # without an entry of its own Pillow writes none into PNG
    degrees = [rng.randint(0, 89), rng.randint(0, 179)]
    minutes, seconds = [rng.randint(0, 59) for _ in "ab"], [rng.randint(1, 5999) for _ in "ab"]
    letters = rng.choice("NS"), rng.choice("EW")
    sides = [(-1) ** (letter in "SW") for letter in letters]
    angles = [[(d, 1), (m, 1), (s, 100)] for d, m, s in zip(degrees, minutes, seconds, strict=True)]
    place = [side * (d + m / 60 + s / 360_000) for side, d, m, s in zip(sides, degrees, minutes, seconds, strict=True)]
    odd: dict[str, Any] = {
        "": {},
        "no letter": {1: ""},
        "another letter": {3: "Q"},
        "too far north": {2: [(91, 1), (0, 1), (0, 1)]},
        "too far east": {4: [(180, 1), (0, 1), (1, 1)]},
        "unknown": {2: [(0, 0)] * 3, 4: [(0, 0)] * 3},
        "61 minutes": {2: [(10, 1), (61, 1), (0, 1)]},
        "four parts": {4: [(1, 1)] * 4},
        "text": {1: "<script>alert(1)</script>"},
        "endless": {2: [(4_294_967_295, 1)] * 3},
    }
    kind = rng.choice(list(odd))
    entries = {1: letters[0], 2: angles[0], 3: letters[1], 4: angles[1]} | odd[kind]
    exif.get_ifd(0x8825).update(
        {
            key: tuple(IFDRational(*part) for part in each) if isinstance(each, list) else each
            for key, each in entries.items()
        }
    )
    name, content, right = _plain(("JPEG", "PNG", "WEBP"), rng, exif=exif)
    return Case(content, right, LOSSY.get(name, 1.0), place=None if kind else (place[0], place[1]))


HOSTILE = ("<script>alert(1)</script>", "\x1b[31mred\x1b[0m", "{{7*7}}", "%s%n", "\u202egnp", "a" * 30_000, "\0\1\2")


def lettered(rng: random.Random) -> Case:
    """Texts of a stranger in every place that a file has for them: pixels and notes stay as they are."""
    exif = Image.Exif()
    for tag in rng.sample([0x010E, 0x010F, 0x0110, 0x0131, 0x013B, 0x8298], 3):
        exif[tag] = rng.choice(HOSTILE)
    kind = rng.choice(["JPEG", "PNG", "WEBP"])
    options: dict[str, Any] = {"comment": rng.choice(HOSTILE).encode()} if kind == "JPEG" else {}
    options["xmp"] = f"<x>{rng.choice(HOSTILE)}</x>".encode()[:60_000] if kind != "PNG" else None
    if kind == "PNG":
        del options["xmp"]
        options["pnginfo"] = info = _png_texts(rng.choice(HOSTILE))
        assert info is not None
    if rng.random() < 0.2:  # a profile that is none
        options["icc_profile"] = rng.randbytes(900)
    image, right = of_mode("RGB", rng)
    return Case(written(image, kind, exif=exif, **options), right, LOSSY.get(kind, 1.0))


def _png_texts(text: str) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", text.replace("\0", ""), zip=True)
    info.add_itxt("XML:com.adobe.xmp", f"<x>{text}</x>".replace("\0", ""))
    return info


def bomb(rng: random.Random) -> Case:
    """A size that no memory holds, or a text that unpacks to one."""
    side = rng.randint(16_000, 2_000_000_000)
    packed = zlib.compress(b"a" * 80_000_000)
    text = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    text += _chunk(b"zTXt", b"Comment\0\0" + packed) + _chunk(b"IDAT", zlib.compress(b"\0" * 72)) + _chunk(b"IEND", b"")
    dark = np.zeros((8, 8, 3))
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    gif = b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;"
    kinds = {
        "png": Case(png(side, side, 8, 2, b""), said=("megapixels", "is damaged", "is no picture")),
        "bmp": Case(bmp, said=("megapixels", "is damaged", "is no picture", "is cut off")),
        "gif": Case(gif, said=("megapixels", "is damaged", "is cut off")),
        "text": Case(text, dark, said=("is damaged",)),
        "ppm": Case(f"P6 {side} {side} 255\n".encode() + b"x" * 99, said=("megapixels", "is damaged")),
    }
    return rng.choice(list(kinds.values()))


def narrow(rng: random.Random) -> Case:
    """Pictures of few pixels: all are read but for those that are more than forty times as long as wide."""
    short, factor = rng.randint(1, 9), rng.choice([1, 39, 40, 41, 200])
    size = (short, short * factor) if rng.random() < 0.5 else (short * factor, short)
    right = np.full((size[1], size[0], 3), (200.0, 30.0, 30.0))
    content = written(Image.new("RGB", size, (200, 30, 30)), "PNG")
    return Case(content, right) if factor <= 40 else Case(content, said=("too narrow",))


def odd_places(rng: random.Random) -> Case:
    """What stands where a picture should."""
    _, content, right = _plain(("PNG",), rng)

    def linked(path: Path) -> None:
        target = path.with_name(f"of_{path.name}")
        target.write_bytes(content)
        path.symlink_to(target.name)

    def bound(path: Path) -> None:
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
        finally:
            os.chdir(here)

    def huge(path: Path) -> None:
        with path.open("wb") as stream:
            stream.write(content)
            stream.truncate((1 << 30) + 1)

    kinds: list[tuple[Callable[[Path], None], str]] = [
        (lambda path: path.mkdir(), "folder"),
        (os.mkfifo, "is no file"),
        (bound, "cannot be opened"),
        (lambda path: path.symlink_to("/dev/zero"), "is no file"),
        (lambda path: path.symlink_to(path.name), "cannot be opened"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
        (lambda path: None, "does not exist"),
        (lambda path: path.touch(), "is empty"),
        (huge, "at most 1,024 are read"),
        (linked, ""),
    ]
    write, said = rng.choice(kinds)
    return Case(write, said=(said, "is no file")) if said else Case(write, right)


def camera(rng: random.Random) -> Case:
    """Pictures of phones and raw files of cameras: whole, or their beginnings."""
    content, size = rng.choice(
        [(HEIC, (48, 64)), (HEIC_TEN_BITS, (64, 48)), (dng(), (48, 64)), (dng(version=False), (48, 64))]
    )
    if rng.random() < 0.4:
        return Case(content, size=size, said=None, any_pixels=True)
    return Case(content[: rng.randint(1, len(content) - 1)], size=size, said=PARTS, any_pixels=True)


KINDS: dict[str, Callable[[random.Random], Case]] = {
    "every kind of file": every_kind,
    "orientation": turned,
    "animated": animated,
    "cut off": cut,
    "changed bytes": flipped,
    "something behind its end": behind,
    "no picture": foreign,
    "sixteen bits": deep,
    "transparent colours": keyed,
    "a position of its own": located,
    "texts of a stranger": lettered,
    "too large": bomb,
    "narrow": narrow,
    "no file": odd_places,
    "of a camera": camera,
}

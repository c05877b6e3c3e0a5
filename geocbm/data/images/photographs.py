"""Photographs that people bring along: any common kind of file, read in bounded memory, with a word on how.

A file comes from a stranger's camera: it may be huge, animated, cut off or no picture at all. Each of these is either
read, with a note that says how, or refused with one sentence.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from geocbm.data.images import containers
from geocbm.data.images.bounds import open_regular, room
from geocbm.data.images.containers import AVIF_BRANDS, HEIF_BRANDS, RAW_ENDINGS, brands
from geocbm.data.images.metadata import OwnPosition, Sphere, described_sphere, own_position
from geocbm.errors import MissingInputError, UserError, printable

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM")
"""What Pillow may take a file for; others, such as EPS, would start foreign programs."""
ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".jpe", ".jfif", ".mpo", ".apng"),
    *(".dib", ".jp2", ".j2k", ".jpx", ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm", *RAW_ENDINGS),
)
"""Files of a folder that are taken for photographs; what a file is, its content says."""
HUGE_PIXELS = 40_000_000  # above it a note says that the picture was reduced while it was read
MOST_PIXELS = 500_000_000  # where the file can be reduced while it is decoded (baseline JPEG)
MOST_WHOLE_PIXELS = 200_000_000  # where all pixels must be in memory once
REDUCED_SIDE = 1500  # pixels that a reduced picture keeps at least along its shorter side
_MOST_KEPT = 16  # times that side's square are the pixels that a narrow picture keeps at most
LONGEST_SHAPE = 40  # longer side by shorter side that is read at most; preprocessing would blow up a narrower picture

_ORIENTATION, _HEAD, _MOST_PAGES = 0x0112, 512, 64
_IN_ROWS = ("JPEG", "MPO", "PNG", "TIFF", "BMP", "DIB", "PPM")  # decoded without a second copy of all pixels
_BLOCK = 1 << 26  # bytes of memory that Pillow asks for at a time
_STRIP = 1000  # rows
_COSTLY_PIXELS = 64_000_000  # of other kinds, whose decoders hold several copies
_KNOWN = "give JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF, BMP or a camera's raw file"
_limit = threading.Lock()


@dataclass(frozen=True)
class Photograph:
    """A photograph that has been read."""

    picture: Image  # upright 8-bit RGB, reduced where the file is huge
    notes: tuple[str, ...] = ()  # sentences on how it was read, where that is not plain
    own_place: tuple[float, float] | None = None  # its own latitude and longitude, degrees; never used to predict
    sphere: Sphere | None = None  # the part of a sphere that it shows, if the file says that it shows one
    doubts: tuple[str, ...] = ()  # those of the notes that say how far its own place can be trusted


def is_photograph(name: str) -> bool:
    """Whether a file of a folder is taken for a photograph; a Mac writes "._" before names on a foreign disk."""
    return Path(name).suffix.lower() in ENDINGS and not name.startswith("._")


def ending_of(content: bytes) -> str:
    """The usual ending of a picture's file by its content, ".img" of what is no picture."""
    from PIL import Image as pillow

    with suppress(Exception), _no_pixel_limit():  # Pillow raises many kinds for damaged files
        image = _open(BytesIO(content), content[:_HEAD], "the picture")
        formats = {**pillow.EXTENSION, ".heic": "HEIF", ".dng": "RAW"}
        return next(ending for ending in ENDINGS if formats.get(ending) == (image.format if image else "RAW"))
    return ".img"


def read_photograph(source: str | Path | bytes | Image, name: str = "", least_side: int = REDUCED_SIDE) -> Photograph:
    """Read a photograph, reduced by a whole factor where its shorter side has twice `least_side` pixels or more.

    The source is a file, its content, or a picture that is open already; messages call it by its `name`.

    Raises:
        UserError: it cannot be read; one sentence with the name and a remedy. `MissingInputError` where there is none.
    """
    if hasattr(source, "convert"):
        return _convert(source, b"", f"the picture {name}".strip(), least_side)
    if isinstance(source, bytes):
        return _read(BytesIO(source), len(source), name or "the picture", least_side)
    called = name or quoted(source)
    with open_regular(Path(source), called) as (stream, size):
        return _read(stream, size, called, least_side)


def open_picture(path: str | Path, least_side: int = REDUCED_SIDE) -> Image:
    """Read a picture file of a table as upright 8-bit RGB; any kind that `read_photograph` reads.

    It is reduced by a whole factor as long as its shorter side keeps `least_side` pixels.

    Raises:
        UserError: it cannot be read; the message names it. `MissingInputError` where it does not exist.
    """
    called = f"the picture {quoted(path)}"
    try:
        return read_photograph(path, called, least_side).picture
    except MissingInputError:
        raise MissingInputError(f"{called} does not exist; correct image_path in the table") from None
    except UserError as problem:
        reason = str(problem).removeprefix(called).strip()
        raise UserError(f"{called} cannot be read: it {reason}, or reject it") from None


def to_rgb(image: Image) -> Image:
    """Turn a picture upright and convert it to 8-bit RGB.

    The EXIF orientation is applied, transparent areas become white, palettes are resolved, and greyscale of 16 bits or
    in floating point is scaled to 8 bits instead of being cut off at 255.
    """
    import numpy as np
    from PIL import Image as pillow
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        # 16-bit data is recognised by its mode or by its range; anything else is already on the scale of 8 bits.
        if image.mode.startswith("I;16") or values.max(initial=0.0) > 255:
            values = values / 257.0
        elif image.mode == "F" and values.max(initial=0.0) <= 1.0:
            values = values * 255.0
        grey = np.rint(values.clip(0, 255)).astype(np.uint8)
        return pillow.fromarray(grey).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        background = pillow.new("RGBA", image.size, (255, 255, 255, 255))
        return pillow.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB")


def quoted(name: str | Path) -> str:
    """A file's name for people: in quotes, and nothing in it can steer a terminal."""
    return f"'{printable(name)}'"


@contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Lift Pillow's limit, and its warnings of odd entries, while a header is read; our limit and notes follow."""
    from PIL import Image as pillow

    with _limit:
        before, pillow.MAX_IMAGE_PIXELS = pillow.MAX_IMAGE_PIXELS, None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            pillow.MAX_IMAGE_PIXELS = before


def _read(stream: IO[bytes], size: int, name: str, least_side: int) -> Photograph:
    from PIL import UnidentifiedImageError

    head = stream.read(_HEAD)
    stream.seek(0)
    if not size:
        raise UserError(f"{name} is empty (0 bytes); fetch it again")
    try:
        with _no_pixel_limit():
            image = _open(stream, head, name)
        if image is None:
            image = containers.develop(stream, name, MOST_WHOLE_PIXELS)
            with _no_pixel_limit():
                containers.copy_metadata(stream, image)
        with image:
            return _convert(image, head, name, least_side)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} is no picture, or its beginning is damaged; {_KNOWN}") from None
    except MemoryError:
        raise UserError(f"{name} needs more memory than there is; give a smaller copy") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        words = str(error).lower()
        cut = isinstance(error, EOFError) or any(
            word in words for word in ("truncated", "broken", "end of file", "eof")
        )
        reason = "is cut off" if cut else f"is damaged ({type(error).__name__})"
        raise UserError(f"{name} {reason}; fetch it again") from None


def _open(stream: IO[bytes], head: bytes, name: str) -> Any:
    """Open a file with the reader that its content asks for; None for a raw file, which is known to be whole."""
    from PIL import Image as pillow

    if containers.is_raw(stream, head):
        containers.check_whole(stream, name)
        return None
    is_avif = brands(head) & AVIF_BRANDS
    if not is_avif and brands(head) & HEIF_BRANDS:
        return containers.open_heif(stream, name)
    if is_avif and head[8:12] not in AVIF_BRANDS:
        stream = BytesIO(head[:8] + b"avif" + stream.read()[12:])  # Pillow goes by the major brand
    pillow.preinit()
    pillow.core.set_block_size(_BLOCK)  # so large that the C library gives each freed block back to the system at once
    try:
        return pillow.open(stream, formats=[known for known in FORMATS if known in pillow.OPEN])
    except pillow.UnidentifiedImageError:
        pillow.init()  # formats that Pillow has not loaded yet would be unknown names
        stream.seek(0)
        return pillow.open(stream, formats=[known for known in FORMATS if known in pillow.OPEN])


def _convert(image: Any, head: bytes, name: str, least_side: int) -> Photograph:
    """Upright RGB of an open picture, with notes; `head` is how its file begins."""
    # Both stand beside the first page; to tell them, a PNG is decoded to its end.
    described = None if image.format == "PNG" else _described(image)
    notes = _frame_notes(image)
    width, height = image.size
    pixels = width * height
    in_parts = image.format in ("JPEG", "MPO") and not image.info.get("progressive")
    most = MOST_PIXELS if in_parts else MOST_WHOLE_PIXELS
    if image.format not in (*_IN_ROWS, "RAW", None):
        most = min(most, _COSTLY_PIXELS)
    if pixels > most:
        raise UserError(
            f"{name} has {pixels / 1e6:,.0f} megapixels, at most {most / 1e6:,.0f} are read; give a smaller copy"
        )
    if max(width, height) > LONGEST_SHAPE * min(width, height):
        raise UserError(
            f"{name} is {width} x {height} pixels, too narrow to say anything of; cut out the part that matters"
        )
    notes += _colour_notes(image, head)
    factor = _factor(image.size, least_side)
    if factor > 1:
        image.draft(None, (width // factor, height // factor))  # JPEG only; its scales are 1/2, 1/4 and 1/8
    with room(_bytes_to_decode(image, pixels, least_side)):
        own, sphere = described or _described(image)
        image.load()
        picture = to_rgb(_reduced(image, least_side))
        if _has_transparency(image):
            notes.append("it has transparent parts, which were taken as white")
        if head:  # of a file: its pixels go now, whoever still refers to its reader
            image.close()
    if pixels > HUGE_PIXELS:
        notes.append(f"it has {pixels / 1e6:,.0f} megapixels and was read as {picture.width} x {picture.height}")
    if own is None:
        return Photograph(picture, tuple(notes), None, sphere)
    return Photograph(picture, (*notes, *own.remarks), own.place, sphere, own.remarks)


def _described(image: Any) -> tuple[OwnPosition | None, Sphere | None]:
    with _no_pixel_limit():
        return own_position(image), described_sphere(image)


def _factor(size: tuple[int, int], least_side: int) -> int:
    """By how much a picture may be reduced; a narrow one keeps less than its shorter side would allow."""
    kept = _MOST_KEPT * least_side**2
    return max(min(size) // least_side, math.isqrt((size[0] * size[1] - 1) // kept) + 1)


def _bytes_to_decode(image: Any, pixels: int, least_side: int) -> int:
    """Memory that decoding and converting takes at most, of a picture of so many `pixels` that is not loaded yet."""
    if image.format in ("RAW", None):  # decoded already
        return 0
    if image.format not in _IN_ROWS:
        return 24 * pixels
    coefficients = 2 * len(image.getbands()) * pixels if image.info.get("progressive") else 0
    each = 5 if _factor(image.size, least_side) > 1 else 16  # a picture that is not reduced is copied to convert it
    return coefficients + each * image.width * image.height


def _reduced(image: Any, least_side: int) -> Any:
    """The picture by a whole factor, before it is converted, so that no second copy of its full size is made."""
    factor = _factor(image.size, least_side)
    if factor < 2:
        return image
    if image.mode in ("LA", "RGBA"):
        reduced = _reduced_in_strips(image, factor)
    elif image.mode in ("L", "RGB", "RGBX", "CMYK", "YCbCr", "F", "I"):
        reduced = image.reduce(factor)
    else:  # palettes and 16 bits cannot be averaged; every so many pixels one is taken
        reduced = image.resize((image.width // factor, image.height // factor), 0)
    # Orientation and transparency are entries of the file, which a new picture does not inherit in full.
    reduced.info.update(image.info)
    turned = image.getexif().get(_ORIENTATION)
    if turned is not None:
        reduced.getexif()[_ORIENTATION] = turned
    return reduced


def _reduced_in_strips(image: Any, factor: int) -> Any:
    """A reduced picture with transparency, which Pillow would first copy in full to weigh its colours."""
    from PIL import Image as pillow

    height = -(-_STRIP // factor) * factor
    whole = pillow.new(image.mode, (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, height):
        strip = image.crop((0, top, image.width, min(top + height, image.height)))
        whole.paste(strip.reduce(factor), (0, top // factor))
    return whole


def _frame_notes(image: Any) -> list[str]:
    """Choose the frame or page that is the picture, and say so where there are others."""
    first, several = image.tell(), True
    with suppress(Exception):  # a later frame is damaged, the first may be whole
        several = bool(getattr(image, "is_animated", False))  # frames are not counted, there may be millions
        image.seek(first)
    if not several or image.format == "MPO":  # phones store previews as further pictures
        return []
    if image.format == "HEIF":
        return ["it holds several pictures; the main one was used"]
    if image.format != "TIFF":
        return ["it is animated; the first frame was used"]
    if containers.is_preview(image.tag_v2):
        with suppress(EOFError):  # behind the last page
            for page in range(1, _MOST_PAGES):
                image.seek(page)
                if not containers.is_preview(image.tag_v2):
                    return [f"its first page is a preview; page {page + 1} was used"]
        image.seek(first)
    return ["it has several pages; the first was used"]


def _colour_notes(image: Any, head: bytes) -> list[str]:
    if image.format == "RAW":
        return ["it is a camera's raw file; it was developed with the camera's white balance, at half its size"]
    if image.format == "HEIF" and image.info.get("bit_depth", 8) > 8:
        return [f"it has {image.info['bit_depth']} bits per channel; they were reduced to 8"]
    if image.mode in ("CMYK", "LAB"):
        return [f"its colours are {image.mode}; they were converted to RGB without their profile"]
    deep = image.mode.startswith("I") or (head[:8] == b"\x89PNG\r\n\x1a\n" and head[24:25] == b"\x10")
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (8,))
        deep = deep or max(bits if isinstance(bits, tuple) else (bits,)) == 16
    if deep:
        return ["it has 16 bits per channel; they were reduced to 8"]
    return ["it has numbers in floating point; they were reduced to 8 bits"] if image.mode == "F" else []


def _has_transparency(image: Any) -> bool:
    if image.mode in ("LA", "RGBA", "PA"):
        return bool(image.getchannel("A").getextrema()[0] < 255)
    return "transparency" in image.info

"""Files that Pillow does not read: raw files of cameras, developed by LibRaw, and HEIC of phones, opened by libheif.

Both are told by their content. Most raw files (DNG, NEF, CR2, ARW ...) look like TIFF to other readers, whose first
page is a small preview: that preview is never the answer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import IO, Any

from geocbm.data.images.bounds import room
from geocbm.errors import UserError

RAW_ENDINGS = (
    *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raw", ".raf", ".pef"),
    *(".srw", ".3fr", ".fff", ".iiq", ".rwl", ".x3f", ".mrw", ".mef", ".mos", ".erf", ".kdc", ".dcr", ".gpr"),
)
"""Suffixes that cameras give to raw files."""

_MAGIC = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"\0MRM", b"FOVb", b"II\x1a\0\0\0HEAPCCDR")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Tags of TIFF 6.0, TIFF/EP and DNG 1.7.
_SUBFILE, _PHOTOMETRIC, _SUB_IFDS, _XMP, _DNG_VERSION, _ORIENTATION = 254, 262, 330, 700, 50706, 274
_STRIPS, _TILES = (273, 279), (324, 325)  # where they begin, and how many bytes they have
_CFA, _LINEAR_RAW = 32803, 34892
_MOST_DIRECTORIES, _MOST_HEADER, _GPS = 64, 1 << 20, 0x8825
_EXPORT = "export it as JPEG"
AVIF_BRANDS = frozenset((b"avif", b"avis"))  # of files that Pillow reads; brands such as `mif1` say neither
HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1", b"miaf")
)


def is_raw(stream: IO[bytes], head: bytes) -> bool:
    """Whether a file, of which `head` is the beginning, is a camera's raw file; the stream is left at its beginning."""
    if head.startswith(_MAGIC) or head[4:12] == b"ftypcrx ":
        return True
    if not head.startswith(_TIFF):
        return False
    if head[8:12] == b"CR\x02\0" or head[8:16] in (b"IIIITwaR", b"MMMMRawT"):  # Canon; Phase One
        return True
    try:
        pages = list(_directories(stream))
    except Exception:  # damaged entries fail in many ways; whoever opens the file says that it is damaged
        return False
    finally:
        stream.seek(0)
    if any(_DNG_VERSION in page or page.get(_PHOTOMETRIC) in (_CFA, _LINEAR_RAW) for page, _ in pages):
        return True
    # All that other readers would find is a preview; the picture itself is in a form that only LibRaw may know.
    return all(is_preview(page) for page, main in pages if main) and any(not main for _, main in pages)


def is_preview(page: Any) -> bool:
    """Whether the entries of a page of a TIFF call it a reduced copy of another one."""
    kind = page.get(_SUBFILE, 0)
    return isinstance(kind, int) and bool(kind & 1)


def check_whole(stream: IO[bytes], name: str) -> None:
    """Refuse a raw file that ends before its pixels do; LibRaw would fill up the rest."""
    size = stream.seek(0, 2)
    stream.seek(0)
    if not stream.read(4).startswith(_TIFF):
        return
    cut = False
    with suppress(Exception):  # odd entries of a camera's own; LibRaw decides
        for page, _ in _directories(stream):
            for places, lengths in (_STRIPS, _TILES):
                parts = zip(_tuple(page.get(places, ())), _tuple(page.get(lengths, ())), strict=False)
                cut = cut or any(start + count > size for start, count in parts)
    if cut:
        raise UserError(f"{name} is cut off; fetch it again")


def develop(stream: IO[bytes], name: str, most_pixels: int) -> Any:
    """Develop a raw file to an upright RGB picture with the white balance of the camera.

    It has half the size, which takes each colour where the sensor measured it, without interpolation.
    """
    import rawpy
    from PIL import Image as pillow

    stream.seek(0)
    content = stream.read()
    try:
        with rawpy.RawPy() as raw:
            raw.open_buffer(BytesIO(content))
            pixels = raw.sizes.raw_width * raw.sizes.raw_height
            if pixels > most_pixels:
                raise UserError(
                    f"{name} has {pixels / 1e6:,.0f} megapixels, at most {most_pixels / 1e6:,.0f} are read; {_EXPORT}"
                )
            with room(8 * pixels):
                raw.unpack()
                developed = raw.postprocess(half_size=True, use_camera_wb=True, output_bps=8)  # (H, W, 3)
    except rawpy.LibRawIOError:
        raise UserError(f"{name} is cut off; fetch it again") from None
    except rawpy.LibRawUnsufficientMemoryError:
        raise MemoryError from None
    except (rawpy.LibRawError, rawpy.NotSupportedError, ValueError):
        raise UserError(
            f"{name} is a camera's raw file that LibRaw cannot develop, and its preview is no picture; {_EXPORT}"
        ) from None
    picture = pillow.fromarray(developed)
    picture.format = "RAW"
    return picture


def copy_metadata(stream: IO[bytes], picture: Any) -> None:
    """Give a developed picture the EXIF and XMP data of its file, without the orientation that was applied already."""
    from PIL import Image as pillow

    exif = picture.getexif()
    try:
        stream.seek(0)
        content = stream.read()
        if content.startswith(b"FUJIFILMCCD-RAW"):  # the data are those of the preview, whose place stands at byte 84
            start, length = struct.unpack(">II", content[84:92])
            with pillow.open(BytesIO(content[start : start + length]), formats=["JPEG"]) as preview:
                content = preview.info["exif"].removeprefix(b"Exif\0\0")
        if content[4:12] == b"ftypcrx ":
            exif.get_ifd(_GPS).update(_canon_gps(content[:_MOST_HEADER]))
            return
        # Olympus and Panasonic write TIFF with another number behind the byte order.
        number = b"*\0" if content[:2] == b"II" else b"\0*"
        exif.load_from_fp(BytesIO(content[:2] + number + content[4:]))
        packet = exif.get(_XMP)
        if isinstance(packet, bytes):
            picture.info["xmp"] = packet
        exif.get_ifd(_GPS)  # read now, while the file is there
    except Exception:  # files that are no TIFF inside, or damaged entries; the pixels are fine
        return
    finally:
        exif.pop(_ORIENTATION, None)


def _canon_gps(header: bytes) -> dict[int, Any]:
    """GPS entries of a CR3: the first directory of the TIFF in its box CMT4."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    at = header.index(b"CMT4")
    box = header[at + 4 : at - 4 + int.from_bytes(header[at - 4 : at], "big")]
    return dict(_directory_at(BytesIO(box), box[:8], ImageFileDirectory_v2(box[:8]).next))


def _directories(stream: IO[bytes]) -> Iterator[tuple[Any, bool]]:
    """Directories of a TIFF, each with whether it is a page of its own (and no directory below one)."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    stream.seek(0)
    header = stream.read(8)
    if header[2] == 43 or header[3] == 43:  # BigTIFF
        header += stream.read(8)
    seen: set[int] = set()
    following = ImageFileDirectory_v2(header).next
    while following and following not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(following)
        page = _directory_at(stream, header, following)
        following = page.next
        yield page, True
        for place in _tuple(page.get(_SUB_IFDS, ())):
            if place not in seen and len(seen) < _MOST_DIRECTORIES:
                seen.add(place)
                yield _directory_at(stream, header, place), False


def _directory_at(stream: IO[bytes], header: bytes, place: int) -> Any:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2(header)
    stream.seek(place)
    directory.load(stream)
    return directory


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of a file in ISO's base format (ISO/IEC 14496-12, section 4.3); none for others."""
    if head[4:8] != b"ftyp":
        return set()
    listed = head[16 : int.from_bytes(head[:4], "big")]
    return {head[8:12], *(listed[start : start + 4] for start in range(0, len(listed), 4))}


def open_heif(stream: IO[bytes], name: str) -> Any:
    """Open a HEIF file as a picture of Pillow; libheif applies the turns that the container asks for."""
    from pi_heif import HeifImageFile

    content = stream.read()
    stream.seek(0)
    try:
        if _names_are_text(content):
            return HeifImageFile(stream)
    except SyntaxError:  # what Pillow's readers raise when a file is not theirs
        pass
    raise UserError(f"{name} is a HEIF picture that cannot be read, or it is damaged; save it as JPEG")


def _names_are_text(content: bytes) -> bool:
    """Whether types and names of items are UTF-8, as ISO/IEC 14496-12 wants it; pi_heif 1.4 crashes on others."""
    meta = _box(content, b"meta")
    at = meta.find(b"infe")
    while at >= 4:
        length = int.from_bytes(meta[at - 4 : at], "big")
        try:
            meta[at + 12 : at - 4 + length].decode()  # behind version, flags, number and protection
        except UnicodeDecodeError:
            return False
        at = meta.find(b"infe", at + 4)
    return True


def _box(content: bytes, kind: bytes) -> bytes:
    """The first box of a kind among those that are not inside of others; empty where there is none."""
    at = 0
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == kind:
            return content[at : at + length] if length else content[at:]
        if length == 1:
            length = int.from_bytes(content[at + 8 : at + 16], "big")
        if length < 8:
            return b""
        at += length
    return b""

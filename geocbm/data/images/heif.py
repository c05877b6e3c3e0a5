"""HEIC and HEIF, the pictures of phones: told from AVIF by their brands, opened by libheif."""

from __future__ import annotations

from typing import IO, Any

from geocbm.errors import UserError

AVIF_BRANDS = frozenset((b"avif", b"avis"))  # of files that Pillow reads
_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1", b"miaf")
)


def brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of a file in ISO's base format (ISO/IEC 14496-12, section 4.3); none for others."""
    if head[4:8] != b"ftyp":
        return set()
    listed = head[16 : int.from_bytes(head[:4], "big")]
    return {head[8:12], *(listed[start : start + 4] for start in range(0, len(listed), 4))}


def is_heif(head: bytes) -> bool:
    """Whether a file is HEIF without being AVIF; brands such as `mif1` say neither, the compatible ones do."""
    found = brands(head)
    return not found & AVIF_BRANDS and bool(found & _HEIF_BRANDS)


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

"""What stands in the XMP packet of a picture file: a bounded piece of XML from strangers, read without entities."""

from __future__ import annotations

import re
from typing import Any

EXIF = "http://ns.adobe.com/exif/1.0/"
"""Name space of EXIF entries."""
PANORAMA = "http://ns.google.com/photos/1.0/panorama/"
"""Name space of the entries that describe a spherical panorama (Photo Sphere XMP Metadata)."""
MOST_BYTES = 1 << 20
"""Longest packet that is read; a longer one is taken for none."""

_ANGLE = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*(?:,\s*(\d+(?:\.\d+)?))?\s*(?:,\s*(\d+(?:\.\d+)?))?\s*([NSEWnsew]?)\s*")


def properties(image: Any, name_space: str) -> dict[str, str]:
    """Simple properties of one name space in the XMP packet of an open picture.

    Args:
        image: as Pillow has opened it.
        name_space: such as `EXIF`.

    Returns:
        Texts by name, whether they are written as attributes or as elements; none where there is no packet, or where
        it is damaged, too long or declares entities.
    """
    import defusedxml.ElementTree as xml
    from defusedxml import DefusedXmlException

    packet = _packet(image)
    if not packet or len(packet) > MOST_BYTES:
        return {}
    try:
        root = xml.fromstring(packet.strip(b"\0 \r\n\t"), forbid_dtd=True)
    except (xml.ParseError, DefusedXmlException, ValueError, LookupError, RecursionError):
        return {}
    found: dict[str, str] = {}
    prefix = f"{{{name_space}}}"
    for element in root.iter():
        written = [*element.attrib.items(), (element.tag, element.text or "")]
        for name, text in written:
            if isinstance(name, str) and name.startswith(prefix) and text.strip():
                found.setdefault(name.removeprefix(prefix), text.strip())
    return found


def angle(text: str) -> tuple[list[float], str]:
    """Numbers and letter of a GPSCoordinate such as `52,30.5N` or `52,30,30N`, or of decimal degrees.

    Returns:
        Up to three numbers, and the letter in upper case or an empty text; no number where it is none of these.
    """
    match = _ANGLE.fullmatch(text)
    if match is None:
        return [], ""
    *numbers, letter = match.groups()
    return [float(number) for number in numbers if number is not None], letter.upper()


def _packet(image: Any) -> bytes:
    info = getattr(image, "info", {})
    for name in ("xmp", "XML:com.adobe.xmp"):
        packet = info.get(name)
        if isinstance(packet, bytes):
            return packet
        if isinstance(packet, str):
            return packet.encode("utf-8", "replace")
    return b""

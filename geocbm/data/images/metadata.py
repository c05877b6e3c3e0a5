"""What a picture file says of itself in EXIF and XMP: where it was taken, and which part of a sphere it shows.

The position is shown beside an answer and never used for it. XMP is XML from strangers: bounded, read without entities.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 1 << 20  # longest packet of XMP that is read; a longer one is taken for none
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
_PANORAMA = "{http://ns.google.com/photos/1.0/panorama/}"
_GPS_IFD = 0x8825
_LAT_REF, _LAT, _LNG_REF, _LNG, _STATUS = 1, 2, 3, 4, 9
_UNITS = ("degree", "minute", "second")
# A GPSCoordinate such as "52,30.5N" or "52,30,30N", or decimal degrees.
_ANGLE = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*(?:,\s*(\d+(?:\.\d+)?))?\s*(?:,\s*(\d+(?:\.\d+)?))?\s*([NSEWnsew]?)\s*")


@dataclass(frozen=True)
class OwnPosition:
    """What a picture file says of the place where it was taken."""

    place: tuple[float, float] | None  # latitude and longitude, degrees; None where the entries make no sense
    remarks: tuple[str, ...] = ()  # sentences on how far it can be trusted


@dataclass(frozen=True)
class Sphere:
    """The part of a sphere that an equirectangular picture shows."""

    width: float = 360.0  # degrees of longitude, 360 for the full horizon
    top: float = 90.0  # degrees above the horizon of the upper edge
    bottom: float = -90.0  # the same of the lower edge; negative below the horizon
    stated: bool = True  # whether the file says so, or it was told from the pixels


def own_position(image: Image) -> OwnPosition | None:
    """The position that an unconverted picture carries, from EXIF or else from XMP; None where it names none.

    EXIF 2.32, section 4.6.6 (GPS attributes); XMP specification part 2, type GPSCoordinate.
    """
    try:
        gps = dict(image.getexif().get_ifd(_GPS_IFD))
    except Exception:  # Pillow raises many kinds for damaged entries, and a picture may be fine all the same
        gps = {}
    found = _from_exif(gps)
    if found is None or found.place is None:
        other = _from_xmp(_properties(image, _EXIF))
        found = other if other is not None and (found is None or other.place is not None) else found
    return found


def described_sphere(image: Any) -> Sphere | None:
    """The part of a sphere that an unconverted picture says it shows (Photo Sphere XMP Metadata), or None."""
    entries = _properties(image, _PANORAMA)
    if entries.get("ProjectionType", "").lower() != "equirectangular":
        return None
    try:
        full_width = float(entries.get("FullPanoWidthPixels", image.width))
        full_height = float(entries.get("FullPanoHeightPixels", image.height))
        width = float(entries.get("CroppedAreaImageWidthPixels", image.width))
        height = float(entries.get("CroppedAreaImageHeightPixels", image.height))
        top = float(entries.get("CroppedAreaTopPixels", 0))
    except ValueError:
        return None
    whole = all(0 < size < math.inf for size in (full_width, full_height, width, height))
    if not whole or not 0 <= top <= full_height - height + 1 or width > full_width + 1:
        return None
    upper = 90.0 - 180.0 * top / full_height
    return Sphere(min(360.0, 360.0 * width / full_width), upper, max(-90.0, upper - 180.0 * height / full_height))


def _properties(image: Any, prefix: str) -> dict[str, str]:
    """Simple properties of one name space in XMP, as attributes or as elements; none where the packet is unsound."""
    import defusedxml.ElementTree as xml
    from defusedxml import DefusedXmlException

    info = getattr(image, "info", {})
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "replace")
    if not packet or not isinstance(packet, bytes) or len(packet) > MOST_BYTES:
        return {}
    try:
        root = xml.fromstring(packet.strip(b"\0 \r\n\t"), forbid_dtd=True)
    except (xml.ParseError, DefusedXmlException, ValueError, LookupError, RecursionError):
        return {}
    found: dict[str, str] = {}
    for element in root.iter():
        for name, text in (*element.attrib.items(), (element.tag, element.text or "")):
            if isinstance(name, str) and name.startswith(prefix) and text.strip():
                found.setdefault(name.removeprefix(prefix), text.strip())
    return found


def _from_exif(gps: dict[int, Any]) -> OwnPosition | None:
    lat, lng = _numbers(gps.get(_LAT)), _numbers(gps.get(_LNG))
    if all(not angle or math.isnan(angle[0]) for angle in (lat, lng)):  # as cameras write it that have no fix
        return None
    return _position(lat, _letter(gps.get(_LAT_REF)), lng, _letter(gps.get(_LNG_REF)), _letter(gps.get(_STATUS)))


def _numbers(value: Any) -> list[float]:
    """Parts of an EXIF angle; 0/0, which stands for an unknown part, becomes NaN."""
    try:
        return [float(part) for part in (value if isinstance(value, tuple | list) else [value])]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return []


def _letter(value: Any) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip(" \0").upper()[:1]


def _from_xmp(entries: dict[str, str]) -> OwnPosition | None:
    if not {"GPSLatitude", "GPSLongitude"} & set(entries):
        return None
    lat, north = _coordinate(entries.get("GPSLatitude", ""), "NS")
    lng, east = _coordinate(entries.get("GPSLongitude", ""), "EW")
    return _position(lat, north, lng, east, _letter(entries.get("GPSStatus")))


def _coordinate(text: str, letters: str) -> tuple[list[float], str]:
    """Numbers and hemisphere of a GPSCoordinate; no number where it is none."""
    match = _ANGLE.fullmatch(text)
    if match is None:
        return [], ""
    *parts, letter = match.groups()
    numbers = [float(part) for part in parts if part is not None]
    if not letter:  # some programs write signed decimal degrees here
        letter, numbers[0] = letters[numbers[0] < 0], abs(numbers[0])
    return numbers, letter.upper()


def _position(lat: list[float], north: str, lng: list[float], east: str, status: str) -> OwnPosition:
    """Join two angles in degrees, minutes and seconds, each with the letter of its hemisphere."""
    latitude, longitude = _angle(lat, north, "NS", 90.0), _angle(lng, east, "EW", 180.0)
    if latitude is None or longitude is None:
        return OwnPosition(None, ("the position in its EXIF or XMP data is damaged and was left out",))
    remarks = []
    parts = min(latitude[1], longitude[1])
    if parts < len(_UNITS):
        remarks.append(f"its own coordinates are known to the {_UNITS[parts - 1]} only")
    if latitude[0] == 0 and longitude[0] == 0:
        remarks.append("its own coordinates are 0, 0, which usually stand for no position at all")
    if status == "V":
        remarks.append("its receiver had no fix when it wrote its own coordinates")
    return OwnPosition((latitude[0], longitude[0]), tuple(remarks))


def _angle(numbers: list[float], letter: str, letters: str, limit: float) -> tuple[float, int] | None:
    """Signed degrees, and 3 where they are exact, 2 without seconds, 1 without minutes; None for no sound angle."""
    if not 1 <= len(numbers) <= 3 or not letter or letter not in letters:
        return None
    south = letter == letters[1]
    if numbers[0] < 0 and not south:
        return None
    numbers = [abs(numbers[0]), *numbers[1:]]  # a sign only repeats the letter
    known = list(takewhile(lambda part: not math.isnan(part), numbers))
    if not known or not all(0 <= part < math.inf for part in known) or any(part > 60 for part in known[1:]):
        return None
    size = sum(part / 60**power for power, part in enumerate(known))
    if size > limit:
        return None
    exact = len(known) == len(numbers) or known[-1] != round(known[-1])
    # 0 minus 0 is 0, where the negative of 0 would be written "-0".
    return (0.0 - size if south else size), (3 if exact else len(known))

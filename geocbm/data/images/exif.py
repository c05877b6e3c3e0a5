"""The position a photograph carries in its EXIF or XMP data. It is shown beside an answer and never used for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geocbm.data.images import xmp

if TYPE_CHECKING:
    from PIL.Image import Image

_GPS_IFD = 0x8825
_LAT_REF, _LAT, _LNG_REF, _LNG, _STATUS = 1, 2, 3, 4, 9
_UNITS = ("degree", "minute", "second")


@dataclass(frozen=True)
class OwnPosition:
    """What a picture file says of the place where it was taken.

    Attributes:
        place: latitude and longitude, degrees; None where the entries make no sense.
        remarks: sentences on how far they can be trusted.
    """

    place: tuple[float, float] | None
    remarks: tuple[str, ...] = ()


def own_coordinates(image: Image) -> tuple[float, float] | None:
    """Latitude and longitude that a picture file carries, degrees; None where there are none that make sense."""
    found = own_position(image)
    return None if found is None else found.place


def own_position(image: Image) -> OwnPosition | None:
    """The position that a picture file carries, from EXIF or else from XMP.

    EXIF 2.32, section 4.6.6 (GPS attributes); XMP specification part 2, type GPSCoordinate.

    Args:
        image: a picture as opened, before it is converted.

    Returns:
        The position; None where the file names none.
    """
    try:
        gps = dict(image.getexif().get_ifd(_GPS_IFD))
    except Exception:  # Pillow raises many kinds for damaged entries, and a picture may be fine all the same
        gps = {}
    found = _from_exif(gps)
    if found is None or found.place is None:
        other = _from_xmp(xmp.properties(image, xmp.EXIF))
        found = other if other is not None and (found is None or other.place is not None) else found
    return found


def _from_exif(gps: dict[int, Any]) -> OwnPosition | None:
    angles = [_numbers(gps.get(_LAT)), _numbers(gps.get(_LNG))]
    if all(not angle or math.isnan(angle[0]) for angle in angles):  # as cameras write it that have no fix
        return None
    lat = _angle(angles[0], _letter(gps.get(_LAT_REF)), "NS", 90.0)
    lng = _angle(angles[1], _letter(gps.get(_LNG_REF)), "EW", 180.0)
    return _position(lat, lng, _letter(gps.get(_STATUS)) == "V")


def _from_xmp(entries: dict[str, str]) -> OwnPosition | None:
    texts = [entries.get(name) for name in ("GPSLatitude", "GPSLongitude")]
    if texts == [None, None]:
        return None
    angles = []
    for text, letters, limit in zip(texts, ("NS", "EW"), (90.0, 180.0), strict=True):
        numbers, letter = xmp.angle(text or "")
        if numbers and not letter:  # some programs write signed decimal degrees here
            letter, numbers[0] = letters[numbers[0] < 0], abs(numbers[0])
        angles.append(_angle(numbers, letter, letters, limit))
    return _position(angles[0], angles[1], entries.get("GPSStatus", "").strip().upper() == "V")


def _position(lat: tuple[float, int] | None, lng: tuple[float, int] | None, void: bool) -> OwnPosition:
    """Join two angles, each with the number of its parts that are known (1 for whole degrees)."""
    if lat is None or lng is None:
        return OwnPosition(None, ("the position in its EXIF or XMP data is damaged and was left out",))
    remarks = []
    parts = min(lat[1], lng[1])
    if parts < len(_UNITS):
        remarks.append(f"its own coordinates are known to the {_UNITS[parts - 1]} only")
    if lat[0] == 0 and lng[0] == 0:
        remarks.append("its own coordinates are 0, 0, which usually stand for no position at all")
    if void:
        remarks.append("its receiver had no fix when it wrote its own coordinates")
    return OwnPosition((lat[0], lng[0]), tuple(remarks))


def _numbers(value: Any) -> list[float]:
    """Parts of an EXIF angle; 0/0, which stands for an unknown part, becomes NaN."""
    try:
        return (
            [] if value is None else [float(part) for part in (value if isinstance(value, tuple | list) else [value])]
        )
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return []


def _letter(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return str(value or "").strip(" \0").upper()[:1]


def _angle(numbers: list[float], letter: str, letters: str, limit: float) -> tuple[float, int] | None:
    """Degrees, minutes and seconds with a hemisphere as signed degrees.

    Returns:
        The angle and 3 where it is exact, 2 where seconds and 1 where minutes are unknown; None where it makes no
        sense: no number, no hemisphere, outside the globe, or a sign that contradicts the hemisphere.
    """
    if not 1 <= len(numbers) <= 3 or not letter or letter not in letters:
        return None
    south = letter == letters[1]
    if numbers[0] < 0:
        if not south:
            return None
        numbers = [-numbers[0], *numbers[1:]]  # the sign only repeats the letter
    known = len(numbers)
    for position, part in enumerate(numbers):
        if math.isnan(part):
            known = min(known, position)
    if known == 0:
        return None
    parts = numbers[:known]
    if not all(math.isfinite(part) and part >= 0 for part in parts) or any(part > 60 for part in parts[1:]):
        return None
    size = sum(part / 60**power for power, part in enumerate(parts))
    if size > limit:
        return None
    exact = known == len(numbers) or parts[-1] != round(parts[-1])
    # 0 minus 0 is 0, where the negative of 0 would be written "-0".
    return (0.0 - size if south else size), (3 if exact else known)

"""The coordinates a photograph carries in its EXIF data. They are shown beside an answer and never used for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_GPS_IFD = 0x8825
_LAT_REF, _LAT, _LNG_REF, _LNG = 1, 2, 3, 4


def own_coordinates(image: Image) -> tuple[float, float] | None:
    """Latitude and longitude that a picture file carries (Exif 2.32, section 4.6.6, GPS attributes).

    Args:
        image: a picture as opened, before it is converted.

    Returns:
        Degrees, or None where there are none or where they are damaged: no number, no hemisphere, or outside the globe.
    """
    try:
        gps = image.getexif().get_ifd(_GPS_IFD)
        lat = _degrees(gps.get(_LAT), gps.get(_LAT_REF), "NS", 90.0)
        lng = _degrees(gps.get(_LNG), gps.get(_LNG_REF), "EW", 180.0)
    except Exception:  # Pillow raises many kinds for damaged entries, and a picture may be fine all the same
        return None
    return None if lat is None or lng is None else (lat, lng)


def _degrees(value: Any, hemisphere: Any, letters: str, limit: float) -> float | None:
    """Degrees, minutes and seconds with a hemisphere as signed degrees; None where they make no sense."""
    if isinstance(hemisphere, bytes):
        hemisphere = hemisphere.decode("ascii", "replace")
    letter = str(hemisphere or "").strip(" \0").upper()[:1]
    if value is None or not letter or letter not in letters:
        return None
    parts = [float(part) for part in (value if isinstance(value, tuple | list) else [value])]
    if len(parts) > 3:
        return None
    size = sum(part / 60**power for power, part in enumerate(parts))
    if not all(math.isfinite(part) and part >= 0 for part in parts) or size > limit:
        return None
    return size if letter == letters[0] else -size

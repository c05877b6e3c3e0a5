"""Pictures of any kind become upright 8-bit RGB, the same way for training, inference and display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geocbm.errors import MissingInputError, UserError

if TYPE_CHECKING:
    from PIL.Image import Image


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


def open_picture(path: str | Path, least_side: int | None = None) -> Image:
    """Read a picture file of a table as upright 8-bit RGB; any kind that `geocbm.data.images.photographs` reads.

    It is reduced by a whole factor as long as its shorter side keeps `least_side` pixels.

    Raises:
        UserError: it cannot be read; the message names it. `MissingInputError` where it does not exist.
    """
    from geocbm.data.images.photographs import WHOLE, read_photograph

    called = f"the picture '{path}'"
    try:
        return read_photograph(path, called, WHOLE if least_side is None else least_side).picture
    except MissingInputError:
        raise MissingInputError(f"{called} does not exist; correct image_path in the table") from None
    except UserError as problem:
        reason = str(problem).removeprefix(called).strip()
        raise UserError(f"{called} cannot be read: it {reason}, or reject it") from None

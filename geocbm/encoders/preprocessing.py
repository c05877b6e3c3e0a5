"""Preprocessing: pictures to the input of a model, and all that decides about the pixels it sees.

The same configuration gives other pixels under another implementation (Pillow or torchvision), another version of it or
another reader of files. `Preprocessing.fingerprint` therefore hashes not only the settings but what becomes of a few
drawn pictures on their whole way from the file to the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from geocbm.data.images.photographs import open_picture, to_rgb
from geocbm.encoders.loading import config_text
from geocbm.errors import ParameterError, first_line
from geocbm.files.owners import scratch_folder

if TYPE_CHECKING:
    from PIL.Image import Image

NEAR = 2e-3
"""A window that ends this near to the border of a picture ends at the border."""
_SIZES = ((641, 427), (200, 311), (33, 33))
"""Width and height of the drawn pictures: shrunk a lot, a little, and enlarged."""


class Colours(NamedTuple):
    """How 8-bit colours become pixels of the model: `pixels = matrix @ rgb + offset`.

    Measured rather than read from a configuration: it covers rescaling, normalisation and a change of the order of
    channels, under whatever name.
    """

    matrix: Tensor  # (3, 3), per 8-bit level
    offset: Tensor  # (3,), the pixel values of black

    def pixels(self, level: float) -> Tensor:
        """Pixel values of a grey of 0 to 255, (3,)."""
        return (self.matrix.sum(dim=1) * level + self.offset).float()

    def levels(self, pixels: Tensor) -> np.ndarray:
        """8-bit levels, not rounded, that gave pixels (..., 3, H, W)."""
        centred = pixels.double() - self.offset[:, None, None]
        return torch.einsum("cd,...dhw->...chw", torch.linalg.pinv(self.matrix), centred).numpy()


class Preprocessing:
    """An image processor of transformers, checked to give pictures of one size.

    Raises:
        ParameterError: it gives something else than colour pictures of one size.
    """

    def __init__(self, processor: Any, name: str) -> None:
        self.processor = processor
        self.name = name
        self.height, self.width = self._size()
        self.colours = self._colours()

    def __call__(self, images: Sequence[Image]) -> Tensor:
        """Pictures in any mode and size to a float tensor (B, 3, H, W) on the CPU."""
        return self._run(images)["pixel_values"].float()

    def picture(self, image: Image) -> Image:
        """The picture that the model sees: resized and cropped, in colours."""
        from PIL import Image as pillow

        levels = self.colours.levels(self([image])[0])
        return pillow.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0))

    def fingerprint(self) -> str:
        """SHA-256 over implementation and configuration, and over what they make of a few drawn pictures.

        Pixels are compared in 8-bit levels, so that the last bit of a floating-point number makes no difference.
        """
        total = hashlib.sha256(f"{type(self.processor).__name__} {config_text(self.processor.to_dict())}".encode())
        for numbers in self.colours:
            total.update(np.rint(numbers.numpy() * 1e4).astype(np.int64).tobytes())
        with scratch_folder() as folder:
            for path in _draw_pictures(Path(folder)):
                levels = self.colours.levels(self([open_picture(path)])[0])
                total.update(np.rint(levels.clip(-32768, 32767)).astype("<i2").tobytes())
        return total.hexdigest()

    def _run(self, images: Sequence[Image]) -> Mapping[str, Any]:
        return self.processor(images=[to_rgb(image) for image in images], return_tensors="pt")

    def _size(self) -> tuple[int, int]:
        """Height and width that every picture is given."""
        from PIL import Image as pillow

        sizes = set()
        for size in ((640, 400), (400, 640), (32, 32)):
            try:
                content = self._run([pillow.new("RGB", size)])
            except Exception as error:  # each kind of processor fails in its own way over impossible settings
                raise ParameterError(
                    f"the preprocessing of the encoder '{self.name}' fails: {first_line(error)}; correct its "
                    "preprocessor_config.json"
                ) from error
            pixels = content.get("pixel_values")
            shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else ()
            if "spatial_shapes" in content:
                raise ParameterError(
                    f"the encoder '{self.name}' cuts each picture into a grid of its own (NaFlex), while maps need one "
                    "grid for all; name the variant of the model with a fixed resolution"
                )
            if len(shape) != 4 or shape[:2] != (1, 3) or 0 in shape:
                raise ParameterError(
                    f"the preprocessing of the encoder '{self.name}' makes {list(shape) or 'no pixels'} of a picture, "
                    "not [1, 3, height, width]; name an encoder that reads whole pictures in colours"
                )
            sizes.add((int(shape[2]), int(shape[3])))
        if len(sizes) > 1:
            raise ParameterError(
                f"the preprocessing of the encoder '{self.name}' gives pictures of different sizes {sorted(sizes)}; "
                "set a fixed size or a centre crop in its preprocessor_config.json"
            )
        return sizes.pop()

    def _colours(self) -> Colours:
        """Measure what becomes of black, red, green and blue."""
        from PIL import Image as pillow

        plain = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
        centre = (self.height // 2, self.width // 2)
        pixels = self([pillow.new("RGB", (64, 64), colour) for colour in plain])[:, :, *centre].double()  # (4, 3)
        colours = Colours((pixels[1:] - pixels[0]).T / 255, pixels[0])
        if not bool(torch.isfinite(pixels).all()) or int(torch.linalg.matrix_rank(colours.matrix)) == 0:
            raise ParameterError(
                f"the preprocessing of the encoder '{self.name}' makes the same or no numbers of every colour; correct "
                "image_mean and image_std in its preprocessor_config.json"
            )
        return colours


def _draw_pictures(folder: Path) -> list[Path]:
    """Write pictures with gradients, edges and noise as files of the usual kinds."""
    from PIL import Image as pillow

    paths = []
    for number, (width, height) in enumerate(_SIZES):
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        noise = np.random.default_rng(number).integers(0, 256, (height, width))
        wave = (127.5 + 127.5 * np.sin(x * y / 97)).astype(np.int64)
        bands = np.stack([x * 255 // width, (x // 5 + y // 3) % 2 * 255, np.where(x > y, noise, wave)], axis=-1)
        picture = pillow.fromarray(bands.astype(np.uint8))
        picture.save(folder / f"{number}.bmp")
        paths.append(folder / f"{number}.bmp")
    # Files that a reader has to do more for: chroma at half resolution and turned, transparent, 16 bits, a palette.
    exif = pillow.Exif()
    exif[0x0112] = 6
    large = pillow.open(paths[0])
    large.save(folder / "turned.jpg", quality=85, subsampling=2, exif=exif)
    small = large.resize((96, 64))
    small.convert("P", palette=pillow.Palette.WEB).save(folder / "palette.png")
    pillow.fromarray(np.asarray(small.convert("L"), dtype=np.uint16) * 257).save(folder / "deep.png")
    small.putalpha(small.getchannel("G"))
    small.save(folder / "transparent.png")
    return [*paths, *(folder / name for name in ("turned.jpg", "transparent.png", "deep.png", "palette.png"))]


def crop_window(encoder: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part `(x0, y0, x1, y1)` of a picture of `size` (width, height in pixels) that the model sees.

    It is found by sending two ramps through the preprocessing, which holds for any resizing and cropping that keeps
    straight lines straight, whatever the settings are called.
    """
    from PIL import Image as pillow

    width, height = size
    x = np.tile((np.arange(width) + 0.5) / width, (height, 1))
    y = np.tile(((np.arange(height) + 0.5) / height)[:, None], (1, width))
    ramps = np.rint(255 * np.stack([x, y, np.zeros_like(x)], axis=-1)).astype(np.uint8)
    seen = np.asarray(encoder.crop(pillow.fromarray(ramps)), dtype=np.float64) / 255  # (H, W, 3)
    x0, x1 = _ends(seen[..., 0].mean(axis=0))
    y0, y1 = _ends(seen[..., 1].mean(axis=1))
    return x0, y0, x1, y1


def _ends(ramp: np.ndarray) -> tuple[float, float]:
    """Both ends of a straight line through the middle of a ramp; its own ends suffer from resampling."""
    places = (np.arange(len(ramp)) + 0.5) / len(ramp)
    middle = slice(len(ramp) // 10, len(ramp) - len(ramp) // 10)
    slope, start = np.polyfit(places[middle], ramp[middle], 1)
    ends = (float(start), float(start + slope))
    return tuple(0.0 if abs(end) < NEAR else 1.0 if abs(end - 1) < NEAR else end for end in ends)  # type: ignore[return-value]

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from geocbm.baselines import mean_colours
from geocbm.errors import MissingInputError, UserError
from geocbm.pictures import open_picture, to_rgb
from geocbm.plots import contact_sheet
from geocbm.quality import luminance


@pytest.fixture
def sixteen_bits(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((64, 64), 257 * 51, dtype=np.uint16)).save(path)  # a fifth of full brightness
    return path


def test_sixteen_bits_mean_the_same_wherever_a_picture_is_looked_at(sixteen_bits):
    assert np.unique(np.asarray(open_picture(sixteen_bits))).tolist() == [51]
    assert mean_colours([sixteen_bits])[0] == pytest.approx([0.2, 0.2, 0.2])
    assert luminance(sixteen_bits)[0] == pytest.approx(51)
    sheet = np.asarray(contact_sheet([sixteen_bits, to_rgb(Image.open(sixteen_bits))], width=32))
    assert sheet[24, 24].tolist() == [51, 51, 51] and sheet[24, 64].tolist() == [51, 51, 51]


def test_transparent_areas_become_white_and_floats_are_scaled():
    assert to_rgb(Image.new("RGBA", (2, 2), (9, 9, 9, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.fromarray(np.full((2, 2), 0.2, dtype=np.float32))).getpixel((0, 0)) == (51, 51, 51)


def test_what_cannot_be_opened_is_named(tmp_path, sixteen_bits):
    with pytest.raises(MissingInputError, match=r"gone\.png' does not exist"):
        open_picture(tmp_path / "gone.png")
    sixteen_bits.write_bytes(sixteen_bits.read_bytes()[:60])
    with pytest.raises(UserError, match=r"deep\.png' cannot be read"):
        open_picture(sixteen_bits)
    assert np.isnan(luminance(sixteen_bits)).all()
    assert contact_sheet([sixteen_bits], width=32).size == (48, 48)


def test_pictures_are_opened_without_torch():
    code = "import sys, geocbm.pictures, geocbm.data; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

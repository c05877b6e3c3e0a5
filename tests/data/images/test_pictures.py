from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from camera_files import HEIC, dng
from PIL import Image

from geocbm.data import load_table, quality_report
from geocbm.data.checks import inspect_image
from geocbm.data.images.photographs import open_picture, to_rgb
from geocbm.data.quality import look_at
from geocbm.errors import MissingInputError, UserError
from geocbm.evaluation.baselines.simple import mean_colours
from geocbm.plots import contact_sheet


@pytest.fixture
def sixteen_bits(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((64, 64), 257 * 51, dtype=np.uint16)).save(path)  # a fifth of full brightness
    return path


def test_sixteen_bits_mean_the_same_wherever_a_picture_is_looked_at(sixteen_bits):
    assert np.unique(np.asarray(open_picture(sixteen_bits))).tolist() == [51]
    assert mean_colours([sixteen_bits])[0] == pytest.approx([0.2, 0.2, 0.2])
    assert look_at(sixteen_bits).mean == pytest.approx(51)
    sheet = np.asarray(contact_sheet([sixteen_bits, to_rgb(Image.open(sixteen_bits))], ["", ""], width=32))
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
    assert np.isnan(look_at(sixteen_bits).mean)
    assert contact_sheet([sixteen_bits], [""], width=32).size == (48, 66)  # gaps of 8, a line of 18


def test_a_table_may_name_whatever_a_camera_writes(tmp_path):
    for name, content in (("a.heic", HEIC), ("a.dng", dng()), ("a.jpg", HEIC)):  # the content says what it is
        (tmp_path / name).write_bytes(content)
        picture = open_picture(tmp_path / name)
        assert picture.size == (48, 64) and picture.getpixel((42, 5))[0] > 200 > 60 > picture.getpixel((5, 5))[0]
        assert inspect_image(tmp_path / name)[1] == ""
        assert mean_colours([tmp_path / name])[0] == pytest.approx(np.asarray(picture).mean((0, 1)) / 255, abs=0.01)
    (tmp_path / "cut.dng").write_bytes(dng()[:-99])
    assert inspect_image(tmp_path / "cut.dng")[1] == "is cut off"
    assert np.isnan(look_at(tmp_path / "cut.dng").mean)


def test_what_a_crop_loses_of_a_table_is_counted(tmp_path):
    rows = []
    sizes = {"square": (90, 90), "five": (100, 80), "photo": (120, 80), "phone": (160, 90), "strip": (300, 100)}
    for number, (name, size) in enumerate(sizes.items()):
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        rows.append({"pano_id": name, "image_path": f"{name}.png", "meta_name": "m", "parent_concept": "p",
                     "country": "France", "lat": 45 + number, "lng": 2 + number, "note": "n"})  # fmt: skip
    (tmp_path / "raw.dng").write_bytes(dng())
    rows.append(rows[0] | {"pano_id": "raw", "image_path": "raw.dng", "lat": 40})
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    report = quality_report(load_table(tmp_path / "table.csv")).set_index("check")
    # 1 - 80/120 = 33.3 %, 1 - 90/160 = 43.75 %, and of the raw file's 48 x 64 a quarter: 34 % on average.
    cropped = report.loc["wider or higher than a square"]
    assert cropped["rows"] == 3 and cropped["examples"] == "photo, phone, raw" and "On average 34%" in cropped["why"]
    panorama = report.loc["panoramas"]
    assert (panorama["rows"], panorama["examples"]) == (1, "strip") and "On average 67%" in panorama["why"]
    (remark,) = [check for check in report.index if check.startswith("read with a remark")]
    assert "camera's raw file" in remark and report.loc[remark, "rows"] == 1


def test_pictures_are_opened_without_torch():
    code = "import sys, geocbm.data.images.photographs, geocbm.data; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

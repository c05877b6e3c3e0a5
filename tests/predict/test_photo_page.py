"""The page about someone's photographs is whole, fetches nothing, and shows strangers' names as text."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from geocbm import data
from geocbm.errors import ParameterError
from geocbm.explain.attribution import BY_ABLATION, Explanation
from geocbm.plots.answer import answer_map
from geocbm.predict import GeoCBM
from geocbm.predict import page as photo_page
from geocbm.predict.answers import Reply
from geocbm.predict.page import PhotoPage
from geocbm.run import stages
from geocbm.workbench.report_figures import online_map_problem


@pytest.fixture(scope="module")
def model(trained_run):
    return GeoCBM.load(trained_run.folder)


@pytest.fixture(scope="module")
def pictures(trained_run):
    return data.image_files(trained_run.files.table)


def written(page: PhotoPage, folder) -> str:
    page.write(folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


def without_scripts(text: str) -> str:
    return re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_a_page_of_one_photograph(model, pictures, tmp_path):
    page = PhotoPage(model)
    (reply,) = model.predict_each([pictures[0]], top_k=3, keep_seen=True)
    page.add("road.jpg", reply)
    text = written(page, tmp_path)
    seen = without_scripts(text)
    assert f"<strong>{reply.answer.lat:.4f}, {reply.answer.lng:.4f}</strong>" in seen
    for words in (
        "Where was this photograph taken?",
        "road.jpg",
        reply.answer.cells[2].country,
        "How sure",
        "80&nbsp;%",
    ):
        assert words in seen
    assert seen.count('class="map"') == 1 and 'table class="summary"' not in seen
    # Everything is inside: no address to fetch from, and the browser is told to fetch none.
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", seen) == []
    assert "default-src 'none'" in seen
    assert text.count("plotly.js v") >= 1 and len(text) < 7e6
    assert all(alt.strip() for alt in re.findall(r'<img [^>]*alt="([^"]*)"', seen))
    assert len(re.findall("<img ", seen)) == len(re.findall("<img [^>]*alt=", seen)) == 2


def test_a_photograph_unlike_the_training_pictures_is_shown_without_a_promise(model, pictures, tmp_path):
    page = PhotoPage(model)
    home, black = model.predict_each([pictures[0], Image.new("RGB", (48, 40))], keep_seen=True)
    page.add("home.jpg", home)
    page.add("black.jpg", black)
    seen = " ".join(without_scripts(written(page, tmp_path)).split())
    first, second = seen.split('<section class="photo"')[1:]
    assert "unlike" not in first and "not promised" not in first
    assert second.count("This photograph is unlike the training pictures") == 1  # on top, and not once more as a note
    assert second.index("unlike the training pictures") < second.index('class="map"')
    assert "How sure: not promised for this photograph" in second
    assert "1 of 2 photographs is unlike the training pictures" in seen and "hardly holds for the others" not in seen
    for number in range(3):  # four of five at a level of 10 % are no chance
        page.add(f"black{number}.jpg", black)
    seen = " ".join(without_scripts(written(page, tmp_path)).split())
    assert "4 of 5 photographs are unlike" in seen and "hardly holds for the others" in seen


def test_names_and_sentences_of_strangers_are_text(model, pictures, tmp_path):
    evil = '<img src=x onerror=alert(1)>"&.jpg'
    page = PhotoPage(model)
    for number, picture in enumerate(pictures[:2]):
        (reply,) = model.predict_each([picture], keep_seen=True)
        page.add(f"{number}{evil}", reply)
    page.add(evil, Reply(evil), f"'{evil}' is empty </script>")
    text = written(page, tmp_path)
    assert "<img src=x" not in text and "empty </script>" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert without_scripts(text).count("is empty") == 2  # in the list and in its own part


def test_the_page_says_which_concepts_led_there(model, pictures, tmp_path, monkeypatch):
    (reply,) = model.predict_each([pictures[0]], keep_seen=True)
    country = reply.answer.countries[0][0]
    reply = replace(reply, answer=replace(reply.answer, country=country))
    terms = np.array([0.5, -0.25, 0.0, 0.0, 0.0, 0.0, np.nan, np.nan, np.nan])
    names = (*model.files.concepts.metas, *model.files.concepts.parents)
    asked = []

    def explain(source, country):
        asked.append((source, country))
        return Explanation(country, "log odds", BY_ABLATION, names, 6, terms, 1.25)

    monkeypatch.setattr(model, "explain", explain)
    page = PhotoPage(model)
    page.add("a", reply)
    seen = without_scripts(written(page, tmp_path))
    assert asked == [(reply, country)]
    assert f"What spoke for {country}" in seen and "log odds of " + country + " (1.25)" in " ".join(seen.split())
    bars = re.findall(r'class="(more|less)" style="(left|right):50%;width:([0-9.]+)%"', seen)
    assert bars[:2] == [("more", "left", "50.0"), ("less", "right", "25.0")]  # half the track for the largest
    assert re.findall(r'class="share">([+-][0-9.]+)<', seen)[:2] == ["+0.50", "-0.25"]

    def refuse(source, country):
        raise ParameterError("all cells lie in one country")

    monkeypatch.setattr(model, "explain", refuse)
    page = PhotoPage(model)
    page.add("a", reply)
    assert "What spoke for" not in written(page, tmp_path)


def test_photographs_are_called_by_what_tells_them_apart(model, tmp_path):
    for paths, names in (
        (["/photos/me/a.jpg", "/photos/me/b.jpg"], ["a.jpg", "b.jpg"]),
        (["/photos/me/x/a.jpg", "/photos/me/y/a.jpg"], ["x/a.jpg", "y/a.jpg"]),
        (["here/a.jpg", "a.jpg"], ["here/a.jpg", "a.jpg"]),
        (["/photos/a.jpg", "a.jpg"], ["/photos/a.jpg", "a.jpg"]),
        (["-"], ["-"]),
    ):
        page = PhotoPage(model)
        for path in paths:
            page.add(path, Reply(path), f"'{path}' is empty")
        seen = without_scripts(written(page, tmp_path))
        assert re.findall("<h2>(.*)</h2>", seen) == names
        assert re.findall('<p class="banner">(.*)</p>', seen) == [f"&#39;{name}&#39; is empty" for name in names]


def test_the_script_holds_maps_that_draw_offline(model, pictures, tmp_path):
    page = PhotoPage(model)
    for reply in model.predict_each(pictures[:3], keep_seen=True):
        page.add("a", reply)
    text = written(page, tmp_path)
    outlines = json.loads(re.search(r"const outlines = (.*);\n", text).group(1))
    figures = json.loads(re.search(r"const figures = (.*);\n", text).group(1))
    assert [trace["name"] for trace in outlines] == ["coast", "borders"] and len(figures) == 3
    for figure in figures:
        assert online_map_problem({"data": outlines + figure["data"], "layout": figure["layout"]}) is None
        assert "coast" not in [trace["name"] for trace in figure["data"]]


def test_pictures_carry_nothing_of_their_file(model, pictures, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "SECRET MAKER"
    with Image.open(pictures[0]) as picture:
        picture.save(tmp_path / "a.jpg", exif=exif, comment=b"SECRET COMMENT")
    page = PhotoPage(model)
    (reply,) = model.predict_each([tmp_path / "a.jpg"], keep_seen=True)
    page.add("a.jpg", reply)
    pictures_inside = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", written(page, tmp_path))
    assert len(pictures_inside) == 2
    for code in pictures_inside:
        content = base64.b64decode(code)
        assert b"SECRET" not in content and b"Exif" not in content
        assert Image.open(io.BytesIO(content)).width == photo_page.WIDTH


def test_more_photographs_than_a_browser_bears(model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_page, "MOST_PHOTOS", 2)
    page = PhotoPage(model)
    for reply in model.predict_each(pictures[:5], keep_seen=True):
        page.add("a", reply)
    assert page.shown == 2
    page.write(tmp_path / "page.html", left_out=3)
    assert "shows the first 2 photographs; 3 more were answered" in (tmp_path / "page.html").read_text("utf-8")


def test_a_run_without_regions_and_a_head_without_eyes(copied_run, pictures, tmp_path):
    files = copied_run.files
    files.path("cell_scores.npz").unlink()
    for kind in ("json", "safetensors"):
        shutil.copy(copied_run.folder / f"stage2_concept_only.{kind}", copied_run.folder / f"stage2.{kind}")
    features = files.features("adapted")
    stages.write_decoder(files, stages.load_stage2(files), stages.predict_concepts(files, features), features)
    model = GeoCBM.load(copied_run.folder)
    page = PhotoPage(model)
    (reply,) = model.predict_each([pictures[0]], keep_seen=True)
    page.add("a", reply)
    seen = without_scripts(written(page, tmp_path))
    assert "probabilities are not calibrated, and it has no regions" in seen and "How sure" not in seen
    assert "does not weigh parts of the picture" in seen
    assert "There are no conformal regions" in seen


def test_the_map_names_its_parts_and_frames_them(model, pictures):
    (answer,) = model.predict(pictures[0], top_k=3)
    fig = answer_map(answer, model.cells.centers, model.cells.country, model.calibration.cell_km2)
    names = [trace.name for trace in fig.data]
    assert names[:2] == ["coast", "borders"] and names[-2:] == ["likeliest cells", "answer"]
    shown = [cell for trace in fig.data[2:-2] for cell in trace.text]
    assert len(shown) == len(set(shown)) == len(answer.regions[-1].cells)  # each cell once, in its smallest region
    alt = fig.layout.meta["alt"]
    assert f"{answer.lat:.2f}, {answer.lng:.2f}" in alt and "3 likeliest cells" in alt and "95 % region" in alt
    near = answer_map(answer.with_own_place((10.0, 20.0)), model.cells.centers, model.cells.country)
    assert near.data[-1].name == "the file's own coordinates" and list(near.data[-1].lat) == [10.0]
    assert np.isfinite(near.data[-1].marker.size)

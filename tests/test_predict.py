"""The object for interactive use answers as the notebooks do, whatever form a picture comes in."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tiny_run import PARENT_OF, PLACES

from geocbm import analysis, data, pipeline
from geocbm.errors import MissingInputError
from geocbm.geodesy import cartesian_to_latlng
from geocbm.predict import GeoCBM


@pytest.fixture(scope="module")
def model(trained_run):
    return GeoCBM.load(trained_run.folder)


@pytest.fixture(scope="module")
def pictures(trained_run):
    return data.image_files(trained_run.files.table)


def test_answers_are_those_of_the_stored_features(trained_run, model, pictures):
    files = trained_run.files
    features = pipeline.open_features(files, "adapted", trained_run.cache)
    embeddings = pipeline.predict_concepts(files, features)
    rows = np.arange(len(files.table))
    stored = analysis.predict_places(files, pipeline.load_stage2(files), embeddings, features, rows)
    concepts = analysis.predict_concepts(pipeline.load_stage1(files), features)
    answers = model.predict(pictures, top_k=3)
    assert len(answers) == len(rows)
    clear = 0
    for row, answer in enumerate(answers):
        probability = stored["cell_probability"][row]
        assert [cell.probability for cell in answer.cells] == pytest.approx(probability[:3].tolist(), abs=2e-3)
        np.testing.assert_allclose(answer.attention.ravel(), stored["attention"][row], atol=2e-3)
        first, share = answer.concepts[0]
        assert share == pytest.approx(concepts["meta"][row].max(), abs=5e-3)
        assert concepts["meta"][row][files.concepts.concept_to_idx[first]] == pytest.approx(share, abs=5e-3)
        if probability[0] - probability[1] > 4e-3:  # half precision may swap cells that are as good as equal
            clear += 1
            assert answer.cells[0].cell == stored["cell"][row, 0]
            assert (answer.lat, answer.lng) == pytest.approx((stored["lat"][row], stored["lng"][row]), abs=0.2)
    assert clear > len(rows) / 2


def test_one_picture_may_come_as_text_path_or_picture(model, pictures):
    (expected,) = model.predict([pictures[0]])
    opened = Image.open(pictures[0])
    for form in (str(pictures[0]), pictures[0], opened, [opened], (str(pictures[0]),)):
        (answer,) = model.predict(form)
        assert (answer.lat, answer.lng, answer.cells, answer.concepts) == (
            expected.lat,
            expected.lng,
            expected.cells,
            expected.concepts,
        )
    assert model.predict([]) == []
    grey = model.predict(opened.convert("L"))
    assert len(grey) == 1


def test_batches_change_nothing_and_keep_the_order(model, pictures):
    whole = model.predict(pictures[:7])
    parts = model.predict(pictures[:7], batch_size=3)
    for one, other in zip(whole, parts, strict=True):
        assert (one.lat, one.lng) == pytest.approx((other.lat, other.lng), abs=1e-3)
    (last,) = model.predict(pictures[6])
    assert (last.lat, last.lng) == pytest.approx((whole[6].lat, whole[6].lng), abs=1e-3)


def test_attention_is_a_grid_that_sums_to_one(model, pictures):
    for answer in model.predict(pictures[:5]):
        assert answer.attention.shape == model.encoder.grid == (4, 4)
        assert answer.attention.sum() == pytest.approx(1, abs=1e-5)


def test_top_k_best_first_and_never_more_than_there_are(model, pictures):
    (short,) = model.predict(pictures[0], top_k=2)
    (whole,) = model.predict(pictures[0], top_k=100)
    assert (len(short.cells), len(short.concepts), len(short.parents)) == (2, 2, 2)
    assert (len(whole.cells), len(whole.concepts), len(whole.parents)) == (len(model.files.cells), 6, 3)
    assert whole.cells[:2] == short.cells
    assert {name for name, _ in whole.concepts} == set(PARENT_OF)
    assert {name for name, _ in whole.parents} == set(PARENT_OF.values())
    for shares in (
        [cell.probability for cell in whole.cells],
        [share for _, share in whole.concepts],
        [share for _, share in whole.parents],
    ):
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_a_cell_is_told_with_its_country_and_centre(model, pictures):
    (answer,) = model.predict(pictures[0], top_k=1)
    (cell,) = answer.cells
    lat, lng = cartesian_to_latlng(model.files.cells.centers[cell.cell])
    assert (cell.lat, cell.lng) == pytest.approx((float(lat), float(lng)))
    near = PLACES[cell.country]
    assert abs(cell.lat - near[0]) < 1 and abs(cell.lng - near[1]) < 1


def test_a_run_is_found_by_its_name(trained_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "named").symlink_to(trained_run.folder)
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path))
    assert GeoCBM.load("named").files.run == "named"
    with pytest.raises(MissingInputError, match=r"stage2\.safetensors of run 'absent' .* --run absent --only 05"):
        GeoCBM.load("absent")

"""A saved model answers as its run does, and what a run's answers need is worked out once."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from geocbm import data
from geocbm.errors import DamagedError, MismatchError, MissingInputError
from geocbm.predict import GeoCBM
from geocbm.predict import model as of_model
from geocbm.predict.context import FILE, AnswerContext, context_key


@pytest.fixture(scope="module")
def pictures(trained_run):
    return data.image_files(trained_run.files.table)[:4]


def same_answers(one: GeoCBM, other: GeoCBM, pictures) -> None:
    for first, second in zip(one.predict(pictures, top_k=3), other.predict(pictures, top_k=3), strict=True):
        assert first.as_json() == second.as_json()
        np.testing.assert_array_equal(first.attention, second.attention)


def test_a_saved_model_answers_as_its_run(copied_run, pictures, tmp_path):
    model = GeoCBM.load(copied_run.folder)
    model.save_pretrained(tmp_path / "saved")
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "saved", moved)
    expected = model.predict(pictures)
    why = model.explain(pictures[0], cell=1)
    shutil.rmtree(copied_run.folder)
    saved = GeoCBM.from_pretrained(moved)
    for first, second in zip(expected, saved.predict(pictures), strict=True):
        assert first.as_json() == second.as_json()
    np.testing.assert_allclose(saved.explain(pictures[0], cell=1).terms, why.terms, atol=1e-3)
    kinds = {file.suffix for file in moved.rglob("*") if file.is_file()}
    assert kinds == {".safetensors", ".json"}
    with pytest.raises(MissingInputError, match="has no files of its run"):
        _ = saved.files
    with pytest.raises(MissingInputError, match="holds no model"):
        GeoCBM.from_pretrained(tmp_path)


def test_the_network_goes_from_pixels_to_places(trained_run, pictures):
    model = GeoCBM.load(trained_run.folder)
    pixels = model.prepare(pictures[0]).pixels
    output = model.network(pixels)
    n_metas, n_parents = len(model.concepts.metas), len(model.concepts.parents)
    shapes = [getattr(output.concepts, f"{level}_probabilities").shape for level in ("meta", "parent")]
    assert shapes == [(1, n_metas), (1, n_parents)]
    assert output.patch_tokens.shape[:2] == (1, 16) and output.place.cell_logits.shape == (1, len(model.cells))
    assert output.place.attention.shape[2] == 16
    assert output.concepts.concept_emb.shape[0] == output.place.offsets.shape[0] == 1
    said = model.network.scores(output.pooled, output.patch_tokens)
    assert said.concept_input is said.concept_emb and said.probabilities.shape == (1, n_metas + n_parents)


def test_the_context_is_worked_out_once_and_again_when_a_file_changes(copied_run, pictures, monkeypatch):
    asked = []
    whole = of_model.make_context

    def counted(*given):
        asked.append(given)
        return whole(*given)

    monkeypatch.setattr(of_model, "make_context", counted)
    (copied_run.folder / FILE).unlink(missing_ok=True)
    first, second = (GeoCBM.load(copied_run.folder) for _ in range(2))
    assert len(asked) == 1 and (copied_run.folder / FILE).exists()
    same_answers(first, second, pictures)
    cells = copied_run.folder / "cell_scores.npz"
    content = dict(np.load(cells))
    np.savez(cells, **content | {"val_logits": content["val_logits"] * 2})
    assert GeoCBM.load(copied_run.folder).calibration.temperature == pytest.approx(
        2 * first.calibration.temperature, rel=0.05
    )
    assert len(asked) == 2
    path = copied_run.folder / "splits.json"
    splits = json.loads(path.read_text())
    train, val = splits["splits"]["train"], splits["splits"]["val"]
    train[0], val[0] = val[0], train[0]
    path.write_text(json.dumps(splits))
    with pytest.raises(MismatchError, match="--run tiny"):
        GeoCBM.load(copied_run.folder)


def test_a_damaged_context_is_made_again(copied_run, pictures):
    model = GeoCBM.load(copied_run.folder)
    place = copied_run.folder / FILE
    place.write_bytes(place.read_bytes()[:100])
    assert AnswerContext.load(place, context_key(copied_run.folder)) is None
    same_answers(model, GeoCBM.load(copied_run.folder), pictures)
    assert AnswerContext.load(place, context_key(copied_run.folder)) is not None


def test_a_saved_model_with_another_file_is_refused(copied_run, pictures, tmp_path):
    model = GeoCBM.load(copied_run.folder)
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in (".json", ".safetensors")]
    assert {"stage1.safetensors", "stage2.json", "config.json", "model.safetensors"} <= {file.name for file in files}
    for file in files:
        whole = file.read_bytes()
        for content in (b"", b"null", whole[:-9], bytes([whole[0] ^ 1]) + whole[1:], files[-1].read_bytes() + b" "):
            file.write_bytes(content)
            with pytest.raises((DamagedError, MissingInputError)):
                GeoCBM.from_pretrained(folder)
        file.write_bytes(whole)
    same_answers(model, GeoCBM.from_pretrained(folder), pictures)

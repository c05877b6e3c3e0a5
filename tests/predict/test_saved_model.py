"""A saved model answers as its run does, and what a run's answers need is worked out once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from geocbm import cli, data
from geocbm.errors import DamagedError, MismatchError, MissingInputError, ParameterError
from geocbm.files import write_json
from geocbm.files.stored import save_arrays
from geocbm.predict import GeoCBM, pretrained
from geocbm.predict import model as of_model
from geocbm.predict.context import FILE, AnswerContext, context_key
from geocbm.predict.pretrained import measured


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
    assert kinds == {".safetensors", ".json", ".md"}
    with pytest.raises(MissingInputError, match="has no files of its run"):
        _ = saved.files
    with pytest.raises(MissingInputError, match="holds no model"):
        GeoCBM.from_pretrained(tmp_path)
    again = tmp_path / "again"
    saved.save_pretrained(again)  # without its run, with the card that it came with
    assert (again / "README.md").read_text() == (moved / "README.md").read_text()
    same_answers(saved, GeoCBM.from_pretrained(again, device="cpu"), pictures)
    with pytest.raises(ParameterError, match="give another folder"):
        saved.save_pretrained(moved)


def test_the_card_says_what_was_measured_on_what_and_under_which_terms(copied_run):
    write_json(
        copied_run.folder / "records" / "05.json",
        {"stage2.median_km": {"value": 468.4, "low": 392.2, "high": 567.0}, "stage2.cell_top1": 0.1},
    )
    card = GeoCBM.load(copied_run.folder).generate_model_card()
    assert "| median error | 468 km [392, 567] |" in card.content
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("stage2.median_km", 468.4)
    assert card.data.library_name == "geocbm" and card.data.license
    rows = copied_run.files.rows
    assert f"| test | {len(rows['test']):,} |" in card.content
    for title in ("Metrics", "Data", "Intended use", "Limits", "Licences"):
        assert f"\n## {title}\n" in card.content
    stored = np.load(copied_run.folder / "geocells.npz")
    assert f"{len(stored['centers'])} geocells" in card.content


def test_damaged_metrics_are_refused_with_the_command_that_records_them_again(copied_run):
    (copied_run.folder / "records").mkdir(exist_ok=True)
    (copied_run.folder / "records" / "05.json").write_text("[1]")
    with pytest.raises(DamagedError, match=r"records/05.json is damaged .* geocbm run --run tiny --from 05$"):
        measured(copied_run.files)


def test_an_export_that_fails_leaves_no_half_a_model(copied_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "runs").mkdir(parents=True)
    run = copied_run.folder.rename(tmp_path / "data" / "runs" / "tiny")
    copied_run.cache.rename(tmp_path / "data" / "cache")
    (run / "records").mkdir(exist_ok=True)
    (run / "records" / "05.json").write_text("{")
    assert cli.main(["export", "tiny", str(tmp_path / "models" / "mine")]) == 2
    assert "make it again with: geocbm run --run tiny --from 05" in capsys.readouterr().err
    assert list((tmp_path / "models").iterdir()) == []
    (run / "records" / "05.json").unlink()
    assert cli.main(["export", "tiny", str(tmp_path / "models" / "mine")]) == 0
    assert GeoCBM.from_pretrained(tmp_path / "models" / "mine").context.run == "tiny"


def test_metrics_of_another_stage_2_are_not_those_of_the_card(copied_run, monkeypatch):
    write_json(copied_run.folder / "records" / "05.json", {"stage2.median_km": 468.4})
    assert measured(copied_run.files) == {"stage2.median_km": 468.4}
    monkeypatch.setattr(type(copied_run.files), "belongs", lambda _self, _name: False)
    assert measured(copied_run.files) == {}


@pytest.mark.parametrize(
    ("encoder", "simulated", "licence"),
    [
        ("atlas", True, "mit"),
        ("atlas", False, "other"),
        ("geolocal/StreetCLIP", False, "cc-by-nc-4.0"),
        ("facebook/dinov2-small", False, "other"),
    ],
)
def test_a_model_inherits_the_terms_of_its_encoder(trained_run, monkeypatch, encoder, simulated, licence):
    model = GeoCBM.load(trained_run.folder)
    model.context = replace(model.context, simulated=simulated)
    monkeypatch.setattr(pretrained, "encoder_name", lambda _files: encoder)
    card = model.generate_model_card()
    assert card.data.license == licence and f"`{encoder}`" in card.content
    assert ("simulated world" in card.content) == simulated
    assert ("not for commercial use" in card.content) == (licence == "cc-by-nc-4.0")


def test_a_model_is_pushed_as_it_is_saved_and_comes_back_from_the_hub(trained_run, pictures, tmp_path, monkeypatch):
    class Hub:
        def __init__(self, token=None):
            assert token == "of a test"

        def create_repo(self, repo_id, private, exist_ok):
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id, folder_path, **_others):
            return shutil.copytree(folder_path, tmp_path / repo_id)

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    monkeypatch.setattr(pretrained, "snapshot_download", lambda name, allow_patterns, **asked: tmp_path / name)
    model = GeoCBM.load(trained_run.folder)
    model.push_to_hub("somebody/tiny", token="of a test")
    kinds = {file.suffix for file in (tmp_path / "somebody" / "tiny").rglob("*") if file.is_file()}
    assert kinds == {".safetensors", ".json", ".md"}
    same_answers(model, GeoCBM.from_pretrained("somebody/tiny", revision="main"), pictures)


@pytest.mark.parametrize("name", ["somebody/there-is-none", "not a name/at all/no", ""])
def test_a_model_that_is_nowhere_is_one_sentence(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingInputError, match="geocbm export RUN FOLDER"):
        GeoCBM.from_pretrained(name, local_files_only=True)


def test_what_a_stranger_writes_into_the_configuration_changes_nothing(trained_run, pictures, tmp_path):
    model = GeoCBM.load(trained_run.folder)
    model.save_pretrained(tmp_path / "model")
    write_json(tmp_path / "model" / "config.json", {"folder": "elsewhere", "files": "x", "device": "cuda:7", "a": 1})
    same_answers(model, GeoCBM.from_pretrained(tmp_path / "model", device="cpu"), pictures)


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
    save_arrays(cells, content | {"val_logits": content["val_logits"] * 2})
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
    files.remove(folder / "config.json")  # what the hub shows; the other one is the encoder's
    for file in files:
        whole = file.read_bytes()
        for content in (b"", b"null", whole[:-9], bytes([whole[0] ^ 1]) + whole[1:], files[-1].read_bytes() + b" "):
            file.write_bytes(content)
            with pytest.raises((DamagedError, MissingInputError)):
                GeoCBM.from_pretrained(folder)
        file.write_bytes(whole)
    same_answers(model, GeoCBM.from_pretrained(folder), pictures)

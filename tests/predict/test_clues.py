"""Clues of a person: edits worked out by hand, names, modes, and what the command says of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from geocbm import data
from geocbm.cli import main
from geocbm.data.concepts import ConceptVocabulary
from geocbm.errors import ParameterError
from geocbm.explain.interventions import predict_with_scores
from geocbm.models.stage1 import Stage1ConceptModel
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
from geocbm.models.stage2_config import Stage2Config
from geocbm.predict import GeoCBM
from geocbm.predict.clues import Clue, clue_scores, read_clues

WORDS = ConceptVocabulary(
    ("Red Pole", "White Pole", "Yield Sign"),
    ("Pole", "Sign"),
    {"Red Pole": "Pole", "White Pole": "Pole", "Yield Sign": "Sign"},
)
VALUES = np.array([[0.5, 0.5, 0.6, 0.8, 0.7], [0.01, 0.02, 0.03, 0.1, 0.2]], dtype=np.float32)
SCORES = torch.tensor([[0.1, 0.3, 0.6, 0.4, 0.6]])


@pytest.mark.parametrize(
    ("given", "denied", "expected"),
    [
        (["red pole"], [], [0.5, 0.3, 0.6, 0.8, 0.6]),  # its parent rises with it
        (["yield sign"], [], [0.1, 0.3, 0.6, 0.4, 0.7]),  # as high already; the parent was not
        ([], ["Yield Sign"], [0.1, 0.3, 0.03, 0.4, 0.6]),  # another sign may be there
        (["Pole"], [], [0.2, 0.6, 0.6, 0.8, 0.6]),  # 0.1 + 0.3 grow to 0.8 by the factor 2
        ([], ["Pole"], [0.01, 0.02, 0.6, 0.1, 0.6]),
        (["Pole"], ["White Pole"], [0.2, 0.02, 0.6, 0.8, 0.6]),  # the family first, then the single concept
        (["Sign"], [], [0.1, 0.3, 0.7, 0.4, 0.7]),
        ([], [], SCORES[0].tolist()),
    ],
)
def test_edits_by_hand(given, denied, expected):
    edited = clue_scores(SCORES, read_clues(given, denied, WORDS, VALUES), WORDS, VALUES)
    assert edited[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "denied", "sentence"),
    [
        (["Red Poel"], [], "did you mean 'Red Pole'"),
        ([], ["yield sing"], "--not-clue 'yield sing' is no concept"),
        (["Yield Sign"], ["yield sign"], "choose one"),
        (["Red Pole"], ["Pole"], "contradicts --not-clue 'Pole'"),
    ],
)
def test_refused_clues(given, denied, sentence):
    with pytest.raises(ParameterError, match=sentence):
        read_clues(given, denied, WORDS, VALUES)


def test_what_no_picture_shows_is_refused():
    unseen = VALUES.copy()
    unseen[0, 1] = np.nan
    with pytest.raises(ParameterError, match="'White Pole': no picture"):
        read_clues(["White Pole"], [], WORDS, unseen)
    assert read_clues([], ["White Pole"], WORDS, unseen) == (Clue("White Pole", 1, False),)


def in_mode(model: GeoCBM, mode: str, bottleneck: str) -> GeoCBM:
    """The model with heads of another mode and bottleneck, untrained."""
    torch.manual_seed(0)
    stage1 = model.network.concept_model
    config1 = replace(stage1.config, bottleneck=bottleneck)
    concept = Stage1ConceptModel(
        stage1.in_dim, stage1.meta_base, stage1.parent_base, stage1.meta_to_parent, config1, model.encoder.token_dim
    )
    config, old = Stage2Config(ablation_mode=mode), model.network.geo_head
    width = len(stage1.meta_base) + len(stage1.parent_base) if config.reads_scores else config1.concept_emb_dim
    head = Stage2CrossAttentionGeoHead(width, old.token_dim, old.n_cells, old.cell_centers, config)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.network.concept_model, model.network.geo_head = concept.eval(), head.eval()
    model.decoder = model.refiner = model.calibration = None
    return model


@pytest.mark.parametrize("bottleneck", ["mlp", "patch", "transformer"])
@pytest.mark.parametrize("mode", ["concept_scores", "hybrid", "both", "concept_only"])
def test_the_answer_is_that_of_the_intervention(trained_run, mode, bottleneck):
    model = in_mode(GeoCBM.load(trained_run.folder, "cpu"), mode, bottleneck)
    picture = data.image_files(trained_run.files.table)[0]
    ((before, output),) = [(one.answer, one.output) for one in model.predict_each([picture], keep_output=True)]
    model.set_clues(["red pole"], ["road sign"])
    (reply,) = model.predict_each([picture], keep_output=True)
    answer = reply.answer
    scores, network = output.concepts.probabilities.clone(), model.network
    edited = clue_scores(scores, model.clues, model.concepts, model.context.clue_values)
    said = predict_with_scores(
        network.geo_head, scores, edited, output.concepts.concept_emb.clone(), output.patch_tokens.clone(),
        network.concept_model,
    )  # fmt: skip
    torch.testing.assert_close(reply.output.place.cell_logits, said.cell_logits.detach())
    torch.testing.assert_close(reply.output.concepts.probabilities, edited)
    assert [(clue.name, clue.present) for clue in answer.clues] == [("red pole", True), ("road sign", False)]
    assert answer.without_clues == (before.lat, before.lng)
    assert not torch.equal(reply.output.place.cell_logits, output.place.cell_logits)
    assert model.explain(reply).terms is not None
    model.set_clues()
    assert model.predict(picture)[0].cells == before.cells and not model.predict(picture)[0].clues


def test_a_head_without_concepts_refuses(trained_run):
    model = in_mode(GeoCBM.load(trained_run.folder, "cpu"), "image_only", "mlp")
    with pytest.raises(ParameterError, match="image_only"):
        model.set_clues(["red pole"])
    model.set_clues()


def test_the_command_says_which_clues_were_given(trained_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "named").symlink_to(trained_run.folder)
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path))
    picture, page, lines = data.image_files(trained_run.files.table)[0], tmp_path / "a.html", tmp_path / "a.jsonl"
    asked = ["predict", str(picture), "--run", "named", "--clue", "Red Pole", "--not-clue", "sign"]
    files = ["--html", str(page), "--json", str(lines), "--parquet", str(tmp_path / "a.parquet")]
    assert main([*asked, *files]) == 0
    assert "with red pole" in capsys.readouterr().out and "with red pole" in page.read_text()
    entry = json.loads(lines.read_text())
    assert [(clue["name"], clue["present"]) for clue in entry["clues"]] == [("sign", False), ("red pole", True)]
    assert len(entry["without_clues"]) == 2 and entry["promise_holds"] is not True
    assert main([*asked, "--json", str(lines)]) == 0  # the same clues: the answer is kept
    assert "answered before" in capsys.readouterr().err
    assert main([*asked[:4], "--json", str(lines)]) == 2 and "other clues" in capsys.readouterr().err
    assert main([*asked[:4], "--clue", "redd pole"]) == 2
    assert "did you mean 'red pole'" in capsys.readouterr().err

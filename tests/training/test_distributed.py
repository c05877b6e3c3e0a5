"""Two processes on the CPU get what one gets: losses, gradients, validation values, features, whole stages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed_steps as steps
import numpy as np
import pytest
import torch
from launching import ROOT, launch
from safetensors.torch import load_file

from geocbm.encoders.features import FeatureStore
from geocbm.errors import UserError
from geocbm.files import read_json
from geocbm.models.stage2_inference import concept_input
from geocbm.run import Run, stages
from geocbm.workbench import model_commands

TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, folders) -> SimpleNamespace:
    """What two processes got, and the folder they worked in."""
    from tiny_run import prepare, write_pictures

    folder = tmp_path_factory.mktemp("pair")
    (folder / "clip").symlink_to(folders("clip"))
    files = steps.write_colours(folder / "colours")
    prepare(folder / "data" / "runs" / "tiny", write_pictures(folder / "world"))
    (folder / "broken.png").write_bytes(b"not a picture")
    begin_encoding(files, folder / "begun")
    outcomes = launch(ROOT / "tests" / "distributed_steps.py", str(folder), data=folder / "data")
    assert [outcome.returncode for outcome in outcomes] == [0, 0], "\n".join(outcome.stderr for outcome in outcomes)
    return SimpleNamespace(
        folder=folder,
        files=files,
        out=[outcome.stdout for outcome in outcomes],
        told=[read_json(folder / f"told_{index}.json") for index in range(2)],
        tensors=[load_file(folder / f"tensors_{index}.safetensors") for index in range(2)],
    )


def begin_encoding(files: list[Path], cache: Path) -> None:
    """Leave a store of which one process has written the first six pictures."""

    class Interrupted(steps.MeanColour):
        def lower(self, pixels, top_blocks):
            if self.n_encoded == 6:
                raise KeyboardInterrupt
            return super().lower(pixels, top_blocks)

    with pytest.raises(KeyboardInterrupt):
        steps.encode_features(Interrupted(), files, [file.name for file in files], cache, batch_size=2, progress=False)


def test_processes_know_each_other_and_agree(pair):
    for index, told in enumerate(pair.told):
        assert (told["count"], told["index"]) == (2, index)
        assert told["exchange"] == [{"from": 0, "text": ""}, {"from": 1, "text": "ééé"}]
        assert told["from_main"] == [0]
        # What fails in one fails in both.
        assert told["together"] == ["process 1 cannot", "process 0 cannot"]
    assert [told["shares"] for told in pair.told] == [[[0], [0], [0, 2, 4]], [[0], [1], [1, 3]]]  # row 0 is borrowed


def test_a_single_process_asks_nobody():
    assert (steps.process_count(), steps.process_index()) == (1, 0)
    assert steps.all_gather_object("x") == ["x"]
    value = torch.randn(3, 2, requires_grad=True)
    assert steps.gather_rows(value) is value
    with pytest.raises(UserError, match="no"):
        steps.raise_together(lambda: (_ for _ in ()).throw(UserError("no")))


def test_rows_are_gathered_in_the_order_of_the_processes_with_gradients(pair):
    first, second = pair.tensors
    rows = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [100.0, 101.0]])
    for tensors in pair.tensors:
        assert torch.equal(tensors["uneven.rows"], rows)
        assert torch.equal(tensors["uneven.whole"], torch.tensor([0, 1, 2, 10]))
        assert torch.equal(tensors["none.rows"], torch.tensor([[100.0, 101.0], [102.0, 103.0]]))
        assert torch.equal(tensors["none.flags"], torch.ones(2, 1, dtype=torch.bool))
    # Row i has the weight i + 1; each gradient is the sum over two processes that compute the same.
    assert torch.equal(first["uneven.gradient"], torch.tensor([[2.0], [4.0], [6.0]]).expand(3, 2))
    assert torch.equal(second["uneven.gradient"], torch.tensor([[8.0, 8.0]]))
    assert first["none.gradient"].shape == (0, 2)
    assert torch.equal(second["none.gradient"], torch.tensor([[2.0], [4.0]]).expand(2, 2))


def test_however_a_batch_is_read_its_entries_are_those_of_the_global_batch(pair):
    whole = {"uneven": [0.0, 1.0, 2.0, 10.0], "borrowed": [0.0, 1.0]}
    for told in pair.told:
        for name, rows in whole.items():
            read = told["read"][name]
            assert {way: read[way] for way in steps.READINGS} == dict.fromkeys(steps.READINGS, rows)
            assert (read["names"], read["length"], read["lacks"]) == (["x", "name"] * 2, 2, "nothing")
            assert read["has"] == [True, False, False]


@pytest.mark.parametrize("rows", steps.ROWS)
@pytest.mark.parametrize("stage", steps.STEPS)
def test_loss_and_gradients_are_those_of_one_process_with_the_global_batch(pair, folders, stage, rows):
    expected = steps.step_of_stage(stage, steps.ROWS[rows], folders("clip"))
    names = {name for name, value in expected["gradients"].items() if value.abs().max() > 0}
    if rows == "odd":
        least = {
            "stage0": {"gps_adapter.weight", "prototype_projection.weight", "patch_projection.weight"},
            "stage1": {"delta_meta", "delta_parent", "prototype_projection.weight", "logit_scale_meta"},
            "stage1_unlabelled": {"delta_meta", "delta_parent", "prototype_projection.weight", "logit_scale_meta"},
            "stage2": {"cell_head.weight"},
        }[stage]
        assert least <= names
        assert stage != "stage0" or any(name.startswith("encoder.") and ".layers.1." in name for name in names)
    for told, tensors in zip(pair.told, pair.tensors, strict=True):
        assert told["losses"][f"{stage}.{rows}"] == pytest.approx(expected["losses"], rel=1e-5, abs=1e-6)
        for name, gradient in expected["gradients"].items():
            found = tensors[f"{stage}.{rows}.{name}"]
            torch.testing.assert_close(
                found, gradient, **TOLERANCE, msg=lambda text, name=name: f"gradient of {name}: {text}"
            )
    assert pair.told[0]["losses"] == pair.told[1]["losses"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_whole_training_is_that_of_one_process(pair, accumulation):
    history, weights = steps.few_epochs(accumulation)
    first, second = (told["history"][str(accumulation)] for told in pair.told)
    assert first == second
    assert set(first) == set(history)
    for name, values in history.items():
        np.testing.assert_allclose(first[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    for name, value in weights.items():
        first, second = (tensors[f"weights.{accumulation}.{name}"] for tensors in pair.tensors)
        assert torch.equal(first, second)
        # AdamW turns a gradient of almost nothing into a step of the learning rate's size.
        torch.testing.assert_close(first, value.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", [4, 13, 23])  # one, three and five batches for two processes
def test_validation_values_are_those_of_one_process(pair, n):
    expected = steps.values_in_order(n)
    torch.manual_seed(0)
    output = torch.nn.Linear(3, 2)(steps.draw(30, 3, seed=9)[:n]).detach()  # row i has the weight i + 1
    assert expected["loss"] == pytest.approx(float(output.square().mean()), rel=1e-5)
    assert expected["ordered"] == pytest.approx(float((output.sum(1) * torch.arange(1, n + 1)).sum()), rel=1e-4)
    for told in pair.told:
        assert told["values"][str(n)] == pytest.approx(expected, rel=1e-12)


def test_a_loss_that_is_not_finite_is_told_once_with_the_row_of_the_other_process(pair):
    assert pair.told[0]["not_finite"] == pair.told[1]["not_finite"]
    assert "the features of ill contain NaN" in pair.told[0]["not_finite"]


def test_pictures_are_divided_among_the_processes(pair, tmp_path):
    fresh, begun, again = zip(*(told["encoded"] for told in pair.told), strict=True)
    assert (sorted(fresh), sorted(begun), again) == ([5, 6], [2, 3], (0, 0))
    steps.encode(pair.files, tmp_path)
    (expected,) = (FeatureStore.open(path) for path in tmp_path.iterdir())
    for name in ("fresh", "begun"):
        (path,) = (pair.folder / name).iterdir()
        assert sorted(file.name for file in path.iterdir()) == [
            "digests.parquet",
            "manifest.json",
            "pooled.float16",
            "tokens.float16",
        ]
        store = FeatureStore.open(path)
        assert torch.equal(store.read_all("pooled"), expected.read_all("pooled"))
        assert torch.equal(store.read_all("tokens"), expected.read_all("tokens"))


def test_a_picture_that_cannot_be_read_stops_all_and_what_is_done_is_kept(pair):
    assert pair.told[0]["broken"] == pair.told[1]["broken"]
    assert "broken.png' cannot be read" in pair.told[0]["broken"]
    (path,) = (pair.folder / "halted").iterdir()
    assert {"progress_0.json", "progress_1.json"} <= {file.name for file in path.iterdir()}
    steps.write_colours(pair.folder / "mended", 12)
    mended = pair.folder / "mended" / "11.png"
    mended.replace(pair.folder / "broken.png")
    # One process goes on where two were stopped: 6 + 4 of 12 pictures were there.
    assert steps.encode([*pair.files, pair.folder / "broken.png"], pair.folder / "halted") == 2
    store = FeatureStore.open(path)
    assert torch.equal(store.read_all("pooled")[:, 0], 20.0 * torch.arange(12))


def test_the_command_trains_all_stages_and_one_process_speaks(pair):
    assert pair.out[1].splitlines() == ["training"]
    lines = pair.out[0].split("training\n")[1].splitlines()
    for stage in steps.STAGES:
        assert [line for line in lines if line.startswith(f"data/runs/tiny/{stage}.safetensors: epoch ")]
    assert sum(line.startswith("epoch 2/2") for line in lines) >= 2
    assert lines.count("the concepts alone:") == 1
    files = Run(pair.folder / "data" / "runs" / "tiny")
    features = files.features("adapted")
    model = stages.load_stage2(files)
    concepts = concept_input(model.config, stages.predict_concepts(files, features))
    assert torch.isfinite(model(concepts, features.read_all("tokens")).cell_logits).all()
    assert [file.name for file in files.folder.iterdir() if file.name.startswith(".")] == [".lock"]


@pytest.mark.parametrize(
    ("rank", "problem", "seconds"),
    [(0, UserError("no table"), []), (1, UserError("no table"), [10]), (0, RuntimeError("peer gone"), [10])],
)
def test_whoever_has_nothing_to_say_waits_to_be_ended(monkeypatch, rank: int, problem: Exception, seconds: list[int]):
    def fail(*_: Any) -> None:
        raise problem

    waited: list[float] = []
    for name, value in {"WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    monkeypatch.setattr(model_commands, "train_stage", fail)
    monkeypatch.setattr(model_commands.time, "sleep", waited.append)
    with pytest.raises(type(problem)):
        model_commands.fit("stage2", "tiny", "demo", None, [])
    assert waited == seconds

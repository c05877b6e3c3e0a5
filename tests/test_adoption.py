"""A checkpoint of another run is used like the run's own, and refused where it does not belong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_lineage import change, other_weights
from tiny_run import STAGE1, TinyRun

from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import read_json, sha256_file
from geocbm.run import Run, adoption, encoding, stages


@pytest.fixture
def other(trained_run: TinyRun, tmp_path: Path) -> TinyRun:
    """A run of the same table and splits whose Stages 0 and 1 have other weights."""
    run = trained_run.copy(tmp_path / "other")
    other_weights(run.files.path("stage0.safetensors"))
    return run


def test_a_stage_0_of_another_run_takes_the_place_of_the_own(copied_run, other):
    files, given = copied_run.files, other.folder / "stage0.safetensors"
    own = files.features("adapted")
    before = own.read_all("pooled")
    adoption.take_stage0(files, given)
    assert files.need("stage0.safetensors").name == "stage0_adopted.safetensors"
    assert files.digest("stage0") == sha256_file(given)
    with pytest.raises(MismatchError, match="another stage0"):
        stages.load_stage1(files)  # trained on the features of the own one
    features = files.features("adapted")
    assert features.fingerprint == encoding.load_stage0(files)[1].fingerprint() != own.fingerprint
    assert not torch.allclose(features.read_all("pooled"), before)
    stages.fit_stage1(files, STAGE1, features)
    assert read_json(files.path("stage1.json"))["labels"]["made_from"]["stage0"] == sha256_file(given)
    stages.load_stage1(files)
    adoption.take_stage0(files, "")
    assert files.need("stage0.safetensors").name == "stage0.safetensors"
    assert not list(files.folder.glob("*_adopted*"))
    with pytest.raises(MismatchError, match="another stage0"):
        stages.load_stage1(files)


def test_a_stage_1_of_another_run_takes_the_place_of_the_own(copied_run, trained_run, tmp_path):
    giver = trained_run.copy(tmp_path / "giver")
    other_weights(giver.files.path("stage1.safetensors"))
    files, given = copied_run.files, giver.folder / "stage1.safetensors"
    features = files.features("adapted")
    adoption.take_stage1(files, given, features)
    assert load_file(files.need("stage1.safetensors")).keys() == load_file(given).keys()
    assert files.digest("stage1") == sha256_file(given)
    assert files.need("concept_scores.npz").name == "concept_scores_adopted.npz"
    with pytest.raises(MismatchError, match="another stage1"):
        stages.load_stage2(files)
    adoption.remove_leftovers(files, "stage1", [])
    assert files.need("stage1.safetensors").name == "stage1_adopted.safetensors"
    adoption.take_stage1(files, "", features)
    stages.load_stage2(files)


@pytest.mark.parametrize(
    ("what", "words"),
    [("splits", "other splits"), ("table", "another table"), ("prototypes", "other text prototypes")],
)
def test_a_checkpoint_trained_on_something_else_is_refused(copied_run, other, what, words):
    """No run may learn from a Stage 0 that has seen its validation or test split."""
    change(copied_run, what)
    with pytest.raises(MismatchError, match=rf"{words} than run 'tiny' has; .* geocbm run --run tiny --from 03$"):
        adoption.take_stage0(copied_run.files, other.folder / "stage0.safetensors")
    assert not list(copied_run.folder.glob("*_adopted*"))


def test_a_stage_1_of_another_stage_0_is_refused(copied_run, other):
    files = copied_run.files
    adoption.take_stage0(files, other.folder / "stage0.safetensors")
    features = files.features("adapted")
    with pytest.raises(MismatchError, match=r"another stage0\.safetensors than run 'tiny' has"):
        adoption.take_stage1(files, other.folder / "stage1.safetensors", features)


def test_what_is_no_checkpoint_is_named(copied_run, other):
    files = copied_run.files
    with pytest.raises(ParameterError, match=r"stage0_checkpoint='.*' is no checkpoint"):
        adoption.take_stage0(files, other.folder)
    with pytest.raises(MissingInputError, match="does not exist"):
        adoption.take_stage0(files, other.folder / "none.safetensors")
    with pytest.raises(MismatchError, match="is a checkpoint of stage 1, not of stage 0"):
        adoption.take_stage0(files, other.folder / "stage1.safetensors")
    (other.folder / "stage0.json").unlink()
    with pytest.raises(MissingInputError, match=r"stage0\.json does not exist"):
        adoption.take_stage0(files, other.folder / "stage0.safetensors")


LEFT = (
    "stage2_both.safetensors",
    "stage2_both.json",
    "stage2_both_neighbours.safetensors",
    "history_stage2_both.parquet",
    "stage2_both_decoding.json",
    "stage2_hybrid.resume.safetensors",
    "stage2_hybrid_linear_part.safetensors",
)
KEPT = (
    "stage2.safetensors",
    "stage2.json",
    "stage2_neighbours.safetensors",
    "stage2_decoding.json",
    "stage2_linear_part.safetensors",
    "history_stage2_linear_part.parquet",
    "history_stage2.parquet",
    "stage2.resume.safetensors",
    "stage2_concept_scores.safetensors",
    "history_stage2_concept_scores.parquet",
    "stage1.safetensors",
    "geocells.npz",
)


def test_only_the_heads_of_this_execution_stay(tmp_path: Path) -> None:
    for name in (*LEFT, *KEPT):
        (tmp_path / name).touch()
    trained = ["hybrid_", "concept_scores"]
    assert adoption.remove_leftovers(Run(tmp_path), "stage2", trained) == sorted(LEFT)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(KEPT)

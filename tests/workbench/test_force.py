"""`--force` trains again: the checkpoints of a stage and of its variants are what no training takes over."""

from __future__ import annotations

import pytest

from geocbm.files import read_json, write_json
from geocbm.workbench import execute
from geocbm.workbench.stages import read_chain


@pytest.mark.parametrize(
    ("number", "forgotten"),
    [("03", ["stage0"]), ("04", ["stage1"]), ("05", ["stage2", "stage2_concept_only"]), ("06", [])],
)
def test_a_forced_stage_forgets_its_own_trainings_and_no_others(number, forgotten, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path))
    folder = tmp_path / "runs" / "some"
    folder.mkdir(parents=True)
    names = ["stage0", "stage0_adopted", "stage1", "stage1_adopted", "stage2", "stage2_concept_only"]
    for name in names:
        write_json(folder / f"{name}.json", {"training": {"key": name}, "config": {}})
    stage = next(stage for stage in read_chain().stages if stage.number == number)
    execute.forget_trainings(stage, "some")
    assert [name for name in names if "training" not in read_json(folder / f"{name}.json")] == forgotten

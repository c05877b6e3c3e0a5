"""Two nodes, simulated: a process on each, with a project, home and temporary folder of its own, and shared data."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from launching import ROOT, launch
from safetensors.torch import load_file

from geocbm.workbench.model_commands import fit

SCRIPT = """
import os, signal, sys, time
from geocbm.cli import main
from geocbm.training import loop
words = sys.argv[1:]
if words[0] == "die":
    words = words[1:]
    whole = loop.Training.epoch
    def dying(self, epoch):
        if os.environ["RANK"] == "1" and epoch == 2:
            print(time.time(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, epoch)
    loop.Training.epoch = dying
status = main(["fit", *words])
print(time.time(), flush=True)
sys.exit(status)
"""
COMMON = ["dropout=0", "batch_size=13", "epochs=3", "patience=9"]
STAGE2 = [*COMMON, "ablation_mode=both"]  # which trains once


@pytest.fixture(scope="module")
def world(folders, tmp_path_factory) -> SimpleNamespace:
    """What one process trains, and two nodes."""
    from tiny_run import prepare, write_pictures

    folder = tmp_path_factory.mktemp("nodes")
    (folder / "script.py").write_text(SCRIPT)
    csv = write_pictures(folder / "world")
    for name in ("one", "two", "other"):
        prepare(folder / name / "runs" / "tiny", csv)
    stage0 = [
        f"image_encoder={folders('clip')}",
        "unfreeze_layers=1",
        "patch_keep=1",
        *COMMON,
    ]  # each node draws its own patches
    nodes = []
    for number in range(2):
        root = folder / f"node{number}"
        shutil.copytree(ROOT / "notebooks", root / "notebooks")
        (root / "tmp").mkdir()
        nodes.append({"GEOCBM_ROOT": str(root), "HOME": str(root), "TMPDIR": str(root / "tmp")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOCBM_DATA", str(folder / "one"))
        for stage, settings in (("stage0", stage0), ("stage1", ["epochs=1"]), ("stage2", STAGE2)):
            assert fit(stage, "tiny", "demo", None, settings) == 0
    return SimpleNamespace(folder=folder, nodes=nodes, stage0=stage0)


def train(world, *words: str, settings: list[str], data: str, nodes=None):
    given = [word for text in settings for word in ("--set", text)]
    place = world.folder / data
    return launch(world.folder / "script.py", *words, "--run", "tiny", *given, data=place, nodes=nodes or world.nodes)


def assert_same(stage: str, one: Path, two: Path, rtol: float, atol: float) -> None:
    first, second = (pd.read_parquet(data / "runs/tiny" / f"history_{stage}.parquet") for data in (one, two))
    assert list(first) == list(second) and len(first) == 3
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=rtol, atol=atol, err_msg=name)
    weights, found = (load_file(data / "runs/tiny" / f"{stage}.safetensors") for data in (one, two))
    assert weights.keys() == found.keys()
    for name, value in weights.items():  # AdamW turns a gradient of almost nothing into a step of the rate's size
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=max(atol, 2e-3))


def test_stage_0_on_two_nodes_is_that_of_one_process(world):
    first, second = train(world, "stage0", settings=world.stage0, data="two")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert_same("stage0", world.folder / "one", world.folder / "two", rtol=1e-3, atol=1e-4)


def test_a_node_that_dies_in_stage_2_ends_the_other_and_the_same_command_goes_on(world):
    shutil.copytree(world.folder / "one", world.folder / "three")
    for file in (world.folder / "three" / "runs" / "tiny").glob("*stage2*"):
        file.unlink()
    first, second = train(world, "die", "stage2", settings=STAGE2, data="three")
    assert (first.returncode, second.returncode) == (2, -9), first.stderr
    (sentence,) = [line for line in first.stderr.splitlines() if line.startswith("geocbm:")]
    assert "another of the processes has ended before its work was done; start the same command again" in sentence
    assert "Traceback" not in first.stderr
    first, second = train(world, "stage2", settings=STAGE2, data="three")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "epoch 1/3" not in first.stdout and "epoch 3/3" in first.stdout
    assert_same("stage2", world.folder / "one", world.folder / "three", rtol=1e-3, atol=1e-4)


def test_nodes_that_do_not_share_their_data_are_refused(world):
    apart = [
        node | {"GEOCBM_DATA": str(world.folder / name)}
        for node, name in zip(world.nodes, ("two", "other"), strict=True)
    ]
    first, second = train(world, "stage1", settings=["epochs=1"], data="two", nodes=apart)
    assert (first.returncode, second.returncode) == (2, 2), first.stderr + second.stderr
    assert first.stderr.count("process 1 does not see ") == 1 and "GEOCBM_DATA" in first.stderr
    assert not list((world.folder / "two").glob(".*"))

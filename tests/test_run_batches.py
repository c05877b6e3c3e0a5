"""Runs opened by name, their batches and loaders."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import geocbm
from geocbm.errors import MissingInputError, ParameterError
from geocbm.run import Run, open_run

LABELS = {"row", "lat", "lng", "concept_idx", "parent_idx", "cell_label"}
TEXTS = {"image", "pano_id", "meta_name", "parent_concept", "country"}


@pytest.fixture
def data_root(copied_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    copied_run.folder.rename(tmp_path / "runs" / "tiny")
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path))
    return tmp_path


def test_importing_the_package_does_not_import_torch():
    code = "import geocbm, sys; assert geocbm.__version__; assert 'torch' not in sys.modules; geocbm.open_run"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match=r"no attribute 'absent'"):
        _ = geocbm.absent


def test_a_run_opens_by_name_by_folder_and_as_the_newest_one(data_root):
    assert open_run("tiny").name == open_run(data_root / "runs" / "tiny").name == geocbm.open_run().name == "tiny"
    assert open_run("tiny").cache == data_root / "cache"
    (data_root / "runs" / "begun").mkdir()
    assert open_run().name == "tiny"
    with pytest.raises(ParameterError, match=r"no run 'tinny'; did you mean 'tiny'\? runs: begun, tiny"):
        open_run("tinny")
    (data_root / "runs" / "tiny" / "predictions.parquet").unlink()
    with pytest.raises(MissingInputError, match=r"geocbm run"):
        open_run()


def test_a_batch_holds_what_the_table_and_the_stores_hold(trained_run):
    files = trained_run.files
    batch = files.batch("val", 4)
    assert set(batch) == LABELS | TEXTS | {"pooled", "patch_tokens", "hidden"}
    rows = batch["row"].numpy()
    assert len(rows) == 4 and set(rows) <= set(files.rows["val"]) and len(set(rows)) == 4
    for name, values in {"lat": files.lat, "lng": files.lng, "cell_label": files.cell_label}.items():
        np.testing.assert_array_equal(batch[name].numpy(), values[rows])
    assert [files.concepts.metas[index] for index in batch["concept_idx"]] == batch["meta_name"]
    assert [files.concepts.parents[index] for index in batch["parent_idx"]] == batch["parent_concept"]
    assert [image.size for image in batch["image"]] == [(48, 40)] * 4
    adapted, vanilla = files.features("adapted"), files.features("vanilla")
    torch.testing.assert_close(batch["pooled"], adapted.read("pooled", rows))
    torch.testing.assert_close(batch["patch_tokens"], adapted.read("tokens", rows))
    torch.testing.assert_close(batch["hidden"], vanilla.read("hidden:1", rows))
    assert files.batch("val", 4)["pano_id"] == batch["pano_id"]
    assert len(files.batch("val", 1000)["row"]) == len(files.rows["val"])


def test_the_shapes_of_a_batch_are_a_table(trained_run):
    batch = trained_run.files.batch("train", 3)
    shapes = batch.shapes()
    assert list(shapes.columns) == ["shape", "dtype", "meaning"] and list(shapes.index) == list(batch)
    assert shapes.loc["lat", "shape"] == (3,) and shapes.loc["lat", "dtype"] == "float64"
    assert shapes.loc["image", "dtype"] == "list of Image" and shapes["meaning"].all()
    assert "patch_tokens" in repr(batch)


def test_what_a_run_has_not_yet_is_left_out_of_a_batch(copied_run):
    for name in ("geocells.npz", "features.json"):
        copied_run.files.path(name).unlink()
    assert set(copied_run.files.batch("train", 2)) == (LABELS | TEXTS) - {"cell_label"}
    with pytest.raises(MissingInputError, match=r"no pooled yet.*--from 03"):
        copied_run.files.loader("train")


def test_a_loader_reads_the_columns_that_are_asked_for(trained_run):
    files = trained_run.files
    (first, *_), loader = list(files.loader("train", 10)), files.loader("train", 10)
    assert set(first) == LABELS | {"pooled"}
    assert np.concatenate([batch["row"].numpy() for batch in loader]).tolist() == files.rows["train"].tolist()
    assert set(next(iter(files.loader("val", 5, ["hidden"])))) == LABELS | {"hidden"}
    own = torch.arange(len(files.table))
    batch = next(iter(files.loader("val", 5, ["patch_tokens"], concept_emb=own)))
    assert set(batch) == LABELS | {"patch_tokens", "concept_emb"}
    assert batch["concept_emb"].tolist() == batch["row"].tolist()


def test_a_loader_reads_what_the_forward_of_a_model_names(trained_run):
    class Head(torch.nn.Module):
        def forward(self, pooled, patch_tokens, concept_emb=None):
            return pooled

    assert set(next(iter(trained_run.files.loader("train", 4, Head())))) == LABELS | {"pooled", "patch_tokens"}


def test_unknown_splits_columns_and_short_tensors_are_named(trained_run):
    files = trained_run.files
    with pytest.raises(ParameterError, match=r"no split 'dev'.*train, val"):
        files.batch("dev")
    with pytest.raises(ParameterError, match=r"no 'pixels'.*pooled"):
        files.loader("train", columns=["pixels"])
    with pytest.raises(ParameterError, match=r"columns='pooled' is a text"):
        files.loader("train", columns="pooled")
    with pytest.raises(ParameterError, match=r"mine has 3 rows"):
        files.loader("train", mine=torch.zeros(3))
    with pytest.raises(ParameterError, match=r"'other'.*'adapted'"):
        files.features("other")


def test_the_remedy_is_the_recorded_command_of_the_run(copied_run, tmp_path):
    from geocbm.files import write_json

    command = "geocbm run --profile demo --run tiny --set 01.csv=my/photos.csv"
    write_json(copied_run.folder / "command.json", {"command": command})
    assert copied_run.files.remedy("stage2.safetensors") == f"{command} --from 05"
    assert Run(tmp_path / "another").remedy("table.parquet") == "geocbm run --run another --from 01"


def test_a_batch_without_features_asks_for_none_that_are_out_of_date(copied_run):
    copied_run.files.path("prototypes.safetensors").write_bytes(b"made anew since Stage 0 was trained")
    assert set(copied_run.files.batch("train", 2, features=False)) == LABELS | TEXTS

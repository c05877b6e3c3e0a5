"""Every file of a run against every thing it may have been made from: what belongs is opened, all else is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from tiny_run import STAGE1, STAGE2, TinyRun, write_cells

from geocbm import data
from geocbm.data.concepts import ConceptVocabulary
from geocbm.errors import MismatchError, UserError
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation.uncertainty.assessment import read_cell_scores
from geocbm.files import SEAL, lineage, owners, read_json, sha256_file, write_json
from geocbm.files.stored import save_frame
from geocbm.predict import GeoCBM
from geocbm.run import encoding, stages

FILES = (
    "geocells.npz",
    "prototypes.safetensors",
    "stage0.safetensors",
    "features.json",
    "stage1.safetensors",
    "concept_scores.npz",
    "stage2.safetensors",
    "stage2_concept_only.safetensors",
    "stage2_neighbours.safetensors",
    "predictions.parquet",
    "cell_scores.npz",
)
HEADS = {name: "05" for name in FILES if name.startswith("stage2")}
LATER = HEADS | {"predictions.parquet": "05", "cell_scores.npz": "05"}
CONCEPTS = {"stage1.safetensors": "04", "concept_scores.npz": "04"}
FROM_03 = {"stage0.safetensors": "03", "features.json": "03", **dict.fromkeys(CONCEPTS, "03")}
FROM_02 = {"geocells.npz": "02", **dict.fromkeys(LATER, "02")}

REFUSED = {  # what is other than it was: the files that are refused, each with the notebook to begin with
    "nothing": {},
    "splits rewritten": {},
    "splits": FROM_03 | FROM_02,
    "table": FROM_03 | FROM_02,
    "names": FROM_03 | FROM_02 | {"prototypes.safetensors": "03"},
    "cells": LATER,
    "prototypes": FROM_03 | dict.fromkeys(LATER, "03") | {"stage2_neighbours.safetensors": "03"},
    "stage0": {"features.json": "03"} | CONCEPTS | dict.fromkeys(LATER, "04") | {"stage2_neighbours.safetensors": "05"},
    "stage1": {"concept_scores.npz": "04"} | LATER,
    "stage2": {"predictions.parquet": "05", "cell_scores.npz": "05"},
    "stage2_concept_only": {"predictions.parquet": "05"},
}
# What depends on concepts of this Stage 1 only.
del REFUSED["stage1"]["stage2_neighbours.safetensors"]


@pytest.fixture
def whole_run(copied_run: TinyRun) -> TinyRun:
    """The tiny run with training pictures that refine places."""
    files = copied_run.files
    name = "stage2_neighbours.safetensors"
    features = files.features("adapted")
    stages.make_refiner(files, features).save(files.path(name), files.made_from(name))
    places = pd.read_parquet(files.path("predictions.parquet"))
    places.attrs["made_from"] = files.made_from("predictions.parquet", "stage2_concept_only")
    save_frame(files.path("predictions.parquet"), places)
    return copied_run


def other_weights(path: Path) -> None:
    """Another checkpoint of the same shape, whole in itself."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    tensors = load_file(path)
    save_file({name: value + 0.01 for name, value in tensors.items()}, path, header.get("__metadata__"))
    if path.with_suffix(".json").exists():
        write_json(
            path.with_suffix(".json"), read_json(path.with_suffix(".json")) | {"tensors_sha256": sha256_file(path)}
        )


def change(run: TinyRun, what: str) -> None:
    """Make one thing of a run other than it was, as a notebook would write it."""
    files = run.files
    table = files.table.copy()
    table.attrs = dict(files.table.attrs)
    if what == "splits rewritten":
        content = read_json(files.path("splits.json"))
        content["splits"] = {name: list(reversed(members)) for name, members in content["splits"].items()}
        files.path("splits.json").write_text(json.dumps(content), encoding="utf-8")
    elif what == "splits":
        splits = data.make_splits(table, seed=1)
        data.save_splits(splits, files.path("splits.json"), table, kind="stratified", seed=1)
    elif what == "table":
        table.loc[0, "lat"] += 0.001
        data.save_table(table, files.path("table.parquet"))
    elif what == "names":
        table["meta_name"] = table["meta_name"].replace("a road", "the road")
        data.save_table(table, files.path("table.parquet"))
        ConceptVocabulary.from_table(table).save(files.path("concepts.json"))
    elif what == "cells":
        write_cells(files, min_samples_per_cell=1000)
    elif what != "nothing":
        other_weights(files.path(f"{what}.safetensors"))


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_is_refused_when_it_was_made_from_something_else(whole_run, what):
    change(whole_run, what)
    files = whole_run.files
    for name in FILES:
        expected = REFUSED[what].get(name)
        if expected is None:
            assert files.need(name) == files.path(name) and files.belongs(name)
            continue
        with pytest.raises(MismatchError, match=rf"run 'tiny' .* geocbm run --run tiny --from {expected}$"):
            files.need(name)
        assert not files.belongs(name)


@pytest.mark.parametrize(
    "load",
    [
        lambda run: encoding.load_stage0(run.files),
        lambda run: stages.load_stage1(run.files),
        lambda run: stages.load_stage2(run.files),
        lambda run: stages.load_stage2(run.files, "stage2_concept_only"),
        lambda run: run.files.features("adapted"),
        lambda run: run.files.features("vanilla"),
        lambda run: evaluation.stage_answers(run.files),
        lambda run: evaluation.stored_predictions(run.files),
        lambda run: read_cell_scores(run.files),
        lambda run: run.files.cells,
        lambda run: GeoCBM.load(run.folder),
    ],
)
def test_whatever_opens_a_run_refuses_what_was_trained_on_its_test_split(whole_run, load):
    load(whole_run)
    change(whole_run, "splits")
    with pytest.raises(MismatchError, match=r"other splits than the run has now.* geocbm run --run tiny --from 0[23]$"):
        load(whole_run)


@pytest.mark.parametrize("stage", [1, 2])
def test_no_stage_is_trained_upon_what_does_not_belong_to_the_run(whole_run, stage):
    files = whole_run.files
    features = files.features("adapted")
    concepts = stages.predict_concepts(files, features)
    before = files.path(f"stage{stage}.safetensors").read_bytes()
    change(whole_run, "splits")
    with pytest.raises(MismatchError, match="other splits"):
        if stage == 1:
            stages.fit_stage1(whole_run.files, STAGE1, features)
        else:
            stages.fit_stage2(whole_run.files, STAGE2, concepts, features)
    assert files.path(f"stage{stage}.safetensors").read_bytes() == before


def test_the_command_fit_refuses_what_does_not_belong_and_waits_for_nobody(whole_run, monkeypatch, tmp_path):
    from geocbm.workbench import model_commands

    root = tmp_path / "data"
    (root / "runs").mkdir(parents=True)
    whole_run.folder.rename(root / "runs" / "tiny")
    whole_run.cache.rename(root / "cache")
    run = TinyRun(root / "runs" / "tiny", root / "cache", whole_run.images)
    monkeypatch.setenv("GEOCBM_DATA", str(root))
    wanted = ("stage2", "tiny", "smoke", None, ["epochs=1", "variants=[]"])
    with owners.only_one(run.folder / owners.LOCK, "run 'tiny'"), pytest.raises(UserError, match="another process"):
        model_commands.train_stage(*wanted)
    model_commands.train_stage(*wanted)
    assert run.files.belongs("stage2.safetensors") and not run.files.belongs("cell_scores.npz")
    change(run, "splits")
    with pytest.raises(MismatchError, match="other splits"):
        model_commands.train_stage(*wanted)


def drop_record(path: Path) -> None:
    """A file as it would be without its record."""
    if lineage.is_checkpoint(path.name):
        content = read_json(path.with_suffix(".json"))
        del content["labels"]["made_from"]
        write_json(path.with_suffix(".json"), content)
    elif path.suffix == ".json":
        write_json(path, {key: value for key, value in read_json(path).items() if key != "made_from"})
    elif path.suffix == ".npz":
        with np.load(path) as stored:
            kept = {key: stored[key] for key in stored if key not in ("made_from", SEAL)}
        np.savez(path, **kept)
    elif path.suffix == ".safetensors":
        save_file(load_file(path), path)
    else:
        frame = pd.read_parquet(path)
        frame.attrs = {}
        frame.to_parquet(path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_does_not_say_what_it_was_made_from_is_refused_with_its_remedy(whole_run, name):
    drop_record(whole_run.folder / name)
    with pytest.raises(MismatchError, match=r"does not say what it was made from.* geocbm run --run tiny --from 0\d$"):
        whole_run.files.need(name)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"labels": 3}'])
def test_a_damaged_description_is_one_sentence(whole_run, content):
    whole_run.files.path("stage1.json").write_text(content)
    with pytest.raises(MismatchError, match=r"is damaged.* geocbm run --run tiny --from 04$"):
        whole_run.files.need("stage1.safetensors")


def test_a_damaged_file_has_no_record_and_is_no_traceback(tmp_path):
    for suffix in (".json", ".npz", ".safetensors", ".parquet"):
        for content in (b"", b"{}", b"\x00" * 40, b"[1]"):
            (tmp_path / f"file{suffix}").write_bytes(content)
            assert lineage.read_record(tmp_path / f"file{suffix}") is None
        assert lineage.read_record(tmp_path / f"absent{suffix}") is None


def test_digests_in_parts_are_those_of_the_whole(whole_run, monkeypatch):
    table, splits = whole_run.files.table, {"val": ["é", "b"], "train": ['a"', "c", "a"], "test": []}
    by_hand = hashlib.sha256()
    for column in [column for column in lineage.COLUMNS if column in table]:
        values = table[column]
        of_place = column in ("lat", "lng")
        by_hand.update(f"\0{column}\0".encode())
        by_hand.update(values.to_numpy().tobytes() if of_place else "\0".join(values).encode())
    monkeypatch.setattr(lineage, "_AT_ONCE", 7)
    assert lineage.table_digest(table) == by_hand.hexdigest()
    text = '{"test": [], "train": ["a", "a\\"", "c"], "val": ["b", "é"]}'
    assert lineage.splits_digest(splits) == hashlib.sha256(text.encode()).hexdigest()


def test_digests_see_content_and_nothing_else(whole_run):
    table = whole_run.files.table
    assert lineage.table_digest(table.assign(note="other", extra=1)) == lineage.table_digest(table)
    for column in lineage.COLUMNS:
        other = table.copy()
        other[column] = other[column].to_numpy()[::-1] if column in table else "Bollard"
        assert lineage.table_digest(other) != lineage.table_digest(table), column
    splits = {"train": ["b", "a"], "test": ["c"]}
    assert lineage.splits_digest(splits) == lineage.splits_digest({"test": ["c"], "train": ["a", "b"]})
    assert lineage.splits_digest(splits) != lineage.splits_digest({"train": ["b", "c"], "test": ["a"]})

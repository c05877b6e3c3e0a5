"""The one door to the files of a run: each kind, damaged in every way, ends in one sentence with the remedy."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from geocbm.errors import DamagedError, MismatchError, MissingInputError
from geocbm.evaluation.methods import stored_predictions
from geocbm.evaluation.uncertainty.assessment import read_cell_scores
from geocbm.files import read_json, sealed, sha256_file, write_json
from geocbm.files.stored import opened, save_arrays, save_frame, save_tensors
from geocbm.run.files import RunFiles

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(3, dtype=np.float16),
    "n": np.zeros((0, 2)),
}


def write_object(path: Path) -> None:
    write_json(path, {"content_sha256": "", "names": ["Ä", "b"], "lr": 0.1, "by": {2: "two"}})


def write_frame(path: Path) -> None:
    pd.DataFrame({"x": np.arange(500), "name": ["a"] * 500}).to_parquet(path, write_page_checksum=True)


WRITERS = {
    "x.json": write_object,
    "x.npz": lambda path: np.savez_compressed(path, **TENSORS),
    "x.safetensors": lambda path: save_tensors(path, TENSORS, {"made_from": "{}", "lacks": ""}),
    "x.parquet": write_frame,
}


def flipped(content: bytes, place: float) -> bytes:
    changed = bytearray(content)
    changed[int(len(content) * place)] ^= 1
    return bytes(changed)


DAMAGES = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "end": lambda content: content[:-1],
    "null": lambda content: b"null",
    "list": lambda content: b"[]",
    "deep": lambda content: b"[" * 200_000,
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "zeros": lambda content: bytes(len(content)),
    "no text": lambda content: b"\xff" + content,
    "long header": lambda content: b"\xff" * 8 + content[8:],
    "flipped": lambda content: flipped(content, 0.3),
}


FRAME = pd.DataFrame(
    {"lat": [1.5, np.nan], "row": [3, 1], "main": [True, False], "country": ["Åland", "Chad"], "mode": ["both", None]}
)
CHANGES = {
    "a value": lambda content: content["lat"].__setitem__(0, np.nan),
    "a text": lambda content: content["country"].__setitem__(1, "Peru"),
    "an entry less": lambda content: content.pop("row"),
    "an entry more": lambda content: content.__setitem__("more", content["row"]),
}


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_a_file_that_was_written_anew_with_other_content_is_damaged(tmp_path, change):
    frame, arrays = (
        FRAME.copy(),
        {"lat": np.array([1.5, 2]), "row": np.arange(2), "country": np.array(["Åland", "Chad"])},
    )
    frame.attrs["made_from"] = {"table": "1"}
    save_frame(tmp_path / "x.parquet", frame)
    save_arrays(tmp_path / "x.npz", arrays)
    assert frame.attrs == {"made_from": {"table": "1"}}
    stored, kept = pd.read_parquet(tmp_path / "x.parquet"), dict(np.load(tmp_path / "x.npz"))
    columns = {name: stored[name].to_numpy(copy=True) for name in stored}
    if change:
        CHANGES[change](columns)
        CHANGES[change](kept)
    changed = pd.DataFrame(columns)
    changed.attrs = stored.attrs
    changed.to_parquet(tmp_path / "x.parquet", write_page_checksum=True)
    np.savez(tmp_path / "x.npz", **kept)
    for name in ("x.parquet", "x.npz"):
        if change is None:
            with opened(tmp_path / name, "never") as content:
                assert set(content) == set(FRAME if name == "x.parquet" else arrays)
            continue
        with pytest.raises(DamagedError, match="changed since it was written"), opened(tmp_path / name, "never"):
            pass


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", WRITERS)
def test_damage_is_one_sentence_with_the_remedy(tmp_path, name, damage):
    path = tmp_path / name
    WRITERS[name](path)
    with opened(path, "never") as content:
        assert content is not None
    before = path.read_bytes()
    path.write_bytes(DAMAGES[damage](before))
    if damage == "end" and name == "x.json":  # the line break
        return
    with pytest.raises(DamagedError) as caught, opened(path, lambda: "geocbm run"):
        pass
    said = str(caught.value)
    assert said.startswith(f"{path} is damaged (")
    assert said.endswith("; make it again with: geocbm run")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_an_absent_file_and_a_missing_entry(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(MissingInputError, match="does not exist; make it with: geocbm run"), opened(path, "geocbm run"):
        pass
    path.mkdir()
    with pytest.raises(DamagedError, match=r"is a folder, not a file; move it away"), opened(path, "geocbm run"):
        pass
    path.rmdir()
    WRITERS[name](path)
    with pytest.raises(DamagedError, match="it lacks 'absent'"), opened(path, "geocbm run") as content:
        raise KeyError("absent") if isinstance(content, tuple) else content["absent"]


@pytest.mark.parametrize("name", ["x.json", "x.safetensors"])
def test_every_flipped_bit_of_sealed_files_is_found_or_changes_nothing(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    with opened(path, "") as content:
        before = repr(content)
    # A file whose seal goes by another name reads as one of before there were seals.
    names = [(whole.find(text), len(text)) for text in (b"content_sha256", b"__metadata__", b"geocbm")]
    unseen = {at + step for at, length in names if at >= 0 for step in range(length)}
    found = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            with opened(path, "") as content:
                assert place in unseen or repr(content) == before
        except DamagedError:
            found += 1
    assert found > 0.8 * len(whole)


def test_a_seal_is_the_digest_of_all_else_and_is_made_anew_by_writing(tmp_path):
    path = tmp_path / "x.json"
    write_object(path)
    content = read_json(path)
    seal = content.pop("content_sha256")
    assert seal == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    write_json(path, {**content, "lr": 0.2, "content_sha256": seal})
    with opened(path, "") as read:
        assert read == sealed(read)
        assert read["lr"] == 0.2


def test_tensors_are_the_same_to_the_byte(tmp_path):
    digests = set()
    for number in range(10):
        content = dict(reversed(TENSORS.items())) if number % 2 else TENSORS
        save_tensors(tmp_path / "x.safetensors", content, {"a": "1", "b": "2"})
        digests.add(sha256_file(tmp_path / "x.safetensors"))
    assert len(digests) == 1


def test_a_file_in_the_place_of_one_that_it_was_made_from_is_refused(copied_run):
    tensors = {"meta": np.zeros((1, 1), np.float32)}
    save_tensors(copied_run.folder / "prototypes.safetensors", tensors, {"made_from": json.dumps({"stage0": "x"})})
    with pytest.raises(MismatchError, match=r"made from itself; make it again with: geocbm run .* --from 03"):
        copied_run.files.need("prototypes.safetensors")
    shutil.copy(copied_run.folder / "cell_scores.npz", copied_run.folder / "geocells.npz")
    with pytest.raises(MismatchError, match=r"^geocells\.npz .* from stage2\.safetensors, which is made from it.* 02$"):
        RunFiles(copied_run.folder).need("stage2.safetensors")


def test_numbers_that_are_none_are_damage(copied_run):
    run = copied_run.folder
    table = pd.read_parquet(run / "predictions.parquet")
    attributes = dict(table.attrs)
    table.loc[3, "lat"] = np.nan
    table.attrs = attributes
    save_frame(run / "predictions.parquet", table)
    with pytest.raises(DamagedError, match=r"predictions\.parquet is damaged \(it holds places that are not numbers"):
        stored_predictions(copied_run.files)
    scores = dict(np.load(run / "cell_scores.npz"))
    scores["val_logits"][0, 0] = np.nan
    save_arrays(run / "cell_scores.npz", scores)
    with pytest.raises(MismatchError, match=r"cell_scores\.npz of run 'tiny' holds scores that are not numbers"):
        read_cell_scores(copied_run.files)


@pytest.mark.parametrize("damage", ["lacking", "nan"])
def test_a_table_without_a_column_or_with_places_that_are_none_is_damaged(copied_run, damage):
    path = copied_run.folder / "table.parquet"
    stored = parquet.read_table(path)
    if damage == "lacking":
        stored = stored.drop_columns(["pano_id"])
    else:
        nan = pa.array([float("nan")] * len(stored))
        stored = stored.set_column(stored.column_names.index("lat"), "lat", nan)
    parquet.write_table(stored, path)
    with pytest.raises(DamagedError, match=r"table\.parquet is damaged .* --from 01"):
        copied_run.files.table  # noqa: B018

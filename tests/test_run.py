"""The files of a run held against one another: what does not belong together is refused with the command to run."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_run import PARENT_OF, PLACES, N, write_cells

from geocbm import data
from geocbm.errors import MismatchError, MissingInputError
from geocbm.files import read_json, write_json
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.run import Run
from geocbm.workbench import rerun_command


def change_table(run, change):
    table = data.read_table(run.folder / "table.parquet")
    attrs = dict(table.attrs)
    table = change(table)
    table.attrs = attrs | table.attrs
    data.save_table(table, run.folder / "table.parquet")


def with_other_csv(table):
    table.attrs = {**table.attrs, "csv_sha256": "0" * 64}
    return table


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("table.parquet", "01"),
        ("splits.json", "01"),
        ("geocells.npz", "02"),
        ("features.json", "03"),
        ("stage0.json", "03"),
        ("stage1.safetensors", "04"),
        ("concept_scores.npz", "04"),
        ("stage2_concept_only.safetensors", "05"),
        ("predictions.parquet", "05"),
    ],
)
def test_a_missing_file_is_reported_with_the_notebook_that_writes_it(copied_run, name, number):
    files = copied_run.files
    files.path(name).unlink()
    with pytest.raises(MissingInputError) as caught:
        files.need(name)
    assert str(caught.value) == (
        f"{name} of run 'tiny' does not exist yet; make it with: geocbm run --run tiny --from {number}"
    )


def test_the_command_begins_where_files_are_missing(copied_run, tmp_path):
    files = copied_run.files
    files.path("geocells.npz").unlink()
    files.path("prototypes.safetensors").unlink()
    assert files.remedy("predictions.parquet") == "geocbm run --run tiny --from 02"
    assert files.remedy("stage1.safetensors") == "geocbm run --run tiny --from 03"  # needs no cells
    assert Run(tmp_path / "mine").remedy("predictions.parquet") == "geocbm run --run mine --from 01"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("records/05.json", "05"),
        ("stamps/06b.json", "06b"),
        ("visualizations/geocells_map.png", "02"),
        ("history_stage1.parquet", "04"),
        ("history_stage2_hybrid.parquet", "05"),
        ("stage0_adopted.json", "04"),
        ("concept_scores_adopted.npz", "05"),
    ],
)
def test_the_command_for_any_file_of_the_run_is_of_the_run_and_of_the_notebook_that_writes_it(
    trained_run, name, number
):
    assert trained_run.files.remedy(name) == f"geocbm run --run tiny --from {number}"


def test_the_command_of_a_run_that_was_copied_or_renamed_has_the_name_that_it_has_now(tmp_path):
    command = "geocbm run --profile demo --run mine --set 01.csv=my/mine.csv"
    write_json(tmp_path / "other" / "command.json", {"command": command})
    expected = "geocbm run --profile demo --run other --set 01.csv=my/mine.csv --from 01"
    assert Run(tmp_path / "other").remedy("records/05.json") == expected
    assert Run(tmp_path / "other").remedy("table.parquet") == expected


def test_the_command_names_the_profile_of_a_run_that_is_called_after_it(tmp_path):
    assert Run(tmp_path / "smoke").remedy("geocells.npz") == "geocbm run --profile smoke --run smoke --from 01"


def test_the_command_has_the_options_that_the_run_was_made_with(copied_run):
    """`--profile demo --run photos --set csv=...` must not be trained again with the table of another profile."""
    for number, parameters in {"01": {"csv": "my/photos.csv", "split": "spatial"}, "05": {"epochs": 9}}.items():
        stamp = {"profile": "demo", "key": {"parameters": parameters}}
        write_json(copied_run.folder / "stamps" / f"{number}.json", stamp)
    rerun_command.record(copied_run.folder)  # as the chain does before each notebook
    copied_run.files.path("stage2.safetensors").unlink()
    with pytest.raises(MissingInputError) as caught:
        copied_run.files.need("stage2.safetensors")
    command = str(caught.value).split("make it with: ")[1]
    assert command.startswith("geocbm run --profile demo --run tiny ") and command.endswith(" --from 05")
    for part in ("--set 01.csv=my/photos.csv", "--set 01.split=spatial", "--set 05.epochs=9"):
        assert part in command


def test_every_column_has_an_entry_per_row(trained_run):
    files = trained_run.files
    meta, parent = files.meta_and_parent
    assert {len(column) for column in (files.lat, files.lng, files.country, meta, parent, files.cell_label)} == {N}
    assert files.lat.flags.writeable and meta.flags.writeable
    assert [files.concepts.metas[index] for index in meta] == files.table["meta_name"].tolist()
    assert [files.concepts.parents[index] for index in parent] == [PARENT_OF[name] for name in files.table["meta_name"]]
    assert set(files.cells.country) == set(PLACES)
    assert (files.cells.country[files.cell_label] == files.country).all()


def test_the_oracle_error_is_the_distance_to_the_own_cells_centre(trained_run):
    files = trained_run.files
    rows = files.rows["test"]
    lat, lng = cartesian_to_latlng(files.cells.centers[files.cell_label[rows]])
    expected = haversine_km(files.lat[rows], files.lng[rows], lat, lng)
    np.testing.assert_allclose(files.oracle_error_km(files.cells, rows), expected)
    assert expected.max() < 160  # the places of a country lie within one degree


def test_splits_of_another_csv_are_refused(copied_run):
    change_table(copied_run, with_other_csv)
    with pytest.raises(MismatchError, match=r"another CSV .* geocbm run --run tiny --from 01"):
        _ = copied_run.files.rows


@pytest.mark.parametrize("column", ["meta_name", "parent_concept"])
def test_a_vocabulary_with_other_names_or_parents_is_refused(copied_run, column):
    values = {"meta_name": {"a road": "a pole"}, "parent_concept": {"road": "sign"}}[column]
    change_table(copied_run, lambda table: table.replace({column: values}))
    with pytest.raises(
        MismatchError, match=r"concepts\.json of run 'tiny' has other .* geocbm run --run tiny --from 01"
    ):
        _ = copied_run.files.concepts


def test_cells_of_another_training_split_are_refused(copied_run):
    files = copied_run.files
    files.__dict__["pictures"] = {"train": files.pictures["train"][:-4]}
    write_cells(files, 4)
    with pytest.raises(
        MismatchError, match=r"38 training pictures, the table has 42; .* geocbm run --run tiny --from 02"
    ):
        _ = copied_run.files.cells


def test_cells_of_as_many_other_rows_are_refused(copied_run):
    files = copied_run.files
    files.__dict__["pictures"] = {"train": files.pictures["train"][::-1]}
    write_cells(files, 4)
    with pytest.raises(MismatchError, match=r"other training rows: \d+ of 42 .* geocbm run --run tiny --from 02"):
        _ = copied_run.files.cells


def test_a_checkpoint_names_its_classes_and_what_it_was_made_from(copied_run):
    files = copied_run.files
    labels = read_json(files.path("stage2.json"))["labels"]
    assert labels["metas"] == list(files.concepts.metas) and labels["meta_to_parent"] == files.concepts.meta_to_parent
    assert set(labels["made_from"]) == {"table", "splits", "names", "cells", "stage0", "stage1"}
    assert labels["made_from"]["cells"] == files.cells.digest


def test_a_checkpoint_needs_the_file_beside_it_and_its_cells(copied_run):
    copied_run.files.path("geocells.npz").unlink()
    with pytest.raises(MissingInputError, match=r"geocells\.npz .* --from 02"):
        copied_run.files.need("stage2.safetensors")
    copied_run.files.path("stage1.json").unlink()
    with pytest.raises(MissingInputError, match=r"stage1\.json .* --from 04"):
        copied_run.files.need("stage1.safetensors")


def test_completion_offers_what_is_imported_when_it_is_asked_for():
    import geocbm
    from geocbm.workbench import explorers

    assert {"GeoCBM", "open_run"} <= set(dir(geocbm))
    assert {"batch", "concepts", "what_if"} <= set(dir(explorers))

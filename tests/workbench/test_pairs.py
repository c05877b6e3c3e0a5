from pathlib import Path

import pytest

from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import source, write_json
from geocbm.workbench import check, demo_data, keys, settings, stages, sync


def test_a_pair_holds_nothing_but_the_expected_contract(project: Path) -> None:
    import nbformat

    sync.synchronise()
    notebook = nbformat.read(project / "notebooks" / "01_numbers.ipynb", as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output["text"] for output in outputs] == ["some: holds\nfew: holds\n"]
    assert notebook.metadata == {"kernelspec": sync.KERNEL}
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    parameters = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(parameters) == 1 and parameters[0].source.startswith("run: str")


def test_a_tidy_project_has_no_problems(project: Path) -> None:
    sync.synchronise()
    assert check.check_all() == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  # how many numbers", "", "parameter 'count' has no comment"),
        ("time.sleep(seconds)", "", "parameter 'seconds' is never read"),
        ("count: int = 3", "count = 3", "write every parameter as"),
        ("few=count < 100", "few=run == 'smoke' if run else True", "decides by the profile"),
        ("import time\n", "import time\nfolder = '/" + "home/me/data'\n", "names a folder of one machine"),
        ("nb.finish()", "print()", "never calls finish"),
        ('start("01_numbers"', 'start("01_other"', "notebook's own name '01_numbers'"),
        ('# %% tags=["nbval-check-output"]', "# %%", "needs the tag nbval-check-output"),
        ("# # Which", "# Which", "begins with its question"),
        ("import time\n", "%time\n", "only pure Python"),
    ],
)
def test_each_rule_is_checked(project: Path, old: str, new: str, message: str) -> None:
    script = project / "notebooks" / "01_numbers.py"
    text = script.read_text()
    assert old in text
    script.write_text(text.replace(old, new))
    sync.write_pair(script, script.with_suffix(".ipynb"))
    assert any(message in problem for problem in check.check_notebook(script)), check.check_notebook(script)


def test_the_chain_file_is_held_against_the_notebooks(project: Path) -> None:
    sync.synchronise()
    file = project / "notebooks" / "chain.toml"
    file.write_text(file.read_text().replace('reads = ["numbers.json"]', 'reads = ["nombers.json", "parameter:x"]'))
    problems = check.check_all()
    assert any("reads nombers.json, which no earlier stage writes" in problem for problem in problems)
    assert any("reads parameter:x, but has no such parameter" in problem for problem in problems)
    profile = project / "notebooks" / "params" / "demo.yaml"
    profile.write_text("2:\n  faktor: 2\n")
    assert any("did you mean 'factor'" in problem for problem in check.check_all())


def test_no_notebook_is_longer_than_one_sitting() -> None:
    scripts = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9][0-9]*.py"))
    lengths = {script.name: len(script.read_text(encoding="utf-8").splitlines()) for script in scripts}
    assert len(lengths) > 10 and {name: lines for name, lines in lengths.items() if lines > 220} == {}


def test_imports_are_followed_through_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pack"
    (package / "deep").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "a.py": "def f():\n    from .deep import c\n",
        "b.py": "x = 1\n",
        "unused.py": "",
        "deep/__init__.py": "",
        "deep/c.py": "from .. import b\n",
    }.items():
        (package / name).write_text(text)
    monkeypatch.setattr(source, "PACKAGE", package)
    first = keys.source_digests(["%time", "from pack import a"])
    assert set(first) == {"pack", "pack.a", "pack.b", "pack.deep", "pack.deep.c", "package data"}
    (package / "b.py").write_text('"""A docstring."""\n\nx = 1  # a comment\n')
    assert keys.source_digests(["from pack import a"]) == first
    (package / "b.py").write_text("x = 22\n")
    changed = keys.source_digests(["from pack import a"])
    assert {name for name in first if first[name] != changed[name]} == {"pack.b"}


def test_a_table_counts_with_its_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("one")
    table = tmp_path / "t.csv"
    table.write_text("pano_id,image_path\n1,a.jpg\n2,absent.jpg\n")
    first = keys.table_digest(table)
    assert keys.table_digest(table) == first
    (tmp_path / "a.jpg").write_text("three")
    assert keys.table_digest(table) != first


def test_a_grid_names_its_runs() -> None:
    assert settings.grid_runs([], "demo") == []
    runs = settings.grid_runs(["05.mode=both,one", "lr=1e-3"], "demo")
    assert runs == [
        ("demo-mode-both-lr-1e-3", ["05.mode=both", "lr=1e-3"]),
        ("demo-mode-one-lr-1e-3", ["05.mode=one", "lr=1e-3"]),
    ]
    assert [name for name, _ in settings.grid_runs(["layers=[1,2],[3]"], "d")] == ["d-layers-1_2", "d-layers-3"]


def test_a_path_of_the_callers_folder_reads_from_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "mine").mkdir()
    (project / "mine" / "t.csv").write_text("x")
    monkeypatch.chdir(project / "mine")
    assert settings.anchored("t.csv") == "mine/t.csv"
    assert settings.anchored("geolocal/StreetCLIP") == "geolocal/StreetCLIP"
    monkeypatch.setenv("GEOCBM_ROOT", str(project / "notebooks"))
    assert settings.anchored("t.csv") == str((project / "mine" / "t.csv").resolve())


def test_the_atlas_of_a_profile_is_found_by_its_table(project: Path) -> None:
    chain = stages.Chain((), {"scenes": 10, "seed": 1, "size": 96})
    world = project / "data" / "atlas" / "demo", {"scenes": 10, "seed": 1, "size": 96}
    assert demo_data.atlas_request(chain, "data/atlas/demo/atlas.csv") == world
    assert demo_data.atlas_request(chain, "data/photos/manifest.csv") is None


def test_a_world_of_ones_own_beside_those_of_profiles_is_a_table_like_any_other(project: Path) -> None:
    chain = stages.Chain((), {"seed": 1, "size": 96})
    with pytest.raises(MissingInputError, match=r"geocbm atlas make --out data/atlas/mine"):
        demo_data.atlas_request(chain, "data/atlas/mine/atlas.csv")
    with pytest.raises(MissingInputError, match=r"profile 'demo' does not say how many scenes"):
        demo_data.atlas_request(chain, "data/atlas/demo/atlas.csv")
    for name in ("mine", "demo"):
        (project / "data" / "atlas" / name).mkdir(parents=True)
        (project / "data" / "atlas" / name / "atlas.csv").write_text("pano_id\n")
        assert demo_data.atlas_request(chain, f"data/atlas/{name}/atlas.csv") is None
        assert demo_data.why(chain, f"data/atlas/{name}/atlas.csv") is None


def test_a_world_drawn_by_hand_is_not_drawn_over(project: Path) -> None:
    chain = stages.Chain((), {"scenes": 10, "seed": 1, "size": 96})
    folder = project / "data" / "atlas" / "demo"
    assert demo_data.why(chain, "data/atlas/demo/atlas.csv") == "there is no atlas yet"
    write_json(folder / "atlas.json", {"n": 7, "seed": 1, "size": 96})
    with pytest.raises(ParameterError, match=r"drawn by hand"):
        demo_data.why(chain, "data/atlas/demo/atlas.csv")
    write_json(folder / "atlas.json", {"n": 10, "seed": 1, "size": 96})  # of a draw that was interrupted at its end
    assert demo_data.why(chain, "data/atlas/demo/atlas.csv") == "there is no atlas yet"

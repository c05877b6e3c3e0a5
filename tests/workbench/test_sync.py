"""No side of a notebook pair is overwritten while it has changes of its own, and both ways out are named."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from tiny_project import HEADER

from geocbm import cli
from geocbm.errors import MissingInputError, ParameterError
from geocbm.workbench import check, sync
from geocbm.workbench.sync import Pair, PairError


@pytest.fixture
def project(project: Path) -> Path:
    assert [file.name for file in sync.synchronise().changed] == ["01_numbers.ipynb", "02_total.ipynb"]
    return project


@pytest.fixture
def script(project: Path) -> Path:
    return project / "notebooks" / "01_numbers.py"


@pytest.fixture
def pair(script: Path) -> Path:
    return script.with_suffix(".ipynb")


def edit(pair: Path, change: Any) -> str:
    """Change an ``.ipynb`` as JupyterLab would: ids of edited cells stay."""
    notebook = nbformat.read(pair, as_version=4)
    change(notebook)
    nbformat.write(notebook, pair)
    return pair.read_text()


def replace_source(notebook: Any) -> None:
    cell = next(cell for cell in notebook.cells if "time.sleep" in cell.source)
    cell.source = cell.source.replace("time.sleep(seconds)", "time.sleep(2 * seconds)")


def tag(notebook: Any) -> None:
    notebook.cells[2].metadata["tags"] = ["slow"]


def add(notebook: Any) -> None:
    notebook.cells.insert(2, nbformat.v4.new_code_cell("print(count)"))


def move(notebook: Any) -> None:
    notebook.cells[2], notebook.cells[3] = notebook.cells[3], notebook.cells[2]


def drop_last(notebook: Any) -> None:
    del notebook.cells[-1]


def to_prose(notebook: Any) -> None:
    old = notebook.cells[-1]
    notebook.cells[-1] = nbformat.v4.new_markdown_cell(old.source, id=old.id)


EDITS = [replace_source, tag, add, move, drop_last, to_prose]


def commit(project: Path) -> None:
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *command], cwd=project, check=True)


def test_an_edited_script_makes_the_ipynb_again(script: Path, pair: Path) -> None:
    assert sync.synchronise() == sync.Outcome()
    script.write_text(script.read_text().replace("few=count < 100", "few=count < 99"))
    assert "make it again with: geocbm sync" in " ".join(check.check_notebook(script))
    assert sync.synchronise().changed == [pair]
    assert "count < 99" in pair.read_text() and check.check_notebook(script) == []


@pytest.mark.parametrize("change", EDITS)
def test_an_edited_ipynb_is_never_overwritten(script: Path, pair: Path, change: Any) -> None:
    before, edited = script.read_text(), edit(pair, change)
    done = sync.synchronise()
    assert done.changed == [] and len(done.refused) == 1
    assert "01_numbers.ipynb has changes that 01_numbers.py lacks" in done.refused[0]
    for way in ("geocbm sync --take ipynb 01", "geocbm sync --take py 01"):
        assert way in done.refused[0]
    assert (pair.read_text(), script.read_text()) == (edited, before)


@pytest.mark.parametrize("change", EDITS)
def test_either_side_can_be_taken_by_name(script: Path, pair: Path, change: Any) -> None:
    before, edited = script.read_text(), edit(pair, change)
    assert script in sync.synchronise(["01"], "ipynb").changed
    assert Pair(script).script_cells == Pair(script).ipynb_cells
    assert script.read_text() != before and sync.synchronise() == sync.Outcome()
    script.write_text(before)
    pair.write_text(edited)
    assert sync.synchronise(["01_numbers"], "py").changed == [pair]
    assert script.read_text() == before and check.check_notebook(script) == []


def test_what_was_not_edited_keeps_its_text_to_the_letter(script: Path, pair: Path) -> None:
    before = script.read_text()
    edit(pair, replace_source)
    sync.synchronise(["01"], "ipynb")
    assert script.read_text() == before.replace("time.sleep(seconds)", "time.sleep(2 * seconds)")


def test_both_edited_is_refused_with_the_difference(script: Path, pair: Path) -> None:
    script.write_text(script.read_text().replace("few=count < 100", "few=count < 99"))
    edited = edit(pair, replace_source)
    (said,) = sync.synchronise().refused
    assert "each may have changes of its own" in said
    assert "-nb.contract(some=count > 0, few=count < 99)" in said and "+time.sleep(2 * seconds)" in said
    assert pair.read_text() == edited


def test_a_long_difference_is_cut_and_counted(script: Path, pair: Path) -> None:
    edit(
        pair,
        lambda notebook: notebook.cells.append(nbformat.v4.new_code_cell("\n".join(f"x = {n}" for n in range(90)))),
    )
    (said,) = sync.synchronise().refused
    assert len(said.splitlines()) < 22 and "more lines" in said


def test_what_jupyterlab_writes_beside_the_cells_is_no_edit(script: Path, pair: Path) -> None:
    right = pair.read_text()

    def saved(notebook: Any) -> None:
        notebook.metadata["language_info"] = {"name": "python", "version": "3.11.9"}
        notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
        notebook.metadata["widgets"] = {}
        for number, cell in enumerate(notebook.cells):
            cell.metadata["collapsed"] = True
            if cell.cell_type == "code":
                cell["execution_count"] = number
                cell["outputs"] = [nbformat.v4.new_output("stream", text="hello")]
                cell.source += "\n"

    edit(pair, saved)
    assert any("has stored outputs" in problem for problem in check.check_notebook(script))
    assert sync.synchronise() == sync.Outcome([pair])
    assert pair.read_text() == right


def test_outputs_beside_an_edit_are_not_a_reason_to_advise_its_loss(script: Path, pair: Path) -> None:
    def change(notebook: Any) -> None:
        replace_source(notebook)
        notebook.cells[2]["outputs"] = [nbformat.v4.new_output("stream", text="hello")]

    edit(pair, change)
    (problem,) = check.check_notebook(script)
    assert "--take ipynb 01" in problem and "--take py 01" in problem


def test_other_ids_are_judged_by_the_last_commit(project: Path, script: Path, pair: Path) -> None:
    def renamed(notebook: Any) -> None:
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"lab-{number}"

    commit(project)
    script.write_text(script.read_text().replace("few=count < 100", "few=count < 99"))
    edit(pair, renamed)
    assert sync.synchronise().changed == [pair]  # the .ipynb says what was committed, and the script says more
    commit_again = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "y"]
    subprocess.run(commit_again, cwd=project, check=True)
    edit(pair, lambda notebook: (renamed(notebook), replace_source(notebook)))
    assert "has changes that 01_numbers.py lacks" in sync.synchronise().refused[0]


def test_an_edit_that_was_committed_alone_is_not_taken_for_common(project: Path, script: Path, pair: Path) -> None:
    edited = edit(pair, replace_source)
    commit(project)
    assert len(sync.synchronise().refused) == 1 and pair.read_text() == edited


def test_without_ids_and_without_a_commit_nothing_is_assumed(script: Path, pair: Path) -> None:
    notebook = json.loads(pair.read_text())
    for cell in notebook["cells"]:
        del cell["id"]
    notebook["nbformat_minor"] = 4
    pair.write_text(json.dumps(notebook))
    assert sync.synchronise() == sync.Outcome([pair])  # both say the same
    pair.write_text(json.dumps(notebook))
    script.write_text(script.read_text().replace("few=count < 100", "few=count < 99"))
    assert "each may have changes of its own" in sync.synchronise().refused[0]


@pytest.mark.parametrize(
    "text", ["<<<<<<< ours\n{}", "{}", "[]", "", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}']
)
def test_an_ipynb_that_cannot_be_read_is_left_alone(script: Path, pair: Path, text: str) -> None:
    pair.write_text(text)
    (said,) = sync.synchronise().refused
    assert "cannot be read" in said and "geocbm sync --take py 01" in said and pair.read_text() == text
    assert any("cannot be read" in problem for problem in check.check_notebook(script))
    with pytest.raises(PairError):
        sync.synchronise(["01"], "ipynb")
    assert sync.synchronise(["01"], "py").changed == [pair]


def test_a_notebook_that_was_begun_in_jupyterlab_gets_its_script(project: Path) -> None:
    new = project / "notebooks" / "03_mine.ipynb"
    cells = [nbformat.v4.new_markdown_cell("# Why?"), nbformat.v4.new_code_cell("x = 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), new)
    assert any("geocbm sync --take ipynb 03" in problem for problem in check.check_all())
    assert "geocbm sync --take ipynb 03" in sync.synchronise(["03"]).refused[0]
    sync.synchronise(["03"], "ipynb")
    assert new.with_suffix(".py").read_text() == HEADER + "# %% [markdown]\n# # Why?\n\n# %%\nx = 1\n"


FEATURES = [
    nbformat.v4.new_markdown_cell(
        "# Why $x$?\n\n$$\nL = -\\log p_y \\quad (1)\n$$\n\n    code\n\n| a | b |\n|---|---|"
    ),
    nbformat.v4.new_code_cell('run: str = "x"  # % and \\ and ü', metadata={"tags": ["parameters", "two words"]}),
    nbformat.v4.new_code_cell("%time x = 1\n!ls\ny = %pwd\n%%time"),
    nbformat.v4.new_code_cell("%%time\nx = 1"),
    nbformat.v4.new_markdown_cell("# Why?"),
    nbformat.v4.new_markdown_cell("%time is a magic, ?this and that? too\n!so"),
    nbformat.v4.new_raw_cell("raw *text*\n\nwith a gap"),
    nbformat.v4.new_code_cell(""),
    nbformat.v4.new_markdown_cell(""),
    nbformat.v4.new_code_cell('\n\ndef f():\n    return 1\n\n\nclass C:\n    x = """\n\n# not a cell\n"""\n\n'),
    nbformat.v4.new_code_cell("# only a comment", metadata={"collapsed": True, "jupyter": {"source_hidden": True}}),
    nbformat.v4.new_code_cell("f(\n    1,\n)  # %%"),
    nbformat.v4.new_markdown_cell("- a\n- b\n\n> quoted `# %%` text", metadata={"tags": ["keep"]}),
]


def test_every_feature_of_a_notebook_goes_there_and_back(script: Path, pair: Path) -> None:
    edit(pair, lambda notebook: notebook.update(cells=[nbformat.from_dict(dict(cell)) for cell in FEATURES]))
    wanted = Pair(script).ipynb_cells
    assert len(wanted) == len(FEATURES)
    sync.synchronise(["01"], "ipynb")
    assert Pair(script).script_cells == wanted
    first = script.read_text(), pair.read_text()
    pair.unlink()
    sync.synchronise()
    assert (script.read_text(), pair.read_text()) == first
    assert Pair(script).ipynb_cells == wanted


def test_a_picture_pasted_into_prose_is_an_edit_that_no_script_can_keep(script: Path, pair: Path) -> None:
    def paste(notebook: Any) -> None:
        notebook.cells[0]["attachments"] = {"a.png": {"image/png": "aGVsbG8="}}

    before, edited = script.read_text(), edit(pair, paste)
    assert len(sync.synchronise().refused) == 1
    with pytest.raises(PairError, match=r"01_numbers.ipynb, cell 1 cannot be kept"):
        sync.synchronise(["01"], "ipynb")
    assert (script.read_text(), pair.read_text()) == (before, edited)


def test_the_notebooks_of_the_project_are_written_back_to_the_letter(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2] / "notebooks"
    for source in sorted(root.glob("[0-9]*.py")):
        script = Path(shutil.copy(source, tmp_path))
        sync.write_pair(script, script.with_suffix(".ipynb"))
        assert Pair(script).script_text() == source.read_text(), source.name


def test_a_side_is_taken_only_of_notebooks_that_are_named(project: Path) -> None:
    with pytest.raises(ParameterError, match=r"name the notebooks"):
        sync.synchronise((), "ipynb")
    with pytest.raises(ParameterError, match=r"'07' names no notebooks; there are: 01_numbers, 02_total"):
        sync.synchronise(["07"])
    (project / "notebooks" / "02_total.ipynb").unlink()
    with pytest.raises(MissingInputError):
        sync.synchronise(["02"], "ipynb")


def test_a_run_says_which_changes_it_does_not_see(pair: Path) -> None:
    assert sync.unheard() == []
    edit(pair, replace_source)
    (said,) = sync.unheard()
    assert said.startswith("01_numbers.ipynb has changes that 01_numbers.py lacks") and "--take ipynb 01" in said
    pair.write_text("{")
    assert sync.unheard() == []


def test_the_command_says_what_it_did_and_refuses_with_a_status(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sync"]) == 0
    assert capsys.readouterr().out == "all pairs are in sync\n"
    edit(pair, replace_source)
    assert cli.main(["sync"]) == 1
    assert "+time.sleep(2 * seconds)" in capsys.readouterr().err
    assert cli.main(["sync", "--take", "ipynb", "01"]) == 0
    assert capsys.readouterr().out == "wrote 01_numbers.py\nwrote 01_numbers.ipynb\n"

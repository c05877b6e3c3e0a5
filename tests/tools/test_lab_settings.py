"""Settings of `make lab`: what is saved in JupyterLab has no outputs but those of a contract."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]


def test_a_saved_notebook_has_no_outputs_but_its_contract() -> None:
    config = SimpleNamespace(ContentsManager=SimpleNamespace(), ServerApp=SimpleNamespace(), LabApp=SimpleNamespace())
    file = ROOT / "tools" / "lab" / "jupyter_server_config.py"
    runpy.run_path(str(file), init_globals={"get_config": lambda: config})
    assert config.ServerApp.ip == "127.0.0.1" and config.LabApp.news_url is None
    output = {"output_type": "stream", "name": "stdout", "text": "holds"}
    cells = [
        {"cell_type": "markdown", "source": "a", "metadata": {"lines_to_next_cell": 2}},
        {"cell_type": "code", "source": "b", "metadata": {"execution": 1}, "execution_count": 3, "outputs": [output]},
        {"cell_type": "code", "metadata": {"tags": ["nbval-check-output"]}, "execution_count": 4, "outputs": [output]},
    ]
    model = {"type": "notebook", "content": {"cells": cells, "metadata": {"kernelspec": {}, "widgets": {}}}}
    config.ContentsManager.pre_save_hook(model=model, path="x.ipynb", contents_manager=None)
    assert cells[0]["metadata"] == {} and cells[1]["metadata"] == {} and cells[1]["outputs"] == []
    assert [cell["execution_count"] for cell in cells[1:]] == [None, None] and cells[2]["outputs"] == [output]
    assert model["content"]["metadata"] == {"kernelspec": {}}
    config.ContentsManager.pre_save_hook(model={"type": "file", "content": "text"})


def test_pairs_have_the_settings_of_the_project() -> None:
    own = tomllib.loads((ROOT / "notebooks" / "jupytext.toml").read_text(encoding="utf-8"))
    assert own == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["jupytext"]

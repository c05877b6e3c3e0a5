"""A project of two small notebooks, and a stand-in for the process that executes one."""

from pathlib import Path

import pytest
from tiny_project import make_project

from geocbm.files import read_json, write_json
from geocbm.workbench import notebook, process
from geocbm.workbench.parameters import read_cells


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the project, which is the working folder too."""
    for name in ("GEOCBM_DATA", "GEOCBM_REPORTS", notebook.IN_CHAIN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GEOCBM_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the chain execute the cells of its scripts in this process, without papermill and a kernel."""

    def run(
        command: list[str], cwd: Path, environment: dict[str, str], limit: float, tail_bytes: int = 0
    ) -> process.Outcome:
        job = read_json(command[-1])
        result = {"status": "ok"}
        variables: dict[str, object] = {}
        try:
            for cell in read_cells(Path(job["source"])):
                if cell.kind == "code":
                    exec(cell.source, variables)
                if "parameters" in cell.tags:
                    variables.update(job["parameters"])
        except Exception as problem:  # a cell may raise anything, and a kernel reports it
            kind, text = type(problem).__name__, str(problem)
            result = {"status": "failed", "kind": kind, "message": text, "traceback": ["at", f"{kind}: {text}"]}
        write_json(job["output"], {"cells": [{"metadata": {}, "source": str(cwd)}], "metadata": {"papermill": {}}})
        write_json(Path(command[-1]).with_suffix(".result.json"), result)
        return process.Outcome(0, 0.1, 2**20, False, "")

    monkeypatch.setattr(process, "run_limited", run)

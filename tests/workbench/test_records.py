"""What the chain keeps of an executed notebook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geocbm.workbench.records import stamp_notebook


def stream(name: str, *lines: str) -> dict[str, object]:
    return {"output_type": "stream", "name": name, "text": list(lines)}


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        ([stream("stdout", "a\n"), stream("stdout", "b\n", "c")], [stream("stdout", "a\n", "b\n", "c")]),
        ([stream("stdout", "half a "), stream("stdout", "line\n")], [stream("stdout", "half a line\n")]),
        ([stream("stdout", "a\n"), stream("stderr", "b\n"), stream("stdout", "c\n")], None),
        ([stream("stdout", "a\n"), {"output_type": "display_data", "data": {}}, stream("stdout", "c\n")], None),
        ([{"output_type": "display_data", "data": {}}, {"output_type": "display_data", "data": {}}], None),
        ([], None),
    ],
)
def test_pieces_of_one_stream_are_kept_as_one(
    pieces: list[dict[str, object]], kept: list[dict[str, object]] | None, tmp_path: Path
) -> None:
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": [], "outputs": pieces}
    executed, target = tmp_path / "executed.ipynb", tmp_path / "kept.ipynb"
    executed.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    stamp_notebook(executed, target, {}, {})
    assert json.loads(target.read_text())["cells"][0]["outputs"] == (pieces if kept is None else kept)
    assert not executed.exists()

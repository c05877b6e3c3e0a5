"""The program that a training runs through is the same whatever else has been imported beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = (
    "from torch import nn; from geocbm.models.losses import focal_loss;"
    "from geocbm.training.identity import code_files;"
    "print([str(file) for file in code_files(nn.Linear(1, 1), focal_loss)])"
)


def files_of_the_program(*imported: str) -> str:
    code = f"{''.join(f'import {name}; ' for name in imported)}{NAMES}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout


@pytest.mark.parametrize("beside", ["geocbm.files.lineage", "geocbm.run", "geocbm.workbench.chain"])
def test_what_is_imported_beside_a_training_is_no_part_of_its_program(beside: str) -> None:
    alone = files_of_the_program()
    assert files_of_the_program(beside) == alone
    assert Path("training", "loop.py").as_posix() in alone and Path("models", "losses.py").as_posix() in alone

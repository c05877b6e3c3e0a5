"""`geocbm fit`: the stages without a notebook around them."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import UserError
from geocbm.files import owners, paths
from geocbm.workbench.profiles import read_profile
from geocbm.workbench.settings import config_fields, read_declared, resolve_all
from geocbm.workbench.stages import read_chain

if TYPE_CHECKING:
    from geocbm.run import Run
    from geocbm.training import FitResult

STAGES = {"stage0": "03", "stage1": "04", "stage2": "05"}
"""Which notebook's parameters a stage is trained with."""

_SECONDS_TO_BE_ENDED = 10


def fit(stage: str, run: str, profile: str, recipe: str | None, assignments: list[str]) -> int:
    """Train one stage of a run with the parameters its notebook would have, on all processes of a launch.

    `accelerate launch --multi_gpu --num_processes N -m geocbm fit stage0 --run NAME` trains on N accelerators, or in N
    processes on the CPU of a machine that has none. The main process prints and writes for all.
    """
    # Torch warns in every process that looking for parameters without gradient costs time; some stages have such.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from geocbm.encoders.processes import launched_index, said_when_left

    index = launched_index()
    try:
        with said_when_left(), redirect_stdout(StringIO()) if index else nullcontext():
            train_stage(stage, run, profile, recipe, assignments)
    except Exception as problem:  # whatever it is, it is raised again, and only when to do so is decided here
        if index is not None and not (index == 0 and isinstance(problem, UserError)):
            # The launcher ends all processes when one has failed. Whoever stumbles over that, or knows no more than
            # the main process, which says it, is ended here in silence.
            time.sleep(_SECONDS_TO_BE_ENDED)
        raise
    return 0


def train_stage(stage: str, run: str, profile: str, recipe: str | None, assignments: list[str]) -> None:
    """Train "stage0", "stage1" or "stage2" in this process and those launched with it, and say so."""
    from geocbm.encoders.processes import check_shared, launched_index, raise_together
    from geocbm.run import Run

    chain = read_chain()
    number = STAGES[stage]
    own = read_profile(profile)
    own = replace(own, recipe=recipe or own.recipe)
    values = resolve_all(chain, read_declared(chain), own, [f"{number}.{text}" for text in assignments], run)[number]
    raise_together(lambda: paths.data_root().mkdir(parents=True, exist_ok=True))
    check_shared(paths.data_root())
    files = Run(paths.run_folder(run))
    # Of several processes the main one holds the run for all.
    lock = owners.only_one(files.folder / owners.LOCK, f"run {files.name!r}")
    with nullcontext() if launched_index() else lock:
        result = _fit_stage0(files, values) if stage == "stage0" else _fit_later_stage(stage, files, values)
    written = paths.portable(files.path(f"{stage}.safetensors"))
    print(f"{written}: epoch {result.best_epoch}, {result.monitor} {result.best_metric:.4g}")


def _fit_stage0(files: Run, values: dict[str, Any]) -> FitResult:
    from geocbm.encoders.processes import on_main
    from geocbm.models.stage0 import Stage0Config
    from geocbm.run import encoding, stages

    names = ("image_encoder", "text_encoder", "unfreeze_layers", "encode_batch_size", "max_cache_gb")
    encoders = encoding.EncoderConfig(*(values[name] for name in names))
    encoder = encoding.load_image_encoder(encoders.image_encoder)
    vanilla = encoding.encode_vanilla(files, encoders, encoder)
    on_main(lambda: encoding.write_prototypes(files, encoders))
    config = Stage0Config(**config_fields(Stage0Config, values))
    return stages.fit_stage0(files, config, encoders, encoder, vanilla)[1]


def _fit_later_stage(stage: str, files: Run, values: dict[str, Any]) -> FitResult:
    from geocbm.models.stage1 import Stage1Config
    from geocbm.models.stage2 import Stage2Config
    from geocbm.run import adoption, stages

    given = values["stage0_checkpoint" if stage == "stage1" else "stage1_checkpoint"]
    before: Path | str = paths.locate(given) if given else ""
    if stage == "stage1":
        adoption.take_stage0(files, before)
        config = Stage1Config(**config_fields(Stage1Config, values))
        return stages.fit_stage1(files, config, files.features("adapted"))[1]
    features = files.features("adapted")
    adoption.take_stage1(files, before, features)
    concepts = stages.predict_concepts(files, features)
    return stages.fit_stage2(files, Stage2Config(**config_fields(Stage2Config, values)), concepts, features)[1]

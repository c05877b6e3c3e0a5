"""Checkpoints beside those that a run trains: taken from another run, after the same checks, or left from before.

Taken files lie beside the run's own, marked `_adopted`; `Run.need` gives them to whoever asks for the own ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from geocbm.encoders.features import FeatureStore
from geocbm.encoders.processes import on_main
from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import atomic_path, lineage, stored
from geocbm.models import loading
from geocbm.run import Run, predictions
from geocbm.run.encoding import encode_adapted, encode_vanilla, load_image_encoder, read_encoders, write_features
from geocbm.training.checkpoints import load_checkpoint


def take_stage0(files: Run, checkpoint: str | Path) -> None:
    """Use a Stage 0 of another run from here on, with its adapted features; or the run's own again.

    Notebook 03 must have been run, with `epochs=0` where its training is not wanted: it makes the text prototypes and
    the features of the untouched encoder.

    The checkpoint is a `stage0.safetensors` with its JSON beside it; empty for the run's own.

    Raises:
        MissingInputError: the checkpoint or its JSON is not there.
        MismatchError: it was trained on another table, other splits, names or prototypes, or from another encoder.
    """
    _drop(files, "stage0.*", "features.*")
    if not str(checkpoint):
        return
    path = _checked(files, checkpoint, stage=0)
    encoders = read_encoders(files)
    with stored.opened(path.with_suffix(".json"), partial(files.remedy, "stage0.safetensors")) as content:
        encoders = replace(encoders, unfreeze_layers=int(content["config"]["unfreeze_layers"]))
    encoder = load_image_encoder(encoders.image_encoder)
    vanilla = encode_vanilla(files, encoders, encoder)
    loading.load_stage0(path, encoder)
    adapted = encode_adapted(files, vanilla, encoders, encoder)

    def write() -> None:
        _copy(files, path, "stage0")
        write_features(files, f"features{lineage.ADOPTED}.json", encoders, vanilla, adapted)

    on_main(write)


def take_stage1(files: Run, checkpoint: str | Path, features: FeatureStore) -> None:
    """Use a Stage 1 of another run from here on, with what it says of every row; or the run's own again.

    The checkpoint is a `stage1.safetensors` with its JSON beside it; empty for the run's own.

    Raises:
        MissingInputError: the checkpoint or its JSON is not there.
        MismatchError: it was trained on another table, other splits, names or prototypes, or on another Stage 0.
    """
    _drop(files, "stage1.*", "concept_scores.*")
    if not str(checkpoint):
        return
    path = _checked(files, checkpoint, stage=1)

    def write() -> None:
        _copy(files, path, "stage1")
        said = predictions.concept_probabilities(loading.load_stage1(files.need("stage1.safetensors")), features)
        place = files.path(f"concept_scores{lineage.ADOPTED}.npz")
        predictions.save_concept_scores(place, said, files.made_from("concept_scores.npz"))

    on_main(write)


def _drop(files: Run, *patterns: str) -> None:
    def remove() -> None:
        for pattern in patterns:
            for file in files.folder.glob(pattern.replace(".", f"{lineage.ADOPTED}.")):
                file.unlink()

    on_main(remove)


def _checked(files: Run, checkpoint: str | Path, stage: int) -> Path:
    """The checkpoint, made from what the run has."""
    path, own = Path(checkpoint).expanduser(), f"stage{stage}.safetensors"
    if path.suffix != ".safetensors" or path.is_dir():
        raise ParameterError(
            f"stage{stage}_checkpoint={str(checkpoint)!r} is no checkpoint; give a {own} of another run"
        )
    advice = f"give a {own} of a run like this one, or train one with: {files.remedy(own)}"
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise MissingInputError(f"{file} does not exist; {advice}")
    load_checkpoint(path, partial(files.remedy, own), stage)
    record = lineage.read_record(path.with_suffix(".json"))
    if record is None:
        raise MismatchError(
            f"{path} does not say what it was made from, which it did not when it was trained; {advice}"
        )
    for part, digest in files.made_from(own).items():
        if record.get(part) != digest:
            raise MismatchError(f"{path} was made from {lineage.spoken(part)} than run {files.name!r} has; {advice}")
    return path


def _copy(files: Run, path: Path, stem: str) -> None:
    for file in (path.with_suffix(".json"), path):
        with atomic_path(files.path(f"{stem}{lineage.ADOPTED}{file.suffix}")) as temporary:
            shutil.copyfile(file, temporary)


def remove_leftovers(files: Run, stage: str, trained: Iterable[str]) -> list[str]:
    """Remove the further checkpoints of a stage that were not trained this time, so that no page reads them.

    The run's own, of the stem `stage`, stays with the ablation modes that were trained beside it.
    """
    kept = {stage} | {f"{stage}_{name}" for name in trained}
    removed = []
    for file in sorted(files.folder.glob(f"*{stage}_*")):
        # history_<stem>.parquet, <stem>.resume.safetensors and these companions belong to a checkpoint.
        stem = file.name.partition(".")[0].removeprefix("history_")
        for companion in ("_neighbours", "_decoding", lineage.LINEAR_PART):
            stem = stem.removesuffix(companion)
        taken = stem.endswith(lineage.ADOPTED)  # from another run, by another notebook
        if stem.startswith(f"{stage}_") and stem not in kept and not taken and file.is_file():
            file.unlink()
            removed.append(file.name)
    return removed

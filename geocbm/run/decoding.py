"""Decoding of a run's heads: chosen on the validation split, and kept beside each checkpoint."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from geocbm.errors import MismatchError
from geocbm.files import lineage, read_json, write_json
from geocbm.geodesy import latlng_to_cartesian
from geocbm.run import Run

if TYPE_CHECKING:
    import torch

    from geocbm.encoders.features import FeatureStore
    from geocbm.models.decoder import Decoder, Places, PointChoice
    from geocbm.models.refinement import NeighbourRefiner
    from geocbm.models.stage2 import Stage2CrossAttentionGeoHead


def decoding_file(name: str = "stage2") -> str:
    """Name of the file that holds the decoding of a checkpoint, by the checkpoint's stem."""
    return f"{name}_decoding.json"


def answer_places(files: Run) -> Places:
    """Cell centres and training places of a run, as a decoder needs them."""
    from geocbm.models.decoder import Places

    train = files.rows["train"]
    training = latlng_to_cartesian(files.lat[train], files.lng[train])
    return Places(files.cells.centers, training, files.cells.sample_to_cell)


def make_decoder(
    files: Run,
    head: Stage2CrossAttentionGeoHead,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    refiner: NeighbourRefiner | None = None,
) -> Decoder:
    """Fit temperature and bandwidth of a head on the validation split and choose its point (`config.answer_point`).

    Args:
        files: the run.
        head: a trained head.
        concepts: of `stages.predict_concepts`.
        features: the adapted features.
        refiner: training pictures that move the answer, if the head uses them.
    """
    from geocbm.models.decoder import fit_decoder
    from geocbm.models.stage2_inference import concept_input, undecoded

    val = files.rows["val"]
    logits, own = undecoded(head, concept_input(head.config, concepts), features, val, refiner)
    return fit_decoder(
        logits,
        own,
        answer_places(files),
        files.cell_label[val],
        files.lat[val],
        files.lng[val],
        head.config.answer_point,
    )


def save_decoder(path: str | Path, files: Run, head: Stage2CrossAttentionGeoHead, decoder: Decoder) -> None:
    """Write what was chosen and fitted, the validation figures of every candidate, and what they were made from."""
    write_json(
        path,
        {
            "labels": {lineage.KEY: files.made_from(Path(path).name), "head_digest": _digest(head)},
            "choice": asdict(decoder.choice),
            "temperature": decoder.temperature,
            "bandwidth_km": decoder.bandwidth_km,
        },
    )


def load_decoder(files: Run, head: Stage2CrossAttentionGeoHead, name: str = "stage2") -> Decoder | None:
    """The decoder of a checkpoint; None for runs of before there was a choice, which answer the argmax.

    Raises:
        MissingInputError: the head's settings ask for a choice, but it is not there.
        MismatchError: it was made from another table, other splits or cells, or for another head.
    """
    from geocbm.models.decoder import Decoder

    file = decoding_file(name)
    if head.config.answer_point == "argmax" and not files.path(file).exists():
        return None
    choice, temperature, bandwidth_km, digest = _read(files, file)
    if digest != _digest(head):
        raise MismatchError(
            f"{file} of run {files.name!r} was chosen for another head than {name}.safetensors holds; make it again "
            f"with: {files.remedy(file)}"
        )
    return Decoder(choice, temperature, bandwidth_km, answer_places(files))


def read_choice(files: Run, name: str = "stage2") -> PointChoice | None:
    """Which point a checkpoint answers and why; None where the run has no such file.

    Raises:
        MismatchError: it was made from another table, other splits or cells.
    """
    file = decoding_file(name)
    return _read(files, file)[0] if files.path(file).exists() else None


def _read(files: Run, file: str) -> tuple[PointChoice, float, float, str]:
    """Choice, temperature, bandwidth in km and digest of the head for which they were chosen."""
    from geocbm.models.decoder import POINT_WORDS, PointChoice

    files.need(file)
    content = read_json(files.path(file))
    try:
        choice = PointChoice(**content["choice"])
        if choice.point not in POINT_WORDS:
            raise ValueError(f"an unknown point {choice.point!r}")
        # JSON is written with its keys sorted; the order of the page is another.
        choice = replace(choice, figures={name: choice.figures[name] for name in POINT_WORDS if name in choice.figures})
        return choice, float(content["temperature"]), float(content["bandwidth_km"]), content["labels"]["head_digest"]
    except (KeyError, TypeError, ValueError) as error:
        raise MismatchError(
            f"{file} of run {files.name!r} is not whole ({error}); make it again with: {files.remedy(file)}"
        ) from error


def _digest(head: Stage2CrossAttentionGeoHead) -> str:
    from geocbm.encoders.loading import hash_weights

    return hash_weights(head.state_dict().items())

"""Pretraining of the atlas's small CLIP, from random weights, on captions of scenes of other worlds.

It plays the part that a CLIP of street views plays on real photographs: it knows what roadside things look like and
what they are called, and nothing of which country has them, because every world it sees deals them out differently.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import read_json, write_json
from tools.atlas_backbone.contrastive import PhraseBank, Schedule, train
from tools.atlas_backbone.model import (
    Backbone,
    BackboneShape,
    build_image_processor,
    build_model,
    build_tokenizer,
    set_starting_values,
)
from tools.atlas_backbone.probe import measure, normalise_pictures
from tools.atlas_backbone.scene_pool import ScenePool, render_pool

FIRST_WORLD = 1000
HELD_OUT: dict[str, tuple[int, str | int]] = {"another_world": (900, 900), "demonstration_world": (0, "facts")}
"""Seed and assignment of the worlds that a backbone is measured on."""


@dataclass(frozen=True)
class PretrainSettings:
    """How the backbone is trained.

    Attributes:
        seed: of everything drawn at random.
        n_scenes: pictures in the pool, rendered once.
        epochs: passes over the pool.
        batch_size: pictures per update.
        minutes: ends the training by then (see `Schedule.minutes`), rendering and measuring not counted.
        n_worlds: worlds in the pool; world j is `World.create(1000 + j, assignment=1000 + j)`.
        lr: learning rate at its peak.
        workers: processes that render, and parts of a batch trained side by side.
        evaluation_scenes: pictures of each of the two worlds it is measured on.
    """

    seed: int = 0
    n_scenes: int = 15000
    epochs: float = 4.0
    batch_size: int = 48
    minutes: float | None = None
    n_worlds: int = 12
    lr: float = 3e-3
    workers: int = 2
    evaluation_scenes: int = 900

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.n_scenes < self.batch_size or self.epochs <= 0:
            raise ParameterError(
                f"n_scenes = {self.n_scenes}, batch_size = {self.batch_size}, epochs = {self.epochs}: a contrast needs "
                "at least two pictures a batch, a batch no more than n_scenes, and epochs above 0."
            )


def save_backbone(folder: Path, backbone: Backbone, provenance: dict) -> None:
    """Write the backbone in the Hugging Face layout, weights in half precision, with `provenance.json`.

    The configuration asks for single precision on loading: half is for the disk only.
    """
    from safetensors.torch import save_file

    model = backbone.model
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        half = {
            name: (value.detach().half() if value.is_floating_point() else value).contiguous()
            for name, value in model.state_dict().items()
        }
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(temporary)
        save_file(half, Path(temporary) / "model.safetensors", metadata={"format": "pt"})
        backbone.tokenizer.save_pretrained(temporary)
        backbone.processor.save_pretrained(temporary)
        config = read_json(Path(temporary) / "config.json")
        for part in (config, config["text_config"], config["vision_config"]):
            part.pop("_name_or_path", None)
            part["dtype"] = "float32"
        write_json(Path(temporary) / "config.json", config)
        write_json(Path(temporary) / "provenance.json", provenance)
        for file in sorted(Path(temporary).iterdir()):
            file.chmod(0o644)
            file.replace(folder / file.name)


def _begin(pool: ScenePool, bank: PhraseBank, shape: BackboneShape, seed: int) -> Backbone:
    """Make an untrained model, its tokenizer and its image processor for a pool."""
    some = np.random.default_rng([seed, 3]).choice(len(pool), min(len(pool), 512), replace=False)
    sample = pool.pictures[np.sort(some)]
    processor = build_image_processor(shape, sample.mean((0, 1, 2)) / 255, sample.std((0, 1, 2)) / 255)
    texts = [text for wordings in bank.texts for text in wordings]
    texts += [sentence for sentences in pool.notes.captions for sentence in sentences]
    tokenizer = build_tokenizer(texts, context=shape.context)
    model = build_model(tokenizer, shape, seed)
    set_starting_values(model, normalise_pictures(sample, processor.image_mean, processor.image_std))
    return Backbone(model, tokenizer, processor)


def _read_start(folder: Path) -> dict[str, Any]:
    """Read the provenance of the backbone to go on from."""
    if not (folder / "provenance.json").is_file():
        raise MissingInputError(
            f"start = {folder} holds no backbone: give a folder that `python -m tools.atlas_backbone` wrote."
        )
    return read_json(folder / "provenance.json")


def _load_backbone(folder: Path) -> Backbone:
    """Load model, tokenizer and image processor of a saved backbone."""
    from transformers import AutoImageProcessor, CLIPModel, CLIPTokenizer

    return Backbone(
        CLIPModel.from_pretrained(folder, local_files_only=True),
        CLIPTokenizer.from_pretrained(folder, local_files_only=True),
        AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
    )


def pretrain(
    out: str | Path,
    settings: PretrainSettings | None = None,
    shape: BackboneShape | None = None,
    pool_folder: str | Path | None = None,
    start: str | Path | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Render a pool of scenes, train the small CLIP on it and save it.

    Args:
        out: folder of the backbone, made or overwritten.
        settings: of the training.
        shape: sizes of the model.
        pool_folder: keeps the rendered pools, and uses those that are there; a temporary folder when left out.
        start: folder of an earlier backbone to go on from, with its tokenizer, sizes and normalisation; the learning
            rate rises and falls again. `shape` is then not used. The provenance keeps that of the earlier one.
        log: takes lines of progress.

    Returns:
        The provenance that is also written to `out/provenance.json`: settings, losses and figures.

    Raises:
        MissingInputError: if `start` holds no backbone.
    """
    out, shape, settings = Path(out), shape or BackboneShape(), settings or PretrainSettings()
    before = None if start is None else _read_start(Path(start))
    if before is not None:
        shape = BackboneShape(**before["shape"])
    steps = max(1, round(settings.n_scenes * settings.epochs / settings.batch_size))
    schedule = Schedule(steps, settings.batch_size, settings.lr, minutes=settings.minutes)
    worlds = [(FIRST_WORLD + j, FIRST_WORLD + j) for j in range(settings.n_worlds)]
    seed, size, workers = settings.seed, shape.image_size, settings.workers
    with tempfile.TemporaryDirectory(prefix="geocbm-pretrain-") as temporary:
        pools = Path(pool_folder or temporary)
        began = time.monotonic()
        pool = render_pool(settings.n_scenes, worlds, 1_000_000 + seed, size, pools / "pool", workers)
        log(f"rendered {len(pool)} scenes of {len(worlds)} worlds in {time.monotonic() - began:.0f} s")
        bank = PhraseBank(pool.notes, seed)
        backbone = _begin(pool, bank, shape, seed) if start is None else _load_backbone(Path(start))
        provenance: dict[str, Any] = {
            "what": "small CLIP of the atlas, trained from random weights on simulated scenes: tools.atlas_backbone",
            "settings": asdict(settings),
            "schedule": asdict(schedule),
            "shape": asdict(shape),
            "finished": False,
        }
        if before is not None:
            provenance["before"] = before

        def checkpoint(steps: int) -> None:
            save_backbone(out, backbone, provenance | {"steps_done": steps})

        provenance["losses"] = train(backbone, pool, bank, schedule, seed, checkpoint, workers, log)
        provenance["figures"] = {}
        for name, world in HELD_OUT.items():
            seen = render_pool(settings.evaluation_scenes, [world], 2_000_000 + seed, size, pools / name, workers)
            provenance["figures"][name] = measure(backbone, seen)
            log(f"{name}: " + "  ".join(f"{key} {value:.3f}" for key, value in provenance["figures"][name].items()))
        provenance["finished"] = True
        save_backbone(out, backbone, provenance)
    return provenance

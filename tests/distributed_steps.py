"""What test_distributed does in one process and, as a program, in each of two that belong together.

As a program it takes a folder: there lie the inputs, and there each process leaves what it got.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import stage_training
import torch
from PIL import Image
from stage_training import Stage0Training, Stage1Training, Stage2Training, StageTraining
from torch import Tensor, nn

from geocbm.encoders import ImageFeatures
from geocbm.encoders.features import encode_features
from geocbm.encoders.processes import (
    all_gather_object,
    broadcast_object,
    on_main,
    process_count,
    process_index,
    raise_together,
)
from geocbm.errors import UserError
from geocbm.files import write_json
from geocbm.geodesy import latlng_to_cartesian
from geocbm.models.stage0 import Stage0Config
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import Stage2Config
from geocbm.training import RowLoader, TrainingSettings, evaluate, fit
from geocbm.training.distributed import BORROWED, gather_batch, gather_rows, own_share, shared
from geocbm.training.epoch import forward_batch, forward_names
from geocbm.training.loader import prefetched

N, TEXT, WIDTH = 24, 6, 10
ROWS = {"odd": np.arange(7), "single": np.array([3])}  # four and three rows; one row and none
STAGES = ("stage0", "stage1", "stage2")
STEPS = (*STAGES, "stage1_unlabelled")
READINGS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "item": lambda batch: batch["x"],
    "get": lambda batch: batch.get("x"),
    "items": lambda batch: next(value for name, value in batch.items() if name == "x"),
    "values": lambda batch: next(iter(batch.values())),
    "iteration": lambda batch: next(batch[name] for name in batch),
    "pattern": lambda batch: _matched(batch),
    "dict": lambda batch: dict(batch)["x"],
    "unpacked": lambda batch: {**batch}["x"],
    "copy": lambda batch: batch.copy()["x"],
    "shallow copy": lambda batch: copy.copy(batch)["x"],
    "deep copy": lambda batch: copy.deepcopy(batch)["x"],
    "joined": lambda batch: (batch | {"y": 1})["x"],
    "items of joined": lambda batch: dict((batch | {"y": 1}).items())["x"],
    "joined to": lambda batch: ({"x": torch.zeros(1), "y": 1} | batch)["x"],
    "joined in place": lambda batch: _updated(batch)["x"],
    "brought": lambda batch: (batch | {"y": batch["x"]})["y"],  # is whole, and is not gathered again
}
"""An entry of a batch, by every way of reading a mapping."""


def _matched(batch: Mapping[str, Any]) -> Any:
    match batch:
        case {"x": value}:
            return value


def _updated(batch: Mapping[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {"y": 1}
    whole |= batch
    return whole


class MeanColour:
    """An encoder whose feature is the colour of a picture of one colour; it counts what it encodes."""

    name, pooled_dim, token_dim, grid, device = "mean colour", 3, 3, (1, 1), "cpu"

    def __init__(self) -> None:
        self.n_encoded = 0

    def preprocess(self, images):
        colours = [list(image.resize((1, 1)).getpixel((0, 0))) for image in images]
        return torch.tensor(colours, dtype=torch.float32)

    def lower(self, pixels, top_blocks):
        self.n_encoded += len(pixels)
        return pixels

    def upper(self, hidden, top_blocks):
        return ImageFeatures(hidden, hidden[:, None])

    def fingerprint(self):
        return "mean colour"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_step(rows: np.ndarray) -> Any:
    """Stand in for `fit`: the losses of one batch and the gradients they give, in training mode."""

    def step(model: nn.Module, loss: Any, train: RowLoader, *_: Any, **__: Any) -> dict[str, Any]:
        module, names = model, forward_names(model)
        if process_count() > 1:
            module = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        module.train()
        ((_, batch),) = prefetched(shared(train.read), [rows])
        losses = loss(*gather_batch(forward_batch(module, names, batch), batch))
        losses["loss"].backward()
        gradients = {
            name: (torch.zeros_like(value) if value.grad is None else value.grad)
            for name, value in model.named_parameters()
            if value.requires_grad
        }
        return {"losses": {name: float(value.detach()) for name, value in losses.items()}, "gradients": gradients}

    return step


def training_of(stage: str, clip: Path) -> StageTraining:
    """A stage and its inputs, the same in every process."""
    generator = np.random.default_rng(5)
    lat, lng = generator.uniform(-60, 60, N), generator.uniform(-170, 170, N)
    meta = generator.permutation(np.arange(N) % 4)
    parent = meta // 2
    if stage == "stage1_unlabelled":  # of rows 1, 2 and 5 among the seven the concept is not known
        meta[[1, 2, 5]] = parent[[1, 2, 5]] = -1
    rows = np.arange(N)
    prototypes = {"meta_prototypes": draw(4, TEXT, seed=1), "parent_prototypes": draw(2, TEXT, seed=2)}
    if stage == "stage0":
        from geocbm.encoders import load_image_encoder

        torch.manual_seed(0)
        places = nn.Linear(2, 8)
        encoder = load_image_encoder(str(clip))
        hidden = draw(N, *encoder.hidden_shape(2), seed=3)
        vanilla = draw(N, encoder.pooled_dim, seed=4)
        config = Stage0Config(
            dropout=0.0, unfreeze_layers=2, symmetric=True, false_negative_km=500.0, learn_temperature=True
        )
        return Stage0Training(
            config,
            rows,
            rows,
            encoder=encoder,
            location_encoder=places,
            **prototypes,
            hidden_features=hidden,
            vanilla_features=vanilla,
            lat=lat,
            lng=lng,
            meta=meta,
            parent=parent,
        )
    if stage.startswith("stage1"):
        config = Stage1Config(dropout=0.0, lambda_meta_guided=0.5)
        labels = {"meta": meta, "parent": parent, "meta_to_parent": np.array([0, 0, 1, 1])}
        return Stage1Training(config, rows, rows, features=draw(N, WIDTH, seed=6), **labels, **prototypes)
    centers = latlng_to_cartesian(np.array([0.0, 45.0, -30.0]), np.array([0.0, 90.0, 179.9]))
    cells = SimpleNamespace(centers=centers, digest="cells")
    config = Stage2Config(dropout=0.0, embed_dim=32, heads=4)
    inputs = {"concept_emb": draw(N, 16, seed=7), "tokens": draw(N, 5, 12, seed=8)}
    return Stage2Training(config, rows, rows, cells=cells, cell_label=meta % 3, lat=lat, lng=lng, **inputs)


def read_in_every_way() -> dict[str, dict[str, Any]]:
    """What each of `READINGS` gives of a batch of unequal shares, and of one of which a process has no row."""
    index, found = process_index(), {}
    for name, length, borrowed in (("uneven", 3 - 2 * index, False), ("borrowed", 2 - index, index == 1)):
        share = {"x": torch.arange(float(length)) + 10 * index, "name": "a text"}
        share |= {BORROWED: torch.ones(1, dtype=torch.bool)} if borrowed else {}
        output = torch.zeros(length, requires_grad=True)
        found[name] = {way: read(gather_batch(output, share)[1]).tolist() for way, read in READINGS.items()}
        batch = gather_batch(output, share)[1]
        found[name] |= {"names": [*batch, *batch.keys()], "length": len(batch), "lacks": batch.get("z", "nothing")}
        found[name]["has"] = ["x" in batch, "z" in batch, BORROWED in batch]
    return found


def step_of_stage(stage: str, rows: np.ndarray, clip: Path) -> dict[str, Any]:
    """Losses and gradients of one batch of a stage, computed by the very function that its training uses."""
    with patch.object(stage_training, "fit", one_step(rows)):
        return training_of(stage, clip).fit()[1]


def few_epochs(accumulation: int) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """History and weights of a whole training of Stage 1 without dropout, in batches of nine rows or parts of them."""
    stage1 = training_of("stage1", Path())
    config = Stage1Config(dropout=0.0, batch_size=9, accumulation_steps=accumulation, epochs=3, monitor="loss", lr=3e-3)
    model, result = replace(
        stage1, config=config, train_rows=stage1.train_rows[:17], val_rows=stage1.train_rows[17:]
    ).fit()
    history = result.history.drop(columns="seconds")
    return history.to_dict("list"), dict(model.named_parameters())


def values_in_order(n: int) -> dict[str, float]:
    """Validation values that depend on every row and on their order."""
    torch.manual_seed(0)
    model = Measured(3, 2)
    inputs = draw(30, 3, seed=9)
    rows = np.arange(n)[::-1].copy()
    loader = RowLoader(rows, lambda chosen: {"x": inputs[chosen], "row": torch.as_tensor(chosen)})
    return evaluate(
        model, lambda output, batch: {"loss": output.square().mean()}, loader, TrainingSettings(batch_size=5)
    )


class Reads(nn.Linear):
    """A layer that reads the entry `x` of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Measured(Reads):
    """Measured by values that depend on every row and on their order."""

    def predictions(self, output: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"first": output.argmax(1), "output": output, "row": batch["row"]}

    def measure(self, predictions: dict[str, Tensor]) -> dict[str, float]:
        assert len(predictions["first"]) == len(predictions["output"]) == len(predictions["row"])
        weight = predictions["row"] + 1.0
        assert (predictions["row"].diff() == -1).all()
        return {
            "ordered": float((predictions["output"].double().sum(1) * weight).sum()),
            "classes": float((predictions["first"] * weight).sum()),
        }


def write_colours(folder: Path, n: int = 11) -> list[Path]:
    """Pictures of one colour each."""
    folder.mkdir()
    files = [folder / f"{number}.png" for number in range(n)]
    for number, file in enumerate(files):
        Image.new("RGB", (4, 4), (20 * number, 255 - 20 * number, 7)).save(file)
    return files


def encode(files: list[Path], cache: Path, progress: bool = False) -> int:
    """Encode colours into a store; gives the number of pictures that this process encoded."""
    encoder = MeanColour()
    encode_features(encoder, files, [file.name for file in files], cache, batch_size=2, progress=progress)
    return encoder.n_encoded


def refusal(act: Any) -> str:
    """The message of a refusal, or nothing."""
    try:
        act()
    except UserError as problem:
        return str(problem)
    return ""


def not_finite() -> None:
    """Train on a batch of which one row, in the share of the second process, is not a number."""
    inputs = draw(4, 3)
    second = np.random.default_rng([0, 1]).permutation(4)[1]  # in the order of seed 0, epoch 1
    inputs[second, 0] = torch.nan
    names = ["other"] * 4
    names[second] = "ill"
    train, val = (RowLoader(rows, lambda chosen: {"x": inputs[chosen]}, names=names) for rows in (range(4), [0]))
    settings = TrainingSettings(batch_size=4, epochs=1, lr=0.1)
    fit(Reads(3, 1), lambda output, batch: {"loss": output.square().mean()}, train, val, settings)


def main(folder: Path) -> None:
    from safetensors.torch import save_file

    from geocbm.workbench.model_commands import fit as fit_command

    told: dict[str, Any] = {"count": process_count(), "index": process_index()}
    index = process_index()
    told["exchange"] = all_gather_object({"from": index, "text": "é" * (3 * index)})
    told["from_main"] = broadcast_object([index])
    told["shares"] = [own_share(np.arange(n)).tolist() for n in (1, 2, 5)]

    def fail_in(process: int) -> None:
        if index == process:
            raise UserError(f"process {process} cannot")

    told["together"] = [
        refusal(lambda: raise_together(lambda: fail_in(1))),
        refusal(lambda: on_main(lambda: fail_in(0))),
    ]
    told["not_finite"] = refusal(not_finite)

    tensors: dict[str, Tensor] = {}
    for name, length in (("uneven", 3 - 2 * index), ("none", 2 * index)):
        value = (torch.arange(2.0 * length).view(length, 2) + 100 * index).requires_grad_()
        whole = gather_rows(value)
        (whole * torch.arange(1.0, len(whole) + 1)[:, None]).sum().backward()
        tensors |= {f"{name}.rows": whole.detach(), f"{name}.gradient": value.grad}
        tensors[f"{name}.whole"] = gather_rows(torch.arange(length) + 10 * index)
        tensors[f"{name}.flags"] = gather_rows(torch.ones(length, 1, dtype=torch.bool))

    told["read"] = read_in_every_way()
    clip = folder / "clip"
    told["losses"] = {}
    for stage in STEPS:
        for name, rows in ROWS.items():
            result = step_of_stage(stage, rows, clip)
            told["losses"][f"{stage}.{name}"] = result["losses"]
            tensors |= {f"{stage}.{name}.{key}": value for key, value in result["gradients"].items()}
    told["history"] = {}
    for accumulation in (1, 2):
        told["history"][str(accumulation)], weights = few_epochs(accumulation)
        tensors |= {f"weights.{accumulation}.{name}": value.detach() for name, value in weights.items()}
    told["values"] = {str(n): values_in_order(n) for n in (4, 13, 23)}

    files = sorted((folder / "colours").glob("*.png"), key=lambda file: int(file.stem))
    told["encoded"] = [encode(files, folder / "fresh", progress=True), encode(files, folder / "begun")]
    told["encoded"].append(encode(files, folder / "fresh"))
    told["broken"] = refusal(lambda: encode([*files, folder / "broken.png"], folder / "halted"))

    print("training")
    encoder = [f"image_encoder={clip}", "unfreeze_layers=1"]
    for stage in STAGES:
        settings = ["epochs=2", "batch_size=13", *(encoder if stage == "stage0" else [])]
        settings += ["ablation_mode=hybrid", "patience=1"] if stage == "stage2" else []
        assert fit_command(stage, "tiny", "demo", None, settings) == 0
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / f"tensors_{index}.safetensors")
    write_json(folder / f"told_{index}.json", told)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

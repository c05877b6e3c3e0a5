"""An epoch of Stage 1 from stored features: against encoding the images in each epoch, and against the arithmetic.

Run `python -m benchmarks.stage1_epoch`. Ours is `training.fit` as the notebook calls it: 30,128 images, 768-1024-512
bottleneck, 100 metas and 15 parents, batches of 256. The straightforward epoch encodes each image first; the seconds
of the encoder (CLIP ViT-L/14 at 336 pixels, random weights) are measured on a few images and scaled, which the output
says. What a step spends its time on is printed from the profiler, since small matrices, the optimizer and the losses
bound it and not the machine's best matrix product alone.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import timing
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config
from geocbm.models.stage_losses import Stage1Loss
from geocbm.training import FitResult, RowLoader, fit

TARGET = 0.6
PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "optimizer (AdamW)": ("aten::_fused_adamw_",),
    "gradient clipping": ("aten::_foreach_norm", "aten::_foreach_mul_", "aten::linalg_vector_norm", "aten::stack"),
    "dropout": ("aten::bernoulli_", "aten::native_dropout", "aten::native_dropout_backward"),
    "layer norm and GELU": (
        "aten::native_layer_norm",
        "aten::native_layer_norm_backward",
        "aten::gelu",
        "aten::gelu_backward",
    ),
    "reading the batch": ("aten::index",),
}


def frozen_encoder(blocks: int, width: int, size: int, out: int) -> torch.nn.Module:
    """CLIP's vision encoder with random weights."""
    config = transformers.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, width // 64),
        image_size=size,
        patch_size=14,
        projection_dim=out,
    )
    return transformers.CLIPVisionModelWithProjection(config).eval()


def encode(encoder: torch.nn.Module, n_images: int, size: int, rounds: int) -> tuple[timing.Spread, Tensor]:
    """Seconds per image, and the features `(n, d)` of some random images."""
    with torch.no_grad():
        pixels = torch.randn(n_images, 3, size, size)
        seconds = timing.interleaved({"encoder": lambda: encoder(pixel_values=pixels)}, rounds, warmup=0)["encoder"]
        return timing.spread([each / n_images for each in seconds]), encoder(pixel_values=pixels).image_embeds


def check(model: Stage1ConceptModel, encoded: Tensor, meta: np.ndarray, parent: np.ndarray) -> float:
    """Compare loss and gradients from stored half-precision features with those from the encoder's own."""
    gradients = []
    for features in (encoded.half(), encoded):
        model.zero_grad()
        output = model.eval()(features)
        labels = {"concept_idx": meta, "parent_idx": parent}
        true = {name: torch.as_tensor(label[: len(encoded)], dtype=torch.long) for name, label in labels.items()}
        loss = Stage1Loss(model)(output, true)["loss"]
        loss.backward()
        gradients.append([loss, *(each.grad for each in model.parameters())])
    return max(timing.agree(*pair, 1e-2, "loss and gradients of Stage 1") for pair in zip(*gradients, strict=True))


def operations_of_a_step(batch: int, width: int, text_width: int, metas: int, parents: int) -> dict[str, float]:
    """Floating-point operations of the matrix products of one step, forward and backward, by part of the model."""
    hidden, out, prototypes = 1024, 512, metas + parents
    return {
        # The features need no gradient, so the first layer has two products and the second three.
        "bottleneck": 2.0 * batch * (2 * width * hidden + 3 * hidden * out),
        "prototypes": 2.0 * 3 * prototypes * text_width * out,
        # Logits of both classifiers, contrast with the prototypes, and contrast within the batch.
        "similarities": 2.0 * 3 * batch * out * (prototypes + metas + batch),
    }


def train(config: Stage1Config, data: dict[str, Any]) -> tuple[Stage1ConceptModel, FitResult]:
    """Train Stage 1 on features in memory."""
    columns = {
        "pooled": data["features"],
        "concept_idx": torch.as_tensor(data["meta"]),
        "parent_idx": torch.as_tensor(data["parent"]),
    }
    loaders = [
        RowLoader(data[split], lambda rows: {name: values[rows] for name, values in columns.items()})
        for split in ("train_rows", "val_rows")
    ]
    hierarchy = torch.as_tensor(data["meta_to_parent"])
    prototypes = data["meta_prototypes"], data["parent_prototypes"]
    model = Stage1ConceptModel(data["features"].shape[1], *prototypes, hierarchy, config)
    loss = Stage1Loss(model, columns["concept_idx"], columns["parent_idx"])
    return model, fit(model, loss, *loaders, config, report=lambda line: None)


def training(given: argparse.Namespace) -> dict[str, Any]:
    """Random data of the given size, as `train` reads it."""
    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    meta_to_parent = np.arange(given.metas) % given.parents
    meta = generator.integers(0, given.metas, given.images)
    return {
        "features": torch.randn(given.images, given.width).half().float(),  # as a store gives them
        "meta": meta,
        "parent": meta_to_parent[meta],
        "meta_prototypes": torch.randn(given.metas, given.width),
        "parent_prototypes": torch.randn(given.parents, given.width),
        "meta_to_parent": meta_to_parent,
        "train_rows": np.arange(given.images),
        "val_rows": np.arange(given.batch),
    }


def profiled(given: argparse.Namespace) -> None:
    """Print what the steps of one short epoch spend their time on."""
    short = argparse.Namespace(**vars(given) | {"images": min(given.images, 40 * given.batch)})
    train(Stage1Config(epochs=1, batch_size=given.batch), training(short))
    with profile(activities=[ProfilerActivity.CPU]) as record:
        train(Stage1Config(epochs=1, batch_size=given.batch), training(short))
    own = {event.key: event.self_cpu_time_total for event in record.key_averages()}
    total = sum(own.values())
    shares = {part: sum(own.get(key, 0.0) for key in keys) / total for part, keys in PARTS.items()}
    operators = sum(value for key, value in own.items() if key.startswith("aten::")) / total
    shares["losses and other small operators"] = operators - sum(shares.values())
    shares["autograd, Python and the rest"] = 1 - operators
    print("time of a step: " + "; ".join(f"{part} {share:.0%}" for part, share in shares.items()))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=30_128)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--metas", type=int, default=100)
    parser.add_argument("--parents", type=int, default=15)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--encoded", type=int, default=2, help="images to time the encoder on")
    parser.add_argument("--encoder", type=int, nargs=3, default=(24, 1024, 336), help="its blocks, width and pixels")
    given = parser.parse_args(arguments)
    print(timing.machine())
    print(
        f"Stage 1 epoch: {given.images:,} images of width {given.width}, {given.metas} metas, {given.parents} parents"
    )
    config = Stage1Config(epochs=given.epochs, patience=given.epochs, batch_size=given.batch)
    data = training(given)
    model, result = train(config, data)
    assert isinstance(model, Stage1ConceptModel)
    epochs = timing.spread(result.history["seconds"].iloc[1:].tolist())  # the first one warms up
    encoder = frozen_encoder(*given.encoder, out=given.width)
    each, encoded = encode(encoder, given.encoded, given.encoder[2], 2)
    differ = check(model, encoded, data["meta"], data["parent"])
    encoding = each.median * given.images
    print(f"agreement: loss and gradients from stored (half-precision) features within {differ:.1e} of the largest")
    print(
        f"epoch from stored features {epochs.text('s', digits=2)}; encoding {each.text('s', digits=2)} per image, "
        f"measured on {given.encoded} images and SCALED to {encoding / 3600:.1f} h an epoch; ratio "
        f"{(encoding + epochs.median) / epochs.median:,.0f}x"
    )
    steps = -(-given.images // given.batch)
    parts = operations_of_a_step(given.batch, given.width, given.width, given.metas, given.parents)
    operations = sum(parts.values()) * steps
    rates = {
        "2048 cubed": timing.matmul_rate(),
        f"{given.batch} x 1024 x {given.width}": timing.matmul_rate(given.batch, 1024, given.width),
        f"{given.batch} x 512 x 1024": timing.matmul_rate(given.batch, 512, 1024),
    }
    achieved = operations / epochs.median
    print(
        f"arithmetic: {operations / steps / 1e9:.2f} GFLOP a step ("
        + ", ".join(f"{name} {value / 1e9:.2f}" for name, value in parts.items())
        + f"), {steps} steps, {achieved / 1e9:.0f} GFLOP/s achieved"
    )
    print(
        "share of the measured matmul rate: "
        + "; ".join(f"{achieved / rate:.0%} of {rate / 1e9:.0f} GFLOP/s ({name})" for name, rate in rates.items())
        + f"; to reach {TARGET:.0%}, or what bounds it:"
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # AdamW reads and writes parameter and moments; backward writes the gradient, clipping and AdamW read it.
    moved = parameters * 4.0 * 10
    print(f"floor of a step: {timing.floor(moved, operations / steps)} ({parameters / 1e6:.1f} million parameters)")
    profiled(given)


if __name__ == "__main__":
    main()

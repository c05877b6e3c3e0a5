"""An epoch of Stage 0 at StreetCLIP's size: stored trunk activations against the whole encoder at each step.

Run `python -m benchmarks.stage0_epoch`. Both sides train the same model (CLIP ViT-L/14 at 336
pixels, random weights, the last two blocks unfrozen) on the same pictures with the same six losses and AdamW. The
straightforward side runs transformers' own forward pass over all 24 blocks and a second, untouched encoder for the
anchor at each step; its pictures are decoded once, outside of the clock. Ours reads the activations that enter the last
two blocks, and the untouched features, from the feature store, which it writes before its first epoch.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from benchmarks import timing
from geocbm.encoders.backbones import ImageFeatures, make_backbone
from geocbm.encoders.features import encode_features
from geocbm.encoders.image import ImageEncoder
from geocbm.models.stage0 import Stage0Config, Stage0PretrainingModel
from geocbm.models.stage_losses import Stage0Loss
from geocbm.training.epoch import parameter_groups
from geocbm.training.loader import batches_of

TOP, GPS, METAS, PARENTS = 2, 512, 100, 15
FULL_TABLE = 43_040  # pictures of the largest table this is meant for


class Geometry(NamedTuple):
    """Size of a vision tower; the defaults are StreetCLIP's."""

    blocks: int = 24
    width: int = 1024
    heads: int = 16
    size: int = 336
    patch: int = 14
    projection: int = 768

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.size // self.patch

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.grid**2 + 1

    @property
    def block_operations(self) -> int:
        """Operations of one block for one picture: 12 width^2 weights per token, scores and mixing of the attention."""
        return 2 * self.tokens * 12 * self.width**2 + 4 * self.tokens**2 * self.width

    @property
    def our_passes(self) -> int:
        """Block passes of one training step; the gradient of a block costs two."""
        return TOP + 2 * TOP

    @property
    def rival_passes(self) -> int:
        """The same with the whole encoder, and a second one for the anchor."""
        return self.blocks + 2 * TOP + self.blocks


class WholeEncoder(nn.Module):
    """The vision model as transformers runs it, called by Stage 0 with pixels in place of stored activations."""

    def __init__(self, model: Any, geometry: Geometry) -> None:
        super().__init__()
        self.model = model
        self.pooled_dim, self.token_dim = geometry.projection, geometry.width
        self.grid = (geometry.grid, geometry.grid)

    def upper(self, pixels: Tensor, top_blocks: int) -> ImageFeatures:
        """Every block, from pixels (B, 3, H, W)."""
        output = self.model(pixel_values=pixels)
        return ImageFeatures(output.image_embeds, output.last_hidden_state[:, 1:])

    def upper_parameters(self, top_blocks: int) -> dict[str, nn.Parameter]:
        """The last blocks, the last norm and the projection."""
        vision = self.model.vision_model
        modules = [*vision.encoder.layers[-top_blocks:], vision.post_layernorm, self.model.visual_projection]
        chosen = {id(parameter) for module in modules for parameter in module.parameters()}
        return {name: value for name, value in self.named_parameters() if id(value) in chosen}


def vision_model(geometry: Geometry) -> Any:
    """A CLIP vision tower with random weights."""
    config = transformers.CLIPVisionConfig(
        hidden_size=geometry.width,
        intermediate_size=4 * geometry.width,
        num_hidden_layers=geometry.blocks,
        num_attention_heads=geometry.heads,
        image_size=geometry.size,
        patch_size=geometry.patch,
        projection_dim=geometry.projection,
    )
    torch.manual_seed(0)
    return transformers.CLIPVisionModelWithProjection(config).requires_grad_(False).eval()


class Side:
    """One way to train: a model, its optimiser and where its batches come from."""

    def __init__(
        self, encoder: Any, config: Stage0Config, inputs: Any, vanilla: Any, labels: dict[str, Tensor]
    ) -> None:
        torch.manual_seed(1)
        prototypes = torch.randn(METAS + PARENTS, encoder.pooled_dim)
        self.model = Stage0PretrainingModel(encoder, None, prototypes[:METAS], prototypes[METAS:], config, GPS).train()
        groups = parameter_groups(self.model, config)
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.config, self.inputs, self.vanilla, self.labels = config, inputs, vanilla, labels

    def losses(self, rows: np.ndarray, inputs: Any = None) -> dict[str, Tensor]:
        """Forward pass; the dropout masks depend on the rows only, so that both sides draw the same."""
        torch.manual_seed(int(rows[0]))
        batch = {name: values[rows] for name, values in self.labels.items()}
        output = self.model((inputs or self.inputs)(rows), batch["gps"])
        return Stage0Loss(self.config)(output, batch | {"pooled": self.vanilla(rows)})

    def gradients(self, rows: np.ndarray, inputs: Any = None) -> tuple[Tensor, Tensor]:
        """Loss terms and the gradients of all trained parameters, as two vectors; encoder first."""
        self.optimizer.zero_grad()
        terms = self.losses(rows, inputs)
        terms["loss"].backward()
        # The weights of the two encoders bear other names in another order.
        named = {name.replace("encoder.model.", "encoder."): value for name, value in self.model.named_parameters()}
        gradients = [named[name].grad for name in sorted(named)]
        flat = [gradient.flatten() for gradient in gradients if gradient is not None]
        self.optimizer.zero_grad()
        return torch.stack([value.detach() for value in terms.values()]), torch.cat(flat)

    def epoch(self, rows: np.ndarray) -> float:
        """Train over all rows once; returns the last loss."""
        value = math.nan
        for part in batches_of(rows, self.config.batch_size):
            self.optimizer.zero_grad()
            loss = self.losses(part)["loss"]
            loss.backward()
            self.optimizer.step()
            value = float(loss.detach())
        return value


def write_pictures(folder: Path, n: int, size: int) -> list[Path]:
    """Pictures of random coarse patches."""
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.jpg" for number in range(n)]
    for file in files:
        Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((size, size)).save(file)
    return files


def main(arguments: list[str] | None = None) -> None:
    """Encode once, check that both sides agree, time epochs in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=6, help="pictures of an epoch; what counts is the time of one")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each side")
    for name, default in Geometry._field_defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="of the vision tower")
    given = parser.parse_args(arguments)
    n, batch, rounds = given.images, given.batch, given.rounds
    geometry = Geometry(*(getattr(given, name) for name in Geometry._fields))
    print(timing.machine())
    if geometry != Geometry():
        print(f"SCALED: {geometry}")
    config = Stage0Config(batch_size=batch, unfreeze_layers=TOP)
    generator = torch.Generator().manual_seed(2)
    labels = {
        "gps": torch.randn(n, GPS, generator=generator),
        "concept_idx": torch.arange(n) % METAS,
        "parent_idx": torch.arange(n) % 3,
        "lat": torch.linspace(-60, 60, n),
        "lng": torch.linspace(-170, 170, n),
    }
    size = geometry.size
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    ours_model = vision_model(geometry)
    rival_model, untouched = copy.deepcopy(ours_model), copy.deepcopy(ours_model)
    encoder = ImageEncoder(make_backbone(ours_model, set()), processor, "StreetCLIP's size")
    with tempfile.TemporaryDirectory() as folder:
        files = write_pictures(Path(folder), n, size)
        cache = Path(folder) / "cache"
        stored: list[Any] = []
        encode = timing.timed(
            lambda: stored.append(
                encode_features(
                    encoder, files, [str(row) for row in range(n)], cache, ("pooled", f"hidden:{TOP}"), batch,
                    progress=False,
                )
            )
        )  # fmt: skip
        store = stored[0]
        bytes_each = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) / n
        pixels = encoder.preprocess([Image.open(file) for file in files])  # (n, 3, H, W)

        @torch.no_grad()
        def untouched_features(rows: np.ndarray) -> Tensor:
            return untouched(pixel_values=pixels[rows]).image_embeds

        ours = Side(
            encoder,
            config,
            lambda rows: store.read(f"hidden:{TOP}", rows),
            lambda rows: store.read("pooled", rows),
            labels,
        )
        rival = Side(WholeEncoder(rival_model, geometry), config, lambda rows: pixels[rows], untouched_features, labels)

        # Three rows suffice to compare: all terms of the loss are at work.
        few = np.arange(min(n, 3))
        terms, gradient = rival.gradients(few)
        exact: list[float] = []
        stored_precision: list[float] = []
        with torch.no_grad():
            hidden = encoder.lower(pixels[few], TOP)
        for inputs, tolerance, differences in (
            (lambda rows: hidden[rows], 2e-4, exact),
            (None, 2e-2, stored_precision),
        ):
            mine_terms, mine = ours.gradients(few, inputs)
            differences.append(timing.agree(mine_terms, terms, tolerance, "the loss terms"))
            differences.append(timing.agree(mine, gradient, tolerance, "the gradients"))
        print(
            f"agreement of {len(gradient):,} gradients and {len(terms)} losses, largest difference as a share of the "
            f"largest number: {max(exact):.1e} from unrounded activations, {max(stored_precision):.1e} from those of "
            "the store, in half precision"
        )

        rows = np.arange(n)
        last: dict[str, float] = {}
        rates: list[float] = []
        seconds = timing.interleaved(
            {
                "ours": lambda: last.update(ours=ours.epoch(rows)),
                "rival": lambda: last.update(rival=rival.epoch(rows)),
                # In the same rounds, so that other load on the machine meets it too.
                "product": lambda: rates.append(
                    timing.matmul_rate(batch * geometry.tokens, geometry.width, geometry.width)
                ),
            },
            rounds,
            warmup=0,
        )
    our_time, rival_time = timing.spread(seconds["ours"]), timing.spread(seconds["rival"])
    ratio = timing.ratios(seconds, "rival", "ours")
    print(
        f"{n} pictures, batches of {batch}, {rounds} epochs each; last loss {last['ours']:.4f} and {last['rival']:.4f}"
    )
    print(f"one epoch, whole encoder twice:  {rival_time.text('s', 1 / n, 2)} per picture")
    print(f"one epoch, stored activations:   {our_time.text('s', 1 / n, 2)} per picture")
    print(f"ratio from the second epoch on:  {ratio.text('x', digits=2)}   (aim: at least 5)")
    print(
        f"floor in block passes: {geometry.our_passes} against {geometry.rival_passes}, "
        f"a ratio of {geometry.rival_passes / geometry.our_passes:.1f} if the blocks were all"
    )
    saved = rival_time.median - our_time.median
    pays = f"pay from epoch {max(1, math.ceil(encode / saved))} on" if saved > 0 else "never pay"
    first = (encode + our_time.median) / rival_time.median
    print(
        f"first epoch: encoding once takes {encode / n:.2f} s per picture, so that it takes {first:.2f} of the "
        f"straightforward one; stored activations {pays}"
    )
    for epochs in (5, 20):
        gain = epochs * rival_time.median / (encode + epochs * our_time.median)
        print(f"{epochs} epochs with the encoding: {gain:.1f}x")
    product = timing.spread(rates)
    for name, passes in (("ours", geometry.our_passes), ("rival", geometry.rival_passes)):
        reached = [n * passes * geometry.block_operations / taken for taken in seconds[name]]
        share = timing.spread([each / rate for each, rate in zip(reached, rates, strict=True)])
        label = {"ours": "stored activations", "rival": "whole encoder twice"}[name]
        print(
            f"{label}: {timing.spread(reached).median / 1e9:.0f} GFLOP/s in the blocks, {share.text('%', 100, 0)} of "
            f"the {product.median / 1e9:.0f} of one matrix product"
        )
    activations = geometry.tokens * geometry.width * 2
    print(
        f"disk: {bytes_each / 1e6:.2f} MB per picture ({geometry.tokens} x {geometry.width} x 2 bytes = "
        f"{activations / 1e6:.2f} MB of activations and {geometry.projection} x 2 of features); grows linearly: "
        f"{FULL_TABLE * activations / 1e9:.1f} GB for {FULL_TABLE:,}"
    )


if __name__ == "__main__":
    main()

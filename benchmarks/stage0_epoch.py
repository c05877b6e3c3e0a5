"""An epoch of Stage 0 at StreetCLIP's size: stored trunk activations against the whole encoder at each step.

Run `python -m benchmarks.stage0_epoch [images] [batch] [rounds]`. Both sides train the same model (CLIP ViT-L/14 at 336
pixels, random weights, the last two blocks unfrozen) on the same pictures with the same six losses and AdamW. The
straightforward side runs transformers' own forward pass over all 24 blocks and a second, untouched encoder for the
anchor at each step; its pictures are decoded once, outside of the clock. Ours reads the activations that enter the last
two blocks, and the untouched features, from the feature store, which it writes before its first epoch.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from benchmarks import timing
from geocbm.encoders.backbones import ImageFeatures, make_backbone
from geocbm.encoders.image import ImageEncoder
from geocbm.features import encode_features
from geocbm.stage0 import Stage0Config, Stage0PretrainingModel, stage0_losses
from geocbm.training import parameter_groups
from geocbm.training.batches import batches_of

TOP, BLOCKS, WIDTH, HEADS, SIZE, PATCH, PROJECTION, GPS, METAS, PARENTS = 2, 24, 1024, 16, 336, 14, 768, 512, 100, 15
TOKENS = (SIZE // PATCH) ** 2 + 1
# Per picture and block: 12 width^2 weights for each token, and scores and mixing of the attention.
BLOCK_OPERATIONS = 2 * TOKENS * 12 * WIDTH**2 + 4 * TOKENS**2 * WIDTH
OURS_PASSES = TOP + 2 * TOP  # the gradient of a block costs two passes
RIVAL_PASSES = BLOCKS + 2 * TOP + BLOCKS


class WholeEncoder(nn.Module):
    """The vision model as transformers runs it, called by Stage 0 with pixels in place of stored activations."""

    pooled_dim, token_dim, grid = PROJECTION, WIDTH, (SIZE // PATCH, SIZE // PATCH)

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def upper(self, pixels: Tensor, top_blocks: int) -> ImageFeatures:
        """Every block, from pixels (B, 3, 336, 336)."""
        output = self.model(pixel_values=pixels)
        return ImageFeatures(output.image_embeds, output.last_hidden_state[:, 1:])

    def upper_parameters(self, top_blocks: int) -> dict[str, nn.Parameter]:
        """The last blocks, the last norm and the projection."""
        vision = self.model.vision_model
        modules = [*vision.encoder.layers[-top_blocks:], vision.post_layernorm, self.model.visual_projection]
        chosen = {id(parameter) for module in modules for parameter in module.parameters()}
        return {name: value for name, value in self.named_parameters() if id(value) in chosen}


def vision_model() -> Any:
    """StreetCLIP's vision tower with random weights."""
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=PROJECTION,
    )
    torch.manual_seed(0)
    return transformers.CLIPVisionModelWithProjection(config).requires_grad_(False).eval()


class Side:
    """One way to train: a model, its optimiser and where its batches come from."""

    def __init__(
        self, encoder: Any, config: Stage0Config, inputs: Any, vanilla: Any, labels: dict[str, Tensor]
    ) -> None:
        torch.manual_seed(1)
        self.model = Stage0PretrainingModel(
            encoder, None, torch.randn(METAS, PROJECTION), torch.randn(PARENTS, PROJECTION), config, GPS
        ).train()
        groups = parameter_groups(self.model, config.lr, config.weight_decay, {"encoder.": config.encoder_lr})
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.config, self.inputs, self.vanilla, self.labels = config, inputs, vanilla, labels

    def losses(self, rows: np.ndarray, inputs: Any = None) -> dict[str, Tensor]:
        """Forward pass; the dropout masks depend on the rows only, so that both sides draw the same."""
        torch.manual_seed(int(rows[0]))
        batch = {name: values[rows] for name, values in self.labels.items()}
        output = self.model((inputs or self.inputs)(rows), batch["gps"])
        return stage0_losses(output, batch | {"vanilla": self.vanilla(rows)}, self.config)

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


def write_pictures(folder: Path, n: int) -> list[Path]:
    """Pictures of random coarse patches."""
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.jpg" for number in range(n)]
    for file in files:
        Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize((SIZE, SIZE)).save(file)
    return files


def main(n: int, batch: int, rounds: int) -> None:
    """Encode once, check that both sides agree, time epochs in turn, print."""
    print(timing.machine())
    config = Stage0Config(batch_size=batch, unfreeze_layers=TOP)
    generator = torch.Generator().manual_seed(2)
    labels = {
        "gps": torch.randn(n, GPS, generator=generator),
        "meta": torch.arange(n) % METAS,
        "parent": torch.arange(n) % 3,
        "lat": torch.linspace(-60, 60, n),
        "lng": torch.linspace(-170, 170, n),
    }
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    ours_model = vision_model()
    rival_model, untouched = copy.deepcopy(ours_model), copy.deepcopy(ours_model)
    encoder = ImageEncoder(make_backbone(ours_model, set()), processor, "StreetCLIP's size")
    with tempfile.TemporaryDirectory() as folder:
        files = write_pictures(Path(folder), n)
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
        pixels = encoder.preprocess([Image.open(file) for file in files])  # (n, 3, 336, 336)

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
        rival = Side(WholeEncoder(rival_model), config, lambda rows: pixels[rows], untouched_features, labels)

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
        seconds = timing.interleaved(
            {
                "ours": lambda: last.update(ours=ours.epoch(rows)),
                "rival": lambda: last.update(rival=rival.epoch(rows)),
            },
            rounds,
            warmup=0,
        )
    rate = timing.matmul_rate(batch * TOKENS, WIDTH, WIDTH)
    our_time, rival_time = timing.spread(seconds["ours"]), timing.spread(seconds["rival"])
    ratio = timing.ratios(seconds, "rival", "ours")
    print(
        f"{n} pictures, batches of {batch}, {rounds} epochs each; last loss {last['ours']:.4f} and {last['rival']:.4f}"
    )
    print(f"one epoch, whole encoder twice:  {rival_time.text('s', 1 / n, 2)} per picture")
    print(f"one epoch, stored activations:   {our_time.text('s', 1 / n, 2)} per picture")
    print(f"ratio from the second epoch on:  {ratio.text('x', digits=2)}   (aim: at least 5)")
    print(
        f"floor in block passes: {OURS_PASSES} against {RIVAL_PASSES}, "
        f"a ratio of {RIVAL_PASSES / OURS_PASSES:.1f} if the blocks were all"
    )
    pays = max(1, math.ceil(encode / (rival_time.median - our_time.median)))
    first = (encode + our_time.median) / rival_time.median
    print(
        f"first epoch: encoding once takes {encode / n:.2f} s per picture, so that it takes {first:.2f} of the "
        f"straightforward one; stored activations pay from epoch {pays} on"
    )
    for epochs in (5, 20):
        gain = epochs * rival_time.median / (encode + epochs * our_time.median)
        print(f"{epochs} epochs with the encoding: {gain:.1f}x")
    for name, passes, taken in (("ours", OURS_PASSES, our_time), ("whole encoder twice", RIVAL_PASSES, rival_time)):
        reached = n * passes * BLOCK_OPERATIONS / taken.median
        print(
            f"{name}: {reached / 1e9:.0f} GFLOP/s in the blocks, {reached / rate:.0%} of the {rate / 1e9:.0f} of one "
            "matrix product"
        )
    activations = TOKENS * WIDTH * 2
    print(
        f"disk: {bytes_each / 1e6:.2f} MB per picture ({TOKENS} x {WIDTH} x 2 bytes = {activations / 1e6:.2f} MB of "
        f"activations and {PROJECTION} x 2 of features); grows linearly: {43_040 * activations / 1e9:.1f} GB for 43,040"
    )


if __name__ == "__main__":
    main(*(int(value) for value in (*sys.argv[1:4], *("8", "8", "3")[len(sys.argv[1:4]) :])))

"""Discovered concepts: units of a sparse autoencoder over patch tokens, the control that nobody named."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geocbm.explain.probes import ProbeResult, probe_label
from geocbm.metrics import spatial_blocks
from geocbm.run import Run
from geocbm.training.loader import RowSource, seeded


class SparseAutoencoder(nn.Module):
    """Rebuilds tokens from the few units that are most active (Gao et al. 2024, "Scaling and evaluating SAEs").

    Args:
        width: of the tokens, w.
        units: k directions to be found.
        active: units that may be active on a patch.
    """

    def __init__(self, width: int, units: int, active: int = 8) -> None:
        super().__init__()
        self.active = min(active, units)
        self.centre = nn.Parameter(torch.zeros(width))
        self.encoder, self.decoder = nn.Linear(width, units), nn.Linear(units, width, bias=False)
        with torch.no_grad():  # each unit begins by reading the direction that it writes
            self.decoder.weight.copy_(functional.normalize(self.decoder.weight, dim=0))
            self.encoder.weight.copy_(self.decoder.weight.T)

    def encode(self, tokens: Tensor) -> Tensor:
        """Activations `(..., k)` of tokens `(..., w)`: the highest `active`, all others 0."""
        values = self.encoder(functional.layer_norm(tokens, tokens.shape[-1:]) - self.centre).relu()
        best = values.topk(self.active, dim=-1)
        return torch.zeros_like(values).scatter(-1, best.indices, best.values)

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalised tokens as the active units rebuild them, `(..., w)`."""
        return self.decoder(self.encode(tokens)) + self.centre


def discover(
    features: RowSource, train: np.ndarray, units: int, steps: int = 600, seed: int = 0, build: Any = SparseAutoencoder
) -> tuple[Any, float]:
    """Train an autoencoder, `build(w, units)`, on the patch tokens of training rows; the share of spread it leaves."""
    draws = np.random.default_rng(seed)
    with seeded(seed), torch.enable_grad():
        width = features.read("tokens", train[:1]).shape[-1]
        model = build(width, units)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = np.sort(draws.choice(train, min(16, len(train)), replace=False))
            tokens = functional.layer_norm(features.read("tokens", rows).flatten(0, 1), (width,))  # (16 P, w)
            loss = (model(tokens) - tokens).square().mean() / tokens.var(0).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), float(loss.detach())


def unit_scores(model: Any, features: RowSource, n: int) -> np.ndarray:
    """How active each unit is at most on any patch of a picture, `(n, k)`."""
    with torch.no_grad():
        rows_at_a_time = torch.arange(n).split(64)
        parts = [model.encode(features.read("tokens", rows.numpy())).amax(1) for rows in rows_at_a_time]
    return torch.cat(parts).numpy()


def probe_discovered(
    run: Run, features: RowSource, units: int, steps: int = 600, seed: int = 0, build: Any = SparseAutoencoder
) -> tuple[ProbeResult, np.ndarray, float]:
    """What the probe of `probes.probe_country` reads of the country from discovered units instead of concepts.

    Gives also the units' scores `(n, k)` and the share of the tokens' spread that they do not rebuild.
    """
    model, left = discover(features, run.pictures["train"], units, steps, seed, build)
    scores, blocks = unit_scores(model, features, len(run.table)), spatial_blocks(run.lat, run.lng)
    train, val, test = (run.pictures[split] for split in ("train", "val", "test"))
    return probe_label(scores.astype(np.float64), run.country, train, val, test, blocks), scores, left

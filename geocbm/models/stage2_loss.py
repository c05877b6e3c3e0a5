"""Loss of Stage 2: the cell, the offset inside it and, where it has a weight, the country."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geocbm.geodesy import cartesian_to_latlng
from geocbm.models import losses
from geocbm.models.offsets import offset_targets
from geocbm.models.stage2 import Stage2Output
from geocbm.models.stage2_config import Stage2Config


class Cells(Protocol):
    """What the loss needs to know of geocells."""

    @property
    def centers(self) -> np.ndarray:
        """Unit vectors `(N, 3)`."""

    @property
    def country(self) -> np.ndarray:
        """Country of each cell `(N,)`; read only where `lambda_country` is above 0."""

    @property
    def scale_km(self) -> np.ndarray:
        """Scale of each cell `(N,)`, km; read only for the offset kind "tangent"."""


class Stage2Loss:
    """Cell cross-entropy, offset error and their weighted sum (specification, section "Stage 2", Loss Functions).

    The offset of the true cell is compared with the difference between its centre and the true place: mean squared
    error, or Huber for "tangent". Called with an output of the head and a batch with `cell_label` `(B,)`, the true
    cells, and `lat` and `lng` `(B,)` degrees, float64. It gives scalars: `loss`, and without their weights `cell`,
    `offset` and, where `lambda_country` is above 0, `country`.
    """

    def __init__(self, config: Stage2Config, cells: Cells) -> None:
        self.config = config
        # Subtracted in double precision: the difference of two unit vectors of one cell has few digits left in single.
        centers = functional.normalize(torch.as_tensor(np.asarray(cells.centers), dtype=torch.float64), dim=-1)
        self.centers = centers  # (N, 3)
        single = functional.normalize(torch.as_tensor(np.asarray(cells.centers), dtype=torch.float32), dim=-1)
        self.center_places = torch.stack(cartesian_to_latlng(single))  # (2, N) degrees
        self.scale_km: Tensor | None = None
        if config.offset_kind == "tangent":
            self.scale_km = torch.as_tensor(np.asarray(cells.scale_km), dtype=torch.float64)  # (N,)
        self.country_of_cell: Tensor | None = None
        if config.lambda_country:
            self.country_of_cell = torch.from_numpy(np.unique(cells.country, return_inverse=True)[1].reshape(-1))

    def _target_offsets(self, cell: Tensor, lat: Tensor, lng: Tensor) -> Tensor:
        """Offsets `(B, 2 or 3)` of places from the centres of their cells `(B,)`; see `offset_targets`."""
        scale_km = None if self.scale_km is None else self.scale_km.to(lat)[cell]
        return offset_targets(self.centers.to(lat)[cell], lat, lng, self.config.offset_kind, scale_km).float()

    def __call__(self, output: Stage2Output, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the terms."""
        config, cell, lat, lng = self.config, batch["cell_label"], batch["lat"], batch["lng"]
        label = cell
        if config.smooth_km:
            places = self.center_places.to(output.cell_logits.device)
            # (B, N) share of each cell
            label = losses.smoothed_cell_labels(lat, lng, places[0], places[1], config.smooth_km)
        distance = functional.huber_loss if config.offset_kind == "tangent" else functional.mse_loss
        terms = {
            "cell": functional.cross_entropy(output.cell_logits, label),
            "offset": distance(output.offsets_at(cell).float(), self._target_offsets(cell, lat, lng)),
        }
        loss = config.lambda_cell * terms["cell"] + config.lambda_offset * terms["offset"]
        if self.country_of_cell is not None:
            terms["country"] = losses.group_cross_entropy(output.cell_logits.float(), cell, self.country_of_cell)
            loss = loss + config.lambda_country * terms["country"]
        return {"loss": loss, **terms}

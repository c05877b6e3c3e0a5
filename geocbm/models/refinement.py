"""Refinement inside the most probable cells by the nearest training pictures (Haas et al., 2024, "PIGEON")."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import atomic_path, lineage, run_command
from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
from geocbm.models.stage2 import Stage2Config

NOTEBOOK = "05"


class NeighbourRefiner:
    """Places of training pictures, looked up by the similarity of their features inside given cells.

    Each of the most probable cells proposes the mean place of its most similar training pictures. The proposal with the
    highest `log p(cell) + similarity / temperature` wins, so that a cell of second rank can win by a picture that is
    almost the same. A cell without training pictures proposes nothing.

    Args:
        features: `(n, d)` pooled features of the training pictures.
        lat: `(n,)` degrees.
        lng: `(n,)` degrees.
        cell: `(n,)` cell of each.

    Raises:
        ParameterError: when there are no training pictures, or lengths differ.
    """

    def __init__(
        self, features: Tensor, lat: np.ndarray | Tensor, lng: np.ndarray | Tensor, cell: np.ndarray | Tensor
    ) -> None:
        lengths = {len(values) for values in (features, lat, lng, cell)}
        if lengths == {0} or len(lengths) > 1:
            raise ParameterError(
                f"features, lat, lng and cell have {sorted(lengths)} rows; give one each for at least one picture"
            )
        self.features = functional.normalize(features.float(), dim=-1)  # (n, d)
        self.lat, self.lng = (torch.as_tensor(values, dtype=torch.float64) for values in (lat, lng))
        self.cell = torch.as_tensor(cell, dtype=torch.long)

    def refine(
        self, features: Tensor, cells: Tensor, probabilities: Tensor, config: Stage2Config
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Places of pictures from their nearest training pictures.

        Args:
            features: `(B, d)` pooled features.
            cells: `(B, k)` candidate cells.
            probabilities: `(B, k)` of the candidates.
            config: number of neighbours and temperature.

        Returns:
            `(B,)` latitudes and longitudes in degrees, float32, NaN where no candidate has a training picture, and
            `(B,)` the cell that won.
        """
        similarity = functional.normalize(features.float().cpu(), dim=-1) @ self.features.T  # (B, n)
        cells, probabilities = cells.cpu(), probabilities.float().cpu()
        own = cells[:, :, None] == self.cell  # (B, k, n)
        inside = similarity[:, None].masked_fill(~own, -torch.inf)
        nearest = inside.topk(min(config.refine_neighbours, len(self.cell)), dim=-1)  # (B, k, m)
        score = probabilities.clamp_min(1e-12).log() + nearest.values[..., 0] / config.refine_temperature  # (B, k)
        best = score.argmax(1)
        row = torch.arange(len(cells))
        # The winner's neighbours, each weighted by its similarity; a cell may have fewer than m pictures.
        weight = (nearest.values[row, best] / config.refine_temperature).softmax(-1)[..., None].double()  # (B, m, 1)
        members = nearest.indices[row, best]  # (B, m)
        place = latlng_to_cartesian(self.lat[members], self.lng[members])  # (B, m, 3)
        lat, lng = cartesian_to_latlng(torch.where(weight > 0, weight * place, 0.0).sum(1))
        nobody = ~torch.isfinite(score[row, best])
        lat, lng = (values.masked_fill(nobody, torch.nan).float() for values in (lat, lng))
        return lat, lng, cells[row, best]

    def save(self, path: str | Path, made_from: Mapping[str, str] | None = None) -> None:
        """Write features (in half precision) and places as safetensors.

        Args:
            path: the file.
            made_from: of `Run.made_from`, by which a run knows that they are its own.
        """
        metadata = None if made_from is None else {lineage.KEY: lineage.as_text(made_from)}
        tensors = {"features": self.features.half(), "lat": self.lat, "lng": self.lng, "cell": self.cell}
        with atomic_path(path) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, str(temporary), metadata)

    @classmethod
    def load(cls, path: str | Path) -> NeighbourRefiner:
        """Read what `save` wrote.

        Raises:
            MissingInputError: when it is not there.
            MismatchError: when it is another kind of file.
        """
        if not Path(path).is_file():
            raise MissingInputError(f"{path} is not there; make it with `{run_command(path, NOTEBOOK)}`")
        tensors = load_file(str(path))
        try:
            return cls(tensors["features"], tensors["lat"], tensors["lng"], tensors["cell"])
        except (KeyError, ParameterError) as error:
            made_by = run_command(path, NOTEBOOK)
            raise MismatchError(f"{path} holds no training pictures ({error}); make it with `{made_by}`") from error

"""Inference of Stage 2: load a checkpoint, answer places, refine them by training pictures, give logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.files import atomic_path, lineage, run_command
from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead, Stage2Output
from geocbm.training.checkpoints import load_checkpoint, read_config, restore
from geocbm.training.loader import RowSource, row_reader

if TYPE_CHECKING:
    from geocbm.models.decoder import Decoder, Points

NOTEBOOK = "05"

ROWS_AT_A_TIME = 64


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
        """Write features (in half precision) and places as safetensors, with the `Run.made_from` they rest on."""
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


def concept_input(config: Stage2Config, concepts: Mapping[str, Tensor]) -> Tensor:
    """What Stage 2 reads of the concepts (of `stage1.predict_stage1`) in its mode.

    Returns:
        `(n, c)` concept embeddings, or `(n, k_m + k_p)` probabilities of metas and then parents.
    """
    if config.reads_scores:
        return torch.cat([concepts["meta_probabilities"], concepts["parent_probabilities"]], dim=1)
    return concepts["concept_emb"]


def load_stage2(path: str | Path, cells_digest: str | None = None) -> Stage2CrossAttentionGeoHead:
    """Load a checkpoint of Stage 2 in evaluation mode.

    Args:
        path: `stage2.safetensors`.
        cells_digest: digest of the geocells in use, to be sure that they are the ones it was trained on.

    Raises:
        MissingInputError: when it is not there.
        MismatchError: when it was trained on other geocells, or is no whole checkpoint of Stage 2.
    """
    made_by = partial(run_command, path, NOTEBOOK)
    tensors, metadata = load_checkpoint(path, made_by, stage=2)
    if cells_digest is not None and cells_digest != metadata["cells_digest"]:
        raise MismatchError(
            f"{path} was trained on other geocells than the ones in use; train again with `{made_by()}`"
        )
    centers = tensors["cell_centers"]
    model = Stage2CrossAttentionGeoHead(
        metadata["concept_dim"],
        metadata["token_dim"],
        len(centers),
        centers,
        read_config(Stage2Config, metadata, path, made_by),
        tensors.get("cell_scale_km"),
    )
    restore(model, tensors, path)
    return model


def own_points(
    model: Stage2CrossAttentionGeoHead,
    output: Stage2Output,
    refiner: NeighbourRefiner | None = None,
    pooled: Tensor | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Places of a batch that do not look at the whole distribution, `(B,)` latitudes and longitudes in degrees each.

    Args:
        model: the head.
        output: of the head.
        refiner: training pictures; used where `config.refines`.
        pooled: `(B, d)` pooled features of the batch, for the refiner.

    Returns:
        `offset`, the likeliest cell's centre and offset, and where the head refines `neighbours`, the refiner's place
        or, where it has none, the same.

    Raises:
        ParameterError: when there is a refiner to use but no pooled features.
    """
    lat, lng = model.decode(output)
    points = {"offset": (lat, lng)}
    if refiner is None or not model.config.refines:
        return points
    if pooled is None:
        raise ParameterError("pooled is None, but the refiner looks pictures up by their pooled features; give them")
    best = output.cell_logits.softmax(-1).topk(min(model.config.refine_cells, output.cell_logits.shape[1]), dim=-1)
    near_lat, near_lng, _ = refiner.refine(pooled, best.indices, best.values, model.config)
    near_lat, near_lng = near_lat.to(lat), near_lng.to(lng)
    points["neighbours"] = (
        torch.where(near_lat.isnan(), lat, near_lat),
        torch.where(near_lng.isnan(), lng, near_lng),
    )
    return points


def locate(
    model: Stage2CrossAttentionGeoHead,
    output: Stage2Output,
    refiner: NeighbourRefiner | None = None,
    pooled: Tensor | None = None,
    decoder: Decoder | None = None,
) -> tuple[Tensor, Tensor]:
    """Coordinates `(B,)` of a batch, degrees: the decoder's point, else the refiner's, else cell and offset.

    Raises:
        ParameterError: when there is a refiner to use but no pooled features.
    """
    points = own_points(model, output, refiner, pooled)
    if decoder is None:
        return points.get("neighbours", points["offset"])
    lat, lng = decoder.answer(_numpy(output.cell_logits), _own(points))
    return torch.from_numpy(np.ascontiguousarray(lat)), torch.from_numpy(np.ascontiguousarray(lng))


def _numpy(values: Tensor) -> np.ndarray:
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


def _own(points: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Points]:
    return {name: (_numpy(lat), _numpy(lng)) for name, (lat, lng) in points.items()}


def _outputs(
    model: Stage2CrossAttentionGeoHead,
    concept_emb: Tensor,
    tokens: Tensor | RowSource,
    rows: np.ndarray,
    batch_size: int,
) -> Iterator[tuple[np.ndarray, Stage2Output]]:
    """Rows and what the head says of them, a batch at a time; of no rows once, so that shapes stay the same."""
    read = row_reader(tokens, "tokens", half=True)
    device = model.cell_head.weight.device
    model.eval()
    with torch.no_grad():
        for start in range(0, max(len(rows), 1), batch_size):
            chosen = rows[start : start + batch_size]
            yield chosen, model(concept_emb[chosen].float().to(device), read(chosen).to(device))


def predict_stage2(
    model: Stage2CrossAttentionGeoHead,
    concept_emb: Tensor,
    tokens: Tensor | RowSource,
    rows: np.ndarray,
    top_k: int = 5,
    refiner: NeighbourRefiner | None = None,
    pooled: Tensor | RowSource | None = None,
    decoder: Decoder | None = None,
) -> dict[str, np.ndarray]:
    """Places of many images.

    Args:
        model: the trained head.
        concept_emb: `(n, c)` of all rows of the table.
        tokens: a store with kind `tokens`, or `(n, P, w)`.
        rows: row positions to predict.
        top_k: cells to keep per image (at most all of them).
        refiner: training pictures that move the answer inside the `config.refine_cells` most probable cells.
        pooled: a store with kind `pooled`, or `(n, d)`, for the refiner.
        decoder: which point to answer; None for the argmax.

    Returns:
        In the order of `rows`: `lat` and `lng` `(m,)` degrees, `cell` `(m, k)` the most probable cells and
        `cell_probability` `(m, k)` with the first the highest, `attention` `(m, P)` averaged over the heads, in mode
        `hybrid` `residual_share` `(m,)`, and `lat_<point>`, `lng_<point>` `(m,)` of every point that might be answered
        (`decoder.POINT_WORDS`; without a decoder those of `own_points`).
    """
    read_pooled = None if refiner is None or pooled is None else row_reader(pooled, "pooled")
    rows = np.asarray(rows, dtype=np.int64)
    top_k = min(top_k, model.cell_head.out_features)
    parts: dict[str, list[np.ndarray]] = {}
    for chosen, output in _outputs(model, concept_emb, tokens, rows, ROWS_AT_A_TIME):
        own = own_points(model, output, refiner, read_pooled(chosen) if read_pooled else None)
        points = _own(own)
        if decoder is not None:
            points = decoder.points(_numpy(output.cell_logits), points)
            answer = points[decoder.choice.point]
        else:
            answer = points.get("neighbours", points["offset"])
        probability, cell = output.cell_logits.softmax(-1).topk(top_k, dim=-1)
        values = {"cell": cell, "cell_probability": probability, "attention": output.attention.mean(1)}
        if output.residual_logits is not None:
            values["residual_share"] = output.residual_share
        found = {"lat": answer[0], "lng": answer[1]} | {name: _numpy(value) for name, value in values.items()}
        for name, (lat, lng) in points.items():
            found |= {f"lat_{name}": lat, f"lng_{name}": lng}
        for name, each in found.items():
            parts.setdefault(name, []).append(each)
    return {name: np.concatenate(values) for name, values in parts.items()}


def undecoded(
    model: Stage2CrossAttentionGeoHead,
    concept_emb: Tensor,
    source: RowSource,
    rows: np.ndarray,
    refiner: NeighbourRefiner | None = None,
    batch_size: int = 64,
) -> tuple[np.ndarray, dict[str, Points]]:
    """What a decoder is fitted to, arguments as in `predict_stage2`; the source has the kinds `tokens` and `pooled`.

    Returns:
        `(m, N)` float32 logits of all cells, in the order of `rows`, and the points of `own_points`.
    """
    read_pooled = None if refiner is None else row_reader(source, "pooled")
    rows = np.asarray(rows, dtype=np.int64)
    logits, parts = [], []
    for chosen, output in _outputs(model, concept_emb, source, rows, batch_size):
        logits.append(_numpy(output.cell_logits))
        parts.append(_own(own_points(model, output, refiner, read_pooled(chosen) if read_pooled else None)))
    own = {
        name: (np.concatenate([part[name][0] for part in parts]), np.concatenate([part[name][1] for part in parts]))
        for name in parts[0]
    }
    return np.concatenate(logits), own


def cell_logits(
    model: Stage2CrossAttentionGeoHead,
    concept_emb: Tensor,
    tokens: Tensor | RowSource,
    rows: np.ndarray,
    batch_size: int = 64,
) -> np.ndarray:
    """Logits `(m, N)` of all cells for many images, float32; arguments as in `predict_stage2`."""
    rows = np.asarray(rows, dtype=np.int64)
    found = np.empty((len(rows), model.cell_head.out_features), dtype=np.float32)
    done = 0
    for chosen, output in _outputs(model, concept_emb, tokens, rows, batch_size):
        found[done : done + len(chosen)] = _numpy(output.cell_logits)
        done += len(chosen)
    return found

"""Inference of Stage 2: answer places, refine them by training pictures, give logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from geocbm.encoders.features import FeatureStore
from geocbm.errors import ParameterError
from geocbm.files import lineage, run_command
from geocbm.files.progress import track
from geocbm.files.stored import opened, save_tensors
from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
from geocbm.models.kept_tokens import KEPT, on_grid
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead, Stage2Output
from geocbm.training.loader import RowSource, row_reader

if TYPE_CHECKING:
    from geocbm.models.decoder import Decoder, Points

ROWS_AT_A_TIME = 64
TOP_K = 5
"""Cells that predictions keep of each image."""


class NeighbourRefiner:
    """Places of training pictures, looked up by the similarity of their features inside given cells.

    Each of the most probable cells proposes the mean place of its most similar training pictures. The proposal with the
    highest `log p(cell) + similarity / temperature` wins, so that a cell of second rank can win by a picture that is
    almost the same. A cell without training pictures proposes nothing.

    Args:
        features: `(n, d)` pooled features of the training pictures, at least one.
        lat: `(n,)` degrees.
        lng: `(n,)` degrees.
        cell: `(n,)` cell of each.
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

        Of pooled features `(B, d)`, and candidate cells `(B, k)` with their probabilities: `(B,)` latitudes and
        longitudes in degrees, float32, NaN where no candidate has a training picture, and `(B,)` the cell that won.
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
        metadata = {} if made_from is None else {lineage.KEY: lineage.as_text(made_from)}
        tensors = {"features": self.features.half(), "lat": self.lat, "lng": self.lng, "cell": self.cell}
        save_tensors(path, {name: value.cpu().numpy() for name, value in tensors.items()}, metadata)

    @classmethod
    def load(cls, path: str | Path) -> NeighbourRefiner:
        """Read what `save` wrote; a MissingInputError where there is none, a MismatchError for another kind of file."""
        with opened(path, partial(run_command, Path(path).parent, "05")) as (tensors, _):
            held = (torch.from_numpy(tensors[name]) for name in ("features", "lat", "lng", "cell"))
            return cls(*held)


def concept_input(config: Stage2Config, concepts: Mapping[str, Tensor]) -> Tensor:
    """What Stage 2 reads of the concepts (of `stage1.predict_stage1`) in its mode.

    `(n, c)` concept embeddings, or `(n, k_m + k_p)` probabilities of metas and then parents.
    """
    if config.reads_scores:
        return torch.cat([concepts["meta_probabilities"], concepts["parent_probabilities"]], dim=1)
    return concepts["concept_emb"]


def _numpy(values: Tensor) -> np.ndarray:
    return (values.float() if values.is_floating_point() else values).detach().cpu().numpy()


def own_points(
    model: Stage2CrossAttentionGeoHead, output: Stage2Output, refiner: NeighbourRefiner | None, pooled: Tensor | None
) -> dict[str, Points]:
    """Places of a batch that do not look at the whole distribution, `(B,)` latitudes and longitudes in degrees each.

    `offset`, the likeliest cell's centre and offset; and where `config.refines`, with a refiner, `neighbours`, the
    refiner's place by the pooled features `(B, d)`, which must be given then, or, where it has none, the same.
    """
    lat, lng = map(_numpy, model.decode(output))
    if refiner is None or not model.config.refines:
        return {"offset": (lat, lng)}
    if pooled is None:
        raise ParameterError("pooled is None, but the refiner looks pictures up by their pooled features; give them")
    best = output.cell_logits.softmax(-1).topk(min(model.config.refine_cells, output.cell_logits.shape[1]), dim=-1)
    near_lat, near_lng, _ = map(_numpy, refiner.refine(pooled, best.indices, best.values, model.config))
    nowhere = np.isnan(near_lat)
    neighbours = np.where(nowhere, lat, near_lat), np.where(nowhere, lng, near_lng)
    return {"offset": (lat, lng), "neighbours": neighbours}


def locate(
    model: Stage2CrossAttentionGeoHead,
    output: Stage2Output,
    refiner: NeighbourRefiner | None = None,
    pooled: Tensor | None = None,
    decoder: Decoder | None = None,
) -> Points:
    """Coordinates `(B,)` of a batch, degrees: the decoder's point, else the refiner's, else cell and offset."""
    points = own_points(model, output, refiner, pooled)
    if decoder is None:
        return points.get("neighbours", points["offset"])
    return decoder.answer(_numpy(output.cell_logits), points)


def _outputs(
    model: Stage2CrossAttentionGeoHead, concept_emb: Tensor, tokens: Tensor | RowSource, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, Stage2Output]]:
    """Rows and what the head says of them, a batch at a time; of no rows once, so that shapes stay the same."""
    read = row_reader(tokens, "tokens", half=True)
    device = model.cell_head.weight.device
    model.eval()
    with torch.no_grad():
        for start in track(range(0, max(len(rows), 1), ROWS_AT_A_TIME), "places", unit="batch"):
            chosen = rows[start : start + ROWS_AT_A_TIME]
            given = read(chosen).to(device) if model.config.reads_tokens else None
            output = model(concept_emb[chosen].float().to(device), given)
            if given is not None and isinstance(tokens, FeatureStore) and KEPT in tokens.kinds:
                output = output._replace(attention=on_grid(output.attention, tokens.read(KEPT, chosen)))
            yield chosen, output


def predict_stage2(
    model: Stage2CrossAttentionGeoHead,
    concept_emb: Tensor,
    tokens: Tensor | RowSource,
    rows: np.ndarray,
    refiner: NeighbourRefiner | None = None,
    pooled: Tensor | RowSource | None = None,
    decoder: Decoder | None = None,
) -> dict[str, np.ndarray]:
    """Places of many images.

    Args:
        model: the trained head.
        concept_emb: `(n, c)` of all rows of the table.
        tokens: a store with kind `tokens`, or `(n, P, w)`; not read in modes that ask no patch.
        rows: row positions to predict, `(m,)`.
        refiner: training pictures that move the answer inside the `config.refine_cells` most probable cells.
        pooled: a store with kind `pooled`, or `(n, d)`, for the refiner.
        decoder: which point to answer; None for the argmax.

    Returns:
        In the order of `rows`: `lat` and `lng` `(m,)` degrees, `cell` `(m, k)` the most probable `TOP_K` cells (or all)
        and `cell_probability` `(m, k)` with the first the highest, `attention` `(m, P)` averaged over the heads (P = 0
        in modes that ask no patch), in mode `hybrid` `residual_share` `(m,)`, and `lat_<point>`, `lng_<point>` `(m,)`
        of every point that might be answered (`decoder.POINT_WORDS`; without a decoder those of `own_points`).
    """
    read_pooled = None if refiner is None or pooled is None else row_reader(pooled, "pooled")
    top_k = min(TOP_K, model.cell_head.out_features)
    parts: dict[str, list[np.ndarray]] = {}
    for chosen, output in _outputs(model, concept_emb, tokens, np.asarray(rows, dtype=np.int64)):
        points = own_points(model, output, refiner, read_pooled(chosen) if read_pooled else None)
        answer = points.get("neighbours", points["offset"])
        if decoder is not None:
            points = decoder.points(_numpy(output.cell_logits), points)
            answer = points[decoder.choice.point]
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
) -> tuple[np.ndarray, dict[str, Points]]:
    """What a decoder is fitted to, in the order of `rows`: logits `(m, N)` of all cells, and `own_points`.

    Arguments as in `predict_stage2`; the source has the kinds `tokens` and `pooled`.
    """
    read_pooled = None if refiner is None else row_reader(source, "pooled")
    logits, parts = [], []
    for chosen, output in _outputs(model, concept_emb, source, np.asarray(rows, dtype=np.int64)):
        logits.append(_numpy(output.cell_logits))
        parts.append(own_points(model, output, refiner, read_pooled(chosen) if read_pooled else None))
    own: dict[str, Points] = {}
    for name in parts[0]:
        lat, lng = zip(*(part[name] for part in parts), strict=True)
        own[name] = np.concatenate(lat), np.concatenate(lng)
    return np.concatenate(logits), own

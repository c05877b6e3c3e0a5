"""Loading and applying Stage 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geocbm.errors import MismatchError, ParameterError
from geocbm.files import run_command
from geocbm.stage2.config import Stage2Config
from geocbm.stage2.model import Stage2CrossAttentionGeoHead, Stage2Output
from geocbm.stage2.refinement import NeighbourRefiner
from geocbm.training import RowSource, load_checkpoint, read_config, restore, row_reader

NOTEBOOK = "05"


def residual_share(output: Stage2Output) -> Tensor:
    """How much of the logits of mode `hybrid` comes from the patches, `(B,)` from 0 (nothing) to 1 (everything).

    The spread over the cells of the residual, divided by the sum of its spread and that of the concepts' part: a
    constant that is added to all logits moves no probability and counts for nothing.
    """
    assert output.residual_logits is not None
    residual = output.residual_logits.float()
    # Of a single cell there is no spread: with the count as the divisor it is 0, not unknown.
    mine, theirs = (part.std(-1, correction=0) for part in (residual, output.cell_logits.float() - residual))
    return mine / (mine + theirs).clamp_min(1e-12)


def concept_input(config: Stage2Config, concepts: Mapping[str, Tensor]) -> Tensor:
    """What Stage 2 reads of the concepts in its mode.

    Args:
        config: settings of Stage 2.
        concepts: of `stage1.predict_stage1`: `concept_emb`, `meta_probabilities`, `parent_probabilities`.

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
    made_by = run_command(path, NOTEBOOK)
    tensors, metadata = load_checkpoint(path, made_by, stage=2)
    if cells_digest is not None and cells_digest != metadata["cells_digest"]:
        raise MismatchError(f"{path} was trained on other geocells than the ones in use; train again with `{made_by}`")
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


def locate(
    model: Stage2CrossAttentionGeoHead,
    output: Stage2Output,
    refiner: NeighbourRefiner | None = None,
    pooled: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Coordinates of a batch: cell centre and offset, or the refiner's answer where it has one.

    Args:
        model: the head.
        output: of the head.
        refiner: training pictures; used where `config.refines`.
        pooled: `(B, d)` pooled features of the batch, for the refiner.

    Returns:
        `(B,)` latitudes and `(B,)` longitudes, degrees.

    Raises:
        ParameterError: when there is a refiner to use but no pooled features.
    """
    lat, lng = model.decode(output)
    if refiner is None or not model.config.refines:
        return lat, lng
    if pooled is None:
        raise ParameterError("pooled is None; the refiner compares pooled features: give (B, d)")
    best = output.cell_logits.softmax(-1).topk(min(model.config.refine_cells, model.n_cells), dim=-1)
    near_lat, near_lng, _ = refiner.refine(pooled, best.indices, best.values, model.config)
    near_lat, near_lng = near_lat.to(lat), near_lng.to(lng)
    return torch.where(near_lat.isnan(), lat, near_lat), torch.where(near_lng.isnan(), lng, near_lng)


def predict_stage2(
    model: Stage2CrossAttentionGeoHead,
    concept_emb: Tensor,
    tokens: Tensor | RowSource,
    rows: np.ndarray,
    top_k: int = 5,
    batch_size: int = 64,
    refiner: NeighbourRefiner | None = None,
    pooled: Tensor | RowSource | None = None,
) -> dict[str, np.ndarray]:
    """Places of many images.

    Args:
        model: the trained head.
        concept_emb: `(n, c)` of all rows of the table.
        tokens: a store with kind `tokens`, or `(n, P, w)`.
        rows: row positions to predict.
        top_k: cells to keep per image (at most all of them).
        batch_size: rows at a time.
        refiner: training pictures that move the answer inside the `config.refine_cells` most probable cells; None
            leaves cell centre and offset.
        pooled: a store with kind `pooled`, or `(n, d)`, for the refiner.

    Returns:
        In the order of `rows`: `lat` and `lng` `(m,)` degrees, `cell` `(m, k)` the most probable cells and
        `cell_probability` `(m, k)` with the first the highest, `attention` `(m, P)` averaged over the heads, and in
        mode `hybrid` `residual_share` `(m,)`.
    """
    read = row_reader(tokens, "tokens", half=True)
    read_pooled = None if refiner is None or pooled is None else row_reader(pooled, "pooled")
    rows = np.asarray(rows, dtype=np.int64)
    device = model.cell_head.weight.device
    top_k = min(top_k, model.cell_head.out_features)
    parts: dict[str, list[np.ndarray]] = {}
    model.eval()
    with torch.no_grad():
        for start in range(0, max(len(rows), 1), batch_size):  # no rows give empty arrays of the usual shape
            chosen = rows[start : start + batch_size]
            output = model(concept_emb[chosen].float().to(device), read(chosen).to(device))
            lat, lng = locate(model, output, refiner, read_pooled(chosen) if read_pooled else None)
            probability, cell = output.cell_logits.softmax(-1).topk(top_k, dim=-1)
            values = {"lat": lat, "lng": lng, "cell": cell, "cell_probability": probability}
            if output.residual_logits is not None:
                values["residual_share"] = residual_share(output)
            for name, value in (values | {"attention": output.attention.mean(1)}).items():
                value = value.float() if value.is_floating_point() else value
                parts.setdefault(name, []).append(value.cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def cell_logits(
    model: Stage2CrossAttentionGeoHead,
    concept_emb: Tensor,
    tokens: Tensor | RowSource,
    rows: np.ndarray,
    batch_size: int = 64,
) -> np.ndarray:
    """Logits of all cells for many images, for pages that ask how sure the model is.

    Args:
        model: the trained head.
        concept_emb: `(n, c)` of all rows of the table, as for `predict_stage2`.
        tokens: a store with kind `tokens`, or `(n, P, w)`.
        rows: row positions to predict.
        batch_size: rows at a time.

    Returns:
        `(m, N)` float32, in the order of `rows`.
    """
    read = row_reader(tokens, "tokens", half=True)
    rows = np.asarray(rows, dtype=np.int64)
    device = model.cell_head.weight.device
    found = np.empty((len(rows), model.cell_head.out_features), dtype=np.float32)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            output = model(concept_emb[chosen].float().to(device), read(chosen).to(device))
            found[start : start + batch_size] = output.cell_logits.float().cpu().numpy()
    return found

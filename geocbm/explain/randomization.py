"""Model-parameter randomization: does a map change when the weights it should come from are random?

Cascading randomization (Adebayo et al. 2018, "Sanity checks for saliency maps"): layers are drawn anew from the top of
the network down, Stage 2, then Stage 1, then the blocks of the encoder, and after each step the maps of the same
pictures are compared with those of the trained model. A map that stays as it was shows the picture, not what the model
has learnt. Weights are drawn from a normal distribution with mean and spread of the tensor that they replace, so that
activations keep their size.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from geocbm.encoders import ImageEncoder
from geocbm.explain.maps import BATCH_SIZE, MapModel, concept_maps
from geocbm.explain.stability import ATTENTION, MAPS, rank_correlation
from geocbm.metrics import Estimate, Resamples, columns_of, entries_of, recordables, spatial_blocks
from geocbm.models.stage1 import Stage1ConceptModel, predict_stage1
from geocbm.models.stage2 import Stage2CrossAttentionGeoHead
from geocbm.models.stage2_inference import concept_input, predict_stage2

PICTURES = 32
"""Most pictures that are looked at, evenly spaced: each is encoded anew at every step that changes the encoder."""
DRAWS = 2
"""Times that all weights are drawn; the similarity is the mean over them."""
ALL = "encoder, all blocks"


@dataclass
class _Encoded:
    """Features of some rows, held in memory."""

    rows: np.ndarray  # [m] of the table, rising
    pooled: Tensor  # (m, d)
    tokens: Tensor  # (m, P, w)

    def read(self, kind: str, rows: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        """Features of some of the rows, as a feature store gives them."""
        held: Tensor = getattr(self, kind)
        return held[torch.from_numpy(np.searchsorted(self.rows, rows))].to(dtype)


def draw_anew(parameters: Iterable[nn.Parameter], generator: torch.Generator) -> None:
    """Replace weights in place by normal numbers with mean and spread of each tensor; a single number stays."""
    with torch.no_grad():
        for own in parameters:
            if own.numel() > 1:
                noise = torch.randn(own.shape, generator=generator).to(own)
                own.copy_(own.mean() + own.std(correction=0) * noise)


def cascade(
    encoder: ImageEncoder, stage1: Stage1ConceptModel, head: Stage2CrossAttentionGeoHead, seed: int
) -> Iterator[str]:
    """Draw the layers of three modules anew, in place, from the top down; yields what was drawn last after each step.

    The encoder is drawn in three steps: its last block with all that follows, its upper half, and all of it.
    """
    generator = torch.Generator().manual_seed(seed)
    draw_anew(head.parameters(), generator)
    yield "Stage 2"
    draw_anew((own for name, own in stage1.named_parameters() if not name.startswith("bottleneck.")), generator)
    yield "Stage 1, prototypes"
    draw_anew(stage1.bottleneck.parameters(), generator)
    yield "Stage 1, bottleneck"
    done: set[str] = set()
    steps = {1: "encoder, last block", encoder.n_blocks // 2: "encoder, upper half"} if encoder.n_blocks > 3 else {}
    for blocks, name in steps.items():
        upper = encoder.upper_parameters(blocks)
        draw_anew((own for key, own in upper.items() if key not in done), generator)
        done |= set(upper)
        yield name
    draw_anew((own for key, own in encoder.named_parameters() if key not in done), generator)
    yield ALL


def measure_randomization(
    model: MapModel,
    head: Stage2CrossAttentionGeoHead,
    rows: np.ndarray,
    kind: str | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Rank correlation over the patches between the maps of the trained model and those with weights drawn anew.

    Of at most `PICTURES` of the `rows`, at least one: the map (`concept_maps` of a `kind`) of the concept that the
    trained model names, and the attention of `head`. Correlations count without their sign: a map turned upside down
    has not changed. Intervals are by blocks of 100 km.

    Returns:
        A row per step of `cascade` and map: `explanation`, `step`, `similarity` with `_low` and `_high`, and `chance`,
        what unrelated maps of so many patches have; none for attention that is the same everywhere. `attrs["n"]` is
        the number of pictures.
    """
    rows = np.unique(rows[np.linspace(0, len(rows) - 1, min(PICTURES, len(rows))).astype(int)])
    pixels = [model.pixels(rows[start : start + BATCH_SIZE]) for start in range(0, len(rows), BATCH_SIZE)]
    encoded = _encode(model.encoder, rows, pixels)
    named = predict_stage1(model.stage1, encoded.pooled, encoded.tokens)["meta_probabilities"].argmax(1).numpy()
    trained = _maps(model, head, encoded, named, kind)
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for draw in range(DRAWS):
        encoder, stage1, own_head = deepcopy(model.encoder), deepcopy(model.stage1), deepcopy(head)
        own = encoded
        for step in cascade(encoder, stage1, own_head, seed + draw):
            if step.startswith("encoder"):
                own = _encode(encoder, rows, pixels)
            drawn = _maps(replace(model, encoder=encoder, stage1=stage1), own_head, own, named, kind)
            for name, maps in trained.items():
                # A map that has become even has no order, and so nothing left of what it was.
                same = np.nan_to_num(np.abs(rank_correlation(maps, drawn[name])))
                found.setdefault((name, step), []).append(np.where(np.ptp(maps, axis=1) > 0, same, np.nan))
    resamples = Resamples(spatial_blocks(model.run.lat[rows], model.run.lng[rows]), n_resamples, seed)
    # Spearman's coefficient of unrelated ranks has the variance 1 / (P - 1), and |x| of a normal the mean below.
    chance = float(np.sqrt(2 / np.pi / max(model.n_patches - 1, 1)))
    table = [
        {"explanation": name, "step": step}
        | columns_of("similarity", resamples.estimate(np.mean(draws, axis=0)))
        | {"chance": chance}
        for (name, step), draws in sorted(found.items(), key=lambda one: list(trained).index(one[0][0]))
    ]
    frame = pd.DataFrame(table)
    frame.attrs["n"] = len(rows)
    return frame


def _encode(encoder: ImageEncoder, rows: np.ndarray, pixels: list[Tensor]) -> _Encoded:
    with torch.no_grad():
        seen = [encoder(part.to(encoder.device)) for part in pixels]
    return _Encoded(rows, torch.cat([one.pooled for one in seen]).cpu(), torch.cat([one.tokens for one in seen]).cpu())


def _maps(
    model: MapModel, head: Stage2CrossAttentionGeoHead, encoded: _Encoded, named: np.ndarray, kind: str | None
) -> dict[str, np.ndarray]:
    """Maps `[m, P]` of the named concepts, and attention where the mode has any."""
    maps = {MAPS: concept_maps(replace(model, features=encoded), encoded.rows, named, kind)}  # type: ignore[arg-type]
    if head.config.ablation_mode in ("both", "hybrid"):
        said = predict_stage1(model.stage1, encoded.pooled, encoded.tokens)
        everything = np.arange(len(named))
        given = concept_input(head.config, said)
        maps[ATTENTION] = predict_stage2(head, given, encoded.tokens, everything)["attention"]
    return maps


def randomized(measured: pd.DataFrame | None) -> dict[str, Estimate]:
    """Similarity of each map when all weights are drawn anew, by explanation; nothing where it was not measured."""
    last = None if measured is None or measured.empty else measured[measured["step"] == ALL]
    return entries_of(last, "explanation", "similarity")


def randomization_metrics(measured: pd.DataFrame | None) -> dict[str, float | Estimate]:
    """Metrics to keep: `randomized_map` and `randomized_attention`, with all weights drawn anew."""
    keys = {MAPS: "randomized_map", ATTENTION: "randomized_attention"}
    return recordables({keys[name]: own for name, own in randomized(measured).items()})

"""Faithfulness: do the patches that a map names matter? Patches go, or alone are left, and the true cell is watched.

The idea is that of the deletion and insertion curves of RISE (Petsiuk et al. 2018). Patches go in the order of a map,
the highest first; the controls are patches at random and patches from the middle outwards, equally many of them.

There are two ways of taking a patch away. "tokens": its token is left out of everything that Stages 1 and 2 read; the
encoder has mixed the patches before, so that others may still tell of it, and pooled features stay as they are.
"pixels": the patch is blurred in the picture, and everything is computed anew. That is the honest one, but it costs an
encoding each time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from geocbm.errors import ParameterError
from geocbm.explain.maps import BATCH_SIZE, MapModel
from geocbm.files.progress import track
from geocbm.metrics import Estimate, Resamples, columns_of, recordables, spatial_blocks
from geocbm.models.stage2_inference import concept_input

TOKENS, PIXELS = "tokens", "pixels"
DELETION, INSERTION = "deletion", "insertion"
CURVES = {TOKENS: (DELETION, INSERTION), PIXELS: (DELETION,)}
RANDOM = "random patches"
CONCEPTS, ATTENTION, MIDDLE = "maps of the named concepts", "attention", "from the middle outwards"
LINEAR, MAIN = "linear CBM", "main mode"
SHARES = {TOKENS: (1 / 36, 1 / 18, 1 / 9, 2 / 9, 4 / 9), PIXELS: (1 / 18, 1 / 9, 2 / 9)}
"""Parts of the patches that are taken away or left; doubled from step to step, because the first ones matter most."""

BLUR = 12
"""A blurred picture is the picture reduced to that many pixels a side, and enlarged again."""

PatchAnswer = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]
"""From positions `(b,)` among some pictures and the patches that are kept `(b, q)` to the probability of the true cell
`(b,)` by head."""


@dataclass(frozen=True)
class DeletionInsertion:
    """What the true cell's probability does when patches go.

    `probability` is `[n, counts]` by curve (`DELETION`, `INSERTION`) and order (maps by name, and `RANDOM`).
    """

    n_patches: int  # of a picture
    counts: tuple[int, ...]  # how many patches were taken away or left
    whole: np.ndarray  # [n] probability of the true cell with all patches
    probability: dict[str, dict[str, np.ndarray]]
    resamples: Resamples  # of the pictures

    def gain(self, order: str, against: str = RANDOM, curve: str = DELETION) -> Estimate:
        """How much more the true cell loses by one order than by another (for insertion: gains), with its interval.

        The area between two curves: the mean over the counts of the difference of the probabilities, averaged over
        pictures, paired.
        """
        by_order = self.probability[curve]
        one, other = by_order[order].mean(axis=1), by_order[against].mean(axis=1)
        return self.resamples.estimate(other - one if curve == DELETION else one - other)

    def curves(self) -> pd.DataFrame:
        """A row for each curve, order and count: `curve, order, count, share, value, low, high`."""
        return pd.DataFrame(
            {"curve": curve, "order": order, "count": count, "share": count / self.n_patches}
            | self.resamples.estimate(own)
            for curve, by_order in self.probability.items()
            for order, values in by_order.items()
            for count, own in zip(self.counts, values.T, strict=True)
        )


def patch_counts(n_patches: int, way: str) -> tuple[int, ...]:
    """The numbers of patches to take away: the `SHARES` of all, at least 1 and never all of them, each once."""
    return tuple(sorted({min(max(1, round(share * n_patches)), n_patches - 1) for share in SHARES[way]}))


def token_answer(model: MapModel, rows: np.ndarray) -> PatchAnswer:
    """The true cell's probability from the tokens of some patches only.

    Scores of concepts are pooled over the patches that are left, and attention sees no others. The bottleneck "mlp"
    reads pooled features, which no token can be taken out of: with it only the attention loses the patch.
    """
    pooled, tokens = model.features.read("pooled", rows), model.features.read("tokens", rows)

    def probability(positions: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        index = torch.as_tensor(kept)[..., None].expand(-1, -1, tokens.shape[2])  # (b, q, w)
        return _true_cell(model, rows[positions], pooled[positions], tokens[positions].gather(1, index))

    return probability


def pixel_answer(model: MapModel, rows: np.ndarray) -> PatchAnswer:
    """The true cell's probability from pictures in which the other patches are blurred."""
    pixels, encoder = model.pixels(rows), model.encoder  # (n, 3, H, W)
    size = pixels.shape[-2:]
    blurred = functional.adaptive_avg_pool2d(pixels, min(BLUR, *size))
    blurred = functional.interpolate(blurred, size=size, mode="bilinear", align_corners=False)

    def probability(positions: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        mask = torch.zeros(len(positions), model.n_patches)
        mask.scatter_(1, torch.as_tensor(kept), 1.0)
        mask = functional.interpolate(mask.reshape(-1, 1, *encoder.grid), size=size, mode="nearest")
        shown = mask * pixels[positions] + (1 - mask) * blurred[positions]
        with torch.inference_mode():
            seen = encoder(shown.to(encoder.device))
        return _true_cell(model, rows[positions], seen.pooled, seen.tokens)

    return probability


def _true_cell(model: MapModel, rows: np.ndarray, pooled: Tensor, tokens: Tensor) -> dict[str, np.ndarray]:
    """By head the probability of the true cell `(b,)` from pooled features `(b, d)` and the tokens left `(b, q, w)`."""
    cell, found = torch.as_tensor(model.run.cell_label[rows]), {}
    with torch.inference_mode():
        said = model.stage1.eval()(pooled.to(model.device), tokens.to(model.device))
        concepts = said.probabilities()
        for name, head in model.heads.items():
            device = head.cell_head.weight.device
            output = head.eval()(concept_input(head.config, concepts).to(device), tokens.to(device))
            chance = output.cell_logits.float().softmax(-1)  # (b, N)
            found[name] = chance[torch.arange(len(cell)), cell.to(device)].cpu().numpy()
    return found


def deletion_insertion(
    answer: PatchAnswer,
    way: str,
    blocks: np.ndarray,
    maps: Mapping[str, np.ndarray],
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, DeletionInsertion]:
    """Take patches away in the order of each map and at random, and watch several heads at once; by head.

    `answer` is for `n` pictures in `blocks` `[n]`, from which patches are taken in a `way` (`TOKENS`, `PIXELS`); `maps`
    are by name `[n, P]`, or `[P]` for all pictures, of at least two patches. All heads see the same patches.
    """
    n, n_patches = len(blocks), max((np.shape(own)[-1] for own in maps.values()), default=0)
    if not n or n_patches < 2:
        raise ParameterError(f"there are {n} pictures and {len(maps)} maps; give one of each, of two patches")
    orders = {}
    for name, own in maps.items():
        if np.shape(own) not in ((n, n_patches), (n_patches,)):
            raise ParameterError(
                f"the map {name!r} has the shape {np.shape(own)}; give {(n, n_patches)} or {(n_patches,)}"
            )
        orders[name] = np.argsort(-np.broadcast_to(own, (n, n_patches)), axis=1, kind="stable")
    orders[RANDOM] = np.argsort(np.random.default_rng(seed).random((n, n_patches)), axis=1)

    def ask(kept: np.ndarray) -> dict[str, np.ndarray]:
        kept = np.sort(kept, axis=1)  # (n, q)
        positions = [np.arange(start, min(start + BATCH_SIZE, n)) for start in range(0, n, BATCH_SIZE)]
        parts = [answer(some, kept[some]) for some in track(positions, "pictures", unit="batch")]
        return {head: np.concatenate([part[head] for part in parts]) for head in parts[0]}

    whole, counts = ask(np.tile(np.arange(n_patches), (n, 1))), patch_counts(n_patches, way)
    probability: dict[str, dict[str, dict[str, np.ndarray]]] = {
        head: {curve: {} for curve in CURVES[way]} for head in whole
    }
    pairs = [(curve, name, order) for curve in CURVES[way] for name, order in orders.items()]
    for curve, name, order in track(pairs, f"{' and '.join(CURVES[way])} of {way}"):
        answers = [ask(order[:, count:] if curve == DELETION else order[:, :count]) for count in counts]
        for head in whole:
            probability[head][curve][name] = np.stack([one[head] for one in answers]).T  # (n, counts)
    drawn = Resamples(blocks, n_resamples, seed)
    return {head: DeletionInsertion(n_patches, counts, own, probability[head], drawn) for head, own in whole.items()}


def measure_faithfulness(
    model: MapModel,
    rows: np.ndarray,
    maps: Mapping[str, np.ndarray],
    pictures: int = 150,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[tuple[str, str], DeletionInsertion]:
    """Take patches away from the tokens of all pictures, and from the pixels of some of them; by head and way.

    The heads of the model are called `LINEAR` and `MAIN`; `maps` are by name `[n, P]`, or `[P]` for all pictures. So
    many `pictures` are blurred and encoded anew; 0 leaves that out.
    """
    found: dict[tuple[str, str], DeletionInsertion] = {}
    blocks = spatial_blocks(model.run.lat[rows], model.run.lng[rows])
    # Without tokens in the bottleneck none reaches a head that reads nothing but scores.
    heads = {name: head for name, head in model.heads.items() if model.stage1.needs_tokens or name == MAIN}
    if heads:
        answer = token_answer(replace(model, heads=heads), rows)
        measured = deletion_insertion(answer, TOKENS, blocks, maps, n_resamples, seed)
        found |= {(name, TOKENS): own for name, own in measured.items()}
    if pictures:
        chosen = np.arange(len(rows))
        if pictures < len(rows):
            chosen = np.sort(np.random.default_rng(seed).choice(chosen, size=pictures, replace=False))
        few = {name: own[chosen] if own.ndim == 2 else own for name, own in maps.items()}
        blocks = spatial_blocks(model.run.lat[rows[chosen]], model.run.lng[rows[chosen]])
        measured = deletion_insertion(pixel_answer(model, rows[chosen]), PIXELS, blocks, few, n_resamples, seed)
        found |= {(name, PIXELS): own for name, own in measured.items()}
    return found


def headline(found: Mapping[tuple[str, str], DeletionInsertion]) -> DeletionInsertion | None:
    """Deletion from the linear CBM: of pixels where they were taken away, else of tokens; None where neither was."""
    return found.get((LINEAR, PIXELS)) or found.get((LINEAR, TOKENS))


def gain_table(found: Mapping[tuple[str, str], DeletionInsertion]) -> pd.DataFrame:
    """How much more than with random patches the true cell loses (deletion) or has (insertion), for each order.

    Columns `head, way, curve, order, pictures`, and `gain` with its interval.
    """
    lines = []
    for (head, way), measured in found.items():
        for curve, by_order in measured.probability.items():
            for order in (name for name in by_order if name != RANDOM):
                line = {"head": head, "way": way, "curve": curve, "order": order, "pictures": len(measured.whole)}
                lines.append(line | columns_of("gain", measured.gain(order, curve=curve)))
    return pd.DataFrame(lines)


def faithfulness_metrics(found: Mapping[tuple[str, str], DeletionInsertion]) -> dict[str, float | Estimate]:
    """Metrics to keep: `deletion_gain`, the headline, and one for each head, way and curve.

    Those are called `deletion_gain_strict_pixels`, `insertion_gain_main_tokens` and so on, with `attention_` in front
    where the patches go in the order of attention.
    """
    own = headline(found)
    kept = {} if own is None else {"deletion_gain": own.gain(CONCEPTS)}
    for (model, way), measured in found.items():
        short = f"{'strict' if model == LINEAR else 'main'}_{way}"
        for curve, by_order in measured.probability.items():
            kept[f"{curve}_gain_{short}"] = measured.gain(CONCEPTS, curve=curve)
            if ATTENTION in by_order:
                kept[f"attention_{curve}_gain_{short}"] = measured.gain(ATTENTION, curve=curve)
    if (LINEAR, TOKENS) in found:  # insertion is only done with tokens
        kept["insertion_gain"] = found[LINEAR, TOKENS].gain(CONCEPTS, curve=INSERTION)
    return recordables(kept)

"""One training loop of contrasts: pictures with captions, pictures with phrases, patches with phrases.

Captions follow Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021. The
phrase of every concept is a contrast of its own, several of which are true of a picture (Zhai et al., "Sigmoid Loss for
Language Image Pre-Training", ICCV 2023). Patches are held against the same phrases, which keeps their tokens about what
they cover.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from tools.atlas_backbone.captions import phrase
from tools.atlas_backbone.model import Backbone, embed_pictures
from tools.atlas_backbone.muon import Muon
from tools.atlas_backbone.probe import TEMPLATES, normalise_pictures
from tools.atlas_backbone.scene_pool import PoolAnnotations, ScenePool, patch_targets

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

VARIANTS_PER_CONCEPT = 12
MAX_SHIFT = 8
CHECKPOINT_STEPS = 200
PHRASE_WEIGHT = 0.1
PATCH_WEIGHT = 0.3


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: updates.
        batch_size: pictures per update.
        lr: learning rate at its peak, for both optimizers.
        warmup: part of the steps in which the rate rises.
        keep: part of the patches looked at during the first `sparse` part of the training.
        sparse: part of the training in which patches are dropped.
        minutes: if given, the rate also falls with the clock and training ends by then. The result then depends on the
            speed of the machine.
    """

    steps: int
    batch_size: int = 64
    lr: float = 2e-3
    warmup: float = 0.05
    keep: float = 0.5
    sparse: float = 0.8
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Part of the training that is over after `step` updates in `seconds`, from 0 to 1."""
        by_clock = 0.0 if self.minutes is None else seconds / (60 * self.minutes)
        return max(step / self.steps, by_clock)

    def rate(self, progress: float) -> float:
        """Factor on the learning rate: up during the warmup, then down to 0 in a straight line."""
        return min(progress / self.warmup if self.warmup else 1.0, (1 - progress) / (1 - self.warmup))


class PhraseBank:
    """Several wordings of every concept and parent, as tokens, to draw one of each per step.

    Attributes:
        names: metas, then parents.
        texts: the wordings of each name.
    """

    def __init__(self, notes: PoolAnnotations, seed: int) -> None:
        rng = np.random.default_rng([seed, 7])
        self.names = notes.metas + notes.parents
        self.texts: list[list[str]] = []
        for position, name in enumerate(self.names):
            wordings = [form.format(name) for form in TEMPLATES]
            while len(wordings) < VARIANTS_PER_CONCEPT:
                said = phrase(name, rng) if position < len(notes.metas) else name
                wordings.append(str(rng.choice(TEMPLATES)).format(said))
            self.texts.append(wordings)

    def tokenize(self, tokenizer: CLIPTokenizer) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and mask, each (names, VARIANTS_PER_CONCEPT, T)."""
        flat = [text for wordings in self.texts for text in wordings]
        tokens = tokenizer(flat, padding=True, truncation=True, return_tensors="pt")
        shape = (len(self.names), VARIANTS_PER_CONCEPT, -1)
        return tokens["input_ids"].view(shape), tokens["attention_mask"].view(shape)


def contrast(
    pictures: torch.Tensor,
    patches: torch.Tensor,
    captions: torch.Tensor,
    phrases: torch.Tensor,
    present: torch.Tensor,
    shown: torch.Tensor,
    scales: torch.Tensor,
    odds: tuple[torch.Tensor, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The three contrasts, each a scalar; all embeddings have length one.

    Args:
        pictures: (B, D).
        patches: (B, k, D).
        captions: (B, D), caption i of picture i.
        phrases: (C, D).
        present: which phrases are true of each picture, (B, C).
        shown: which are true of each patch, (B, k, C).
        scales: logarithms of the factors on the cosines of captions, phrases and patches, (3,).
        odds: logarithm of the odds that a phrase is true of a picture, and of a patch, each (C,). Added to the logits,
            so that the cosine only has to tell what the picture adds, and rare phrases are not pushed away from all.
    """
    factor = scales.exp()
    logits = factor[0] * pictures @ captions.T  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    caption = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    phrase_logits = factor[1] * pictures @ phrases.T + odds[0]  # (B, C)
    phrase = functional.binary_cross_entropy_with_logits(phrase_logits, present, reduction="sum") / len(present)
    patch_logits = factor[2] * patches @ phrases.T + odds[1]  # (B, k, C)
    patch = functional.binary_cross_entropy_with_logits(patch_logits, shown, reduction="sum")
    return {"caption": caption, "phrase": phrase, "patch": patch / (shown.shape[0] * shown.shape[1])}


def shift_and_tint(
    pictures: np.ndarray, box: np.ndarray, rng: np.random.Generator, largest: int = MAX_SHIFT
) -> tuple[np.ndarray, np.ndarray]:
    """Move pictures by a few pixels, the edge repeated, and vary their brightness and tint.

    They are never mirrored: the side of the road that traffic keeps to is a clue.

    Args:
        pictures: uint8, (B, H, W, 3).
        box: boxes as parts of the picture, (B, V, 4).
        rng: source of chance.
        largest: furthest shift in pixels.

    Returns:
        Pictures and boxes of the same shapes, boxes clipped to the picture.
    """
    n, height, width = pictures.shape[:3]
    dy, dx = rng.integers(-largest, largest + 1, (2, n))
    rows = np.clip(np.arange(height) - dy[:, None], 0, height - 1)  # (B, H): where each row comes from
    columns = np.clip(np.arange(width) - dx[:, None], 0, width - 1)
    moved = pictures[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    gain = rng.uniform(0.85, 1.15, (n, 1, 1, 1)) * rng.uniform(0.95, 1.05, (n, 1, 1, 3))
    tinted = np.clip(moved * gain.astype(np.float32) + rng.uniform(-10, 10, (n, 1, 1, 1)).astype(np.float32), 0, 255)
    offset = np.stack([dx / width, dy / height, dx / width, dy / height], 1)[:, None]  # (B, 1, 4)
    return tinted.astype(np.uint8), np.clip(box + offset, 0, 1)


def _log_odds(share: np.ndarray) -> torch.Tensor:
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return torch.from_numpy(np.log(share / (1 - share))).float()


def _optimizers(model: CLIPModel, scales: torch.nn.Parameter, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else."""
    matrices = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    chosen = {id(p) for p in matrices} | {id(model.logit_scale)}  # the caption scale is written back at the end
    others = [p for p in model.parameters() if id(p) not in chosen] + [scales]
    return [
        Muon(matrices, lr=lr, weight_decay=0.05),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


@dataclass(frozen=True)
class Batch:
    """What one update learns from.

    Attributes:
        pixel_values: normalised pictures, (B, 3, H, W).
        keep: indices of the patches looked at, (B, k); None for all.
        captions: tokens and mask of one caption per picture, each (B, T).
        phrases: tokens and mask of one wording per concept, each (C, T).
        present: 1 where a phrase is true of a picture, (B, C).
        shown: 1 where it is true of a patch, (B, k, C).
    """

    pixel_values: torch.Tensor
    keep: torch.Tensor | None
    captions: tuple[torch.Tensor, torch.Tensor]
    phrases: tuple[torch.Tensor, torch.Tensor]
    present: torch.Tensor
    shown: torch.Tensor


class BatchSource:
    """Draws batches from a pool, each epoch in another order.

    Attributes:
        odds: as for `contrast`, counted on the pool.
    """

    def __init__(self, backbone: Backbone, pool: ScenePool, bank: PhraseBank, seed: int) -> None:
        self.backbone, self.pool, self.rng = backbone, pool, np.random.default_rng([seed, 11])
        notes, embeddings = pool.notes, backbone.model.vision_model.embeddings
        self.grid = embeddings.image_size // embeddings.patch_size
        flat = [sentence for sentences in notes.captions for sentence in sentences]
        self.caption_tokens = backbone.tokenizer(flat, truncation=True)["input_ids"]
        self.phrase_ids, self.phrase_mask = bank.tokenize(backbone.tokenizer)
        self.presence = notes.presence()
        sample = self.rng.choice(len(pool), min(len(pool), 1000), replace=False)
        on_patches = self._targets(sample, notes.box[sample])
        self.odds = (_log_odds(self.presence.mean(0)), _log_odds(on_patches.mean((0, 1))))
        self.order = np.zeros(0, dtype=np.int64)

    def draw(self, size: int, keep: float) -> Batch:
        """The next `size` pictures, with the part `keep` of their patches."""
        rng, notes = self.rng, self.pool.notes
        if len(self.order) < size:
            self.order = np.concatenate([self.order, rng.permutation(len(self.pool))])
        rows, self.order = np.sort(self.order[:size]), self.order[size:]
        pictures, box = shift_and_tint(self.pool.pictures[rows], notes.box[rows], rng)
        shown, seen = self._targets(rows, box), None
        if keep < 1:
            n_seen = max(1, round(keep * self.grid**2))
            seen = torch.from_numpy(rng.random((len(rows), self.grid**2)).argsort(1)[:, :n_seen].copy())
            shown = shown[np.arange(len(rows))[:, None], seen.numpy()]
        n_captions = len(notes.captions[0])
        said = [self.caption_tokens[row * n_captions + rng.integers(n_captions)] for row in rows]
        captions = self.backbone.tokenizer.pad({"input_ids": said}, return_tensors="pt")
        drawn = torch.from_numpy(rng.integers(self.phrase_ids.shape[1], size=len(self.phrase_ids)))
        each = torch.arange(len(self.phrase_ids))
        ids, mask = self.phrase_ids[each, drawn], self.phrase_mask[each, drawn]
        longest = int(mask.sum(1).max())
        return Batch(
            normalise_pictures(pictures, self.backbone.mean, self.backbone.std),
            seen,
            (captions["input_ids"], captions["attention_mask"]),
            (ids[:, :longest], mask[:, :longest]),
            torch.from_numpy(self.presence[rows]).float(),
            torch.from_numpy(shown).float(),
        )

    def _targets(self, rows: np.ndarray, box: np.ndarray) -> np.ndarray:
        notes = self.pool.notes
        return patch_targets(notes.concept[rows], box, notes.meta_to_parent, len(notes.parents), self.grid)


class RunningMeans:
    """Mean losses since the last entry of the history."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log, self.began = log, time.monotonic()
        self.history: list[dict[str, float]] = []
        self.values: list[dict[str, float]] = []

    def close(self, step: int, progress: float) -> None:
        """Write the entry of the history that ends with `step`."""
        if not self.values:
            return
        entry = {name: sum(value[name] for value in self.values) / len(self.values) for name in self.values[0]}
        entry |= {"step": step, "progress": progress, "seconds": time.monotonic() - self.began}
        self.history.append(entry)
        self.values = []
        self.log("  ".join(f"{name} {value:.3f}" for name, value in entry.items()))


def train(
    backbone: Backbone,
    pool: ScenePool,
    bank: PhraseBank,
    schedule: Schedule,
    seed: int,
    checkpoint: Callable[[int], None] | None = None,
    threads: int = 2,
    log: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """Train in place.

    Args:
        backbone: its model is changed.
        pool: pictures and what is in them.
        bank: wordings of the pool's concepts.
        schedule: length and rates.
        seed: of the order, the augmentation and the wordings.
        checkpoint: called with the number of steps done, every `CHECKPOINT_STEPS`.
        threads: parts of a batch computed side by side.
        log: takes a line every 50 steps.

    Returns:
        Mean losses over each 50 steps, with `step`, `progress` and `seconds`. Interrupting (Ctrl-C) ends the training
        early and keeps what was learned.
    """
    model, source = backbone.model, BatchSource(backbone, pool, bank, seed)
    scales = torch.nn.Parameter(torch.full((3,), math.log(10.0)))
    optimizers = _optimizers(model, scales, schedule.lr)
    means, done = RunningMeans(log), 0
    model.train()
    inner_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    executor = ThreadPoolExecutor(threads)
    try:
        while (progress := schedule.progress(done, time.monotonic() - means.began)) < 1:
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = schedule.lr * max(schedule.rate(progress), 0.01)
            batch = source.draw(schedule.batch_size, schedule.keep if progress < schedule.sparse else 1.0)
            means.values.append(_update(model, batch, optimizers, scales, source.odds, executor, threads))
            done += 1
            if done % 50 == 0 or done == schedule.steps:
                means.close(done, progress)
            if checkpoint is not None and done % CHECKPOINT_STEPS == 0:
                checkpoint(done)
    except KeyboardInterrupt:
        log("interrupted: keeping what was learned so far")
    finally:
        means.close(done, done / schedule.steps)
        executor.shutdown()
        torch.set_num_threads(inner_threads)
    model.eval()
    return means.history


def _update(
    model: CLIPModel,
    batch: Batch,
    optimizers: Sequence[torch.optim.Optimizer],
    scales: torch.nn.Parameter,
    odds: tuple[torch.Tensor, torch.Tensor],
    executor: Executor,
    threads: int,
) -> dict[str, float]:
    """One step of the optimizers; gives the losses before it."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    texts = [_embed_tokens(model, *batch.captions), _embed_tokens(model, *batch.phrases)]
    with split_pictures(model, batch.pixel_values, batch.keep, executor, threads) as (whole, patches):
        losses = contrast(whole, patches, texts[0], texts[1], batch.present, batch.shown, scales, odds)
        total = losses["caption"] + PHRASE_WEIGHT * losses["phrase"] + PATCH_WEIGHT * losses["patch"]
        total.backward()
    for optimizer in optimizers:
        optimizer.step()
    with torch.no_grad():
        scales.clamp_(max=math.log(100.0))  # as CLIP does, lest the softmax saturates
        model.logit_scale.copy_(scales[0])
    return {name: value.item() for name, value in losses.items()}


@contextmanager
def split_pictures(
    model: CLIPModel, pixel_values: torch.Tensor, keep: torch.Tensor | None, executor: Executor, parts: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Embed pictures in parts that run side by side, and carry the gradient back through each part.

    Small models gain nothing from threads inside an operation, which wait for one another at every step of the way;
    parts of a batch wait twice. The numbers are those of the whole batch.

    Args:
        model: the CLIP.
        pixel_values: normalised pictures, (B, 3, H, W).
        keep: as for `embed_pictures`.
        executor: threads.
        parts: number of parts.

    Yields:
        Pictures (B, D) and patches (B, k, D), to which the block must carry a gradient with `backward()`.
    """
    cuts = [pixel_values.tensor_split(parts), [None] * parts if keep is None else keep.tensor_split(parts)]
    done = list(executor.map(embed_pictures, [model] * parts, *cuts))
    whole = torch.cat([part[0].detach() for part in done]).requires_grad_()
    patches = torch.cat([part[1].detach() for part in done]).requires_grad_()
    yield whole, patches
    assert whole.grad is not None and patches.grad is not None, "the block carried no gradient back"
    slopes = zip(whole.grad.tensor_split(parts), patches.grad.tensor_split(parts), strict=True)
    list(executor.map(torch.autograd.backward, done, slopes))


def _embed_tokens(model: CLIPModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    pooled = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    return functional.normalize(pooled, dim=-1)

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

from geocbm_atlas.backbone_model import embed_pictures
from geocbm_atlas.muon import Muon
from geocbm_atlas.pretrain_probe import TEMPLATES, normalise_pictures
from geocbm_atlas.scene_pool import PoolAnnotations, ScenePool, patch_targets

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

VARIANTS_PER_CONCEPT = 12
MAX_SHIFT = 8
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
        from geocbm_atlas.captions import phrase

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
    picture_odds: torch.Tensor,
    patch_odds: torch.Tensor,
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
        picture_odds: logarithm of the odds that a phrase is true of a picture, (C,). Added to the logits, so that the
            cosine only has to tell what the picture adds to it, and rare phrases are not pushed away from all pictures.
        patch_odds: the same for patches, (C,).
    """
    factor = scales.exp()
    logits = factor[0] * pictures @ captions.T  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    caption = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    phrase_logits = factor[1] * pictures @ phrases.T + picture_odds  # (B, C)
    phrase = functional.binary_cross_entropy_with_logits(phrase_logits, present, reduction="sum") / len(present)
    patch_logits = factor[2] * patches @ phrases.T + patch_odds  # (B, k, C)
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


def train(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    pool: ScenePool,
    bank: PhraseBank,
    mean: Sequence[float],
    std: Sequence[float],
    schedule: Schedule,
    seed: int,
    checkpoint: Callable[[int], None] | None = None,
    checkpoint_steps: int = 200,
    threads: int = 2,
    log: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """Train in place.

    Args:
        model: from `build_model`, changed.
        tokenizer: of the model.
        pool: pictures and what is in them.
        bank: wordings of the pool's concepts.
        mean: of the channels, parts of 1.
        std: of the channels, parts of 1.
        schedule: length and rates.
        seed: of the order, the augmentation and the wordings.
        checkpoint: called with the number of steps done, every `checkpoint_steps`.
        checkpoint_steps: steps between checkpoints.
        threads: parts of a batch computed side by side.
        log: takes a line every 50 steps.

    Returns:
        Mean losses over each 50 steps, with `step`, `progress` and `seconds`. Interrupting (Ctrl-C) ends the training
        early and keeps what was learned.
    """
    notes, rng = pool.notes, np.random.default_rng([seed, 11])
    grid = model.vision_model.embeddings.image_size // model.vision_model.embeddings.patch_size
    n_parents, n_captions = len(notes.parents), len(notes.captions[0])
    flat = [sentence for sentences in notes.captions for sentence in sentences]
    caption_tokens = tokenizer(flat, truncation=True)["input_ids"]
    phrase_ids, phrase_mask = bank.tokenize(tokenizer)
    presence = notes.presence()
    sample = rng.choice(len(pool), min(len(pool), 1000), replace=False)
    on_patches = patch_targets(notes.concept[sample], notes.box[sample], notes.meta_to_parent, n_parents, grid)
    picture_odds, patch_odds = _log_odds(presence.mean(0)), _log_odds(on_patches.mean((0, 1)))
    scales = torch.nn.Parameter(torch.full((3,), math.log(10.0)))
    optimizers = _optimizers(model, scales, schedule.lr)
    history: list[dict[str, float]] = []
    sums: dict[str, float] = {}
    order = np.zeros(0, dtype=np.int64)
    began = time.monotonic()
    counted = done = 0

    def note(progress: float) -> None:
        """Close the running means with an entry of the history."""
        nonlocal sums, counted
        entry = {name: value / counted for name, value in sums.items()}
        entry |= {"step": done, "progress": progress, "seconds": time.monotonic() - began}
        history.append(entry)
        sums, counted = {}, 0
        log("  ".join(f"{name} {value:.3f}" for name, value in entry.items()))

    model.train()
    inner_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    executor = ThreadPoolExecutor(threads)
    try:
        for step in range(schedule.steps):
            progress = step / schedule.steps
            if schedule.minutes is not None:
                progress = max(progress, (time.monotonic() - began) / (60 * schedule.minutes))
            if progress >= 1:
                break
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = schedule.lr * max(schedule.rate(progress), 0.01)
            if len(order) < schedule.batch_size:
                order = np.concatenate([order, rng.permutation(len(pool))])
            rows, order = np.sort(order[: schedule.batch_size]), order[schedule.batch_size :]
            pictures, box = shift_and_tint(pool.pictures[rows], notes.box[rows], rng)
            pixel_values = normalise_pictures(pictures, mean, std)
            shown = patch_targets(notes.concept[rows], box, notes.meta_to_parent, n_parents, grid)
            keep = None
            if progress < schedule.sparse and schedule.keep < 1:
                seen = max(1, round(schedule.keep * grid * grid))
                keep = torch.from_numpy(rng.random((len(rows), grid * grid)).argsort(1)[:, :seen].copy())
                shown = shown[np.arange(len(rows))[:, None], keep.numpy()]
            said = [caption_tokens[row * n_captions + rng.integers(n_captions)] for row in rows]
            captions = tokenizer.pad({"input_ids": said}, return_tensors="pt")
            drawn = torch.from_numpy(rng.integers(phrase_ids.shape[1], size=len(phrase_ids)))
            each = torch.arange(len(phrase_ids))
            ids, mask = phrase_ids[each, drawn], phrase_mask[each, drawn]
            longest = int(mask.sum(1).max())
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            texts = [
                _embed_tokens(model, captions["input_ids"], captions["attention_mask"]),
                _embed_tokens(model, ids[:, :longest], mask[:, :longest]),
            ]
            known = (torch.from_numpy(presence[rows]).float(), torch.from_numpy(shown).float())
            with split_pictures(model, pixel_values, keep, executor, threads) as (whole, patches):
                losses = contrast(whole, patches, texts[0], texts[1], *known, scales, picture_odds, patch_odds)
                total = losses["caption"] + PHRASE_WEIGHT * losses["phrase"] + PATCH_WEIGHT * losses["patch"]
                total.backward()
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                scales.clamp_(max=math.log(100.0))  # as CLIP does, lest the softmax saturates
                model.logit_scale.copy_(scales[0])
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            counted, done = counted + 1, step + 1
            if done % 50 == 0 or done == schedule.steps:
                note(progress)
            if checkpoint is not None and (step + 1) % checkpoint_steps == 0:
                checkpoint(step + 1)
    except KeyboardInterrupt:
        log("interrupted: keeping what was learned so far")
    finally:
        if counted:
            note(done / schedule.steps)
        executor.shutdown()
        torch.set_num_threads(inner_threads)
    model.eval()
    return history


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

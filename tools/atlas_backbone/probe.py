"""What a small CLIP has learned, measured on scenes of worlds it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tools.atlas_backbone.model import Backbone, embed_pictures, embed_texts
from tools.atlas_backbone.scene_pool import ScenePool, patch_targets

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

TEMPLATES = (
    "{}",
    "a photo of {}",
    "a street view photo with {}",
    "a street view image showing {}",
    "a roadside scene with {}",
    "a picture that shows {}",
)


def normalise_pictures(pictures: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turn uint8 pictures (B, H, W, 3) into what the model takes, float32 (B, 3, H, W)."""
    values = torch.from_numpy(np.array(pictures))  # a copy: a memory map is not writable
    values = values.permute(0, 3, 1, 2).float().div_(255)
    return values.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1))


@torch.no_grad()
def name_prototypes(model: CLIPModel, tokenizer: CLIPTokenizer, names: Sequence[str]) -> torch.Tensor:
    """Embed names as the normalised mean over the templates, (k, D)."""
    mean = torch.stack([embed_texts(model, tokenizer, [form.format(n) for n in names]) for form in TEMPLATES]).mean(0)
    return torch.nn.functional.normalize(mean, dim=-1)


@torch.no_grad()
def embed_pool(
    backbone: Backbone, pool: ScenePool, prototypes: torch.Tensor, batch_size: int = 128
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embed all pictures and find the patch that is most like each concept they show.

    Returns:
        Pictures (n, D); per visible concept with a box (in the order of the pool) whether the best patch shows it; and
        the part of the patches that show it, which is what a random patch would score.
    """
    notes, model = pool.notes, backbone.model
    grid = model.vision_model.embeddings.image_size // model.vision_model.embeddings.patch_size
    embedded, hits, chances = [], [], []
    for start in range(0, len(pool), batch_size):
        rows = slice(start, start + batch_size)
        whole, patches = embed_pictures(model, normalise_pictures(pool.pictures[rows], backbone.mean, backbone.std))
        embedded.append(whole.numpy())
        best = (patches @ prototypes.T).argmax(1).numpy()  # (B, k_m): the patch most like each concept
        concept, box = notes.concept[rows], notes.box[rows]
        shown = patch_targets(concept, box, notes.meta_to_parent, len(notes.parents), grid)
        pictures, places = np.nonzero(concept >= 0)
        found = concept[pictures, places]
        hits.append(shown[pictures, best[pictures, found], found])
        chances.append(shown[pictures, :, found].mean(1))
    return np.concatenate(embedded), np.concatenate(hits), np.concatenate(chances)


def _probe(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of a logistic regression trained on the first two thirds, on the last third."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    cut = 2 * len(labels) // 3
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return float(classifier.fit(features[:cut], labels[:cut]).score(features[cut:], labels[cut:]))


def _nearest(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of the label of the nearest of the first two thirds (cosine), on the last third."""
    cut = 2 * len(labels) // 3
    nearest = (features[cut:] @ features[:cut].T).argmax(1)
    return float((labels[:cut][nearest] == labels[cut:]).mean())


def measure(backbone: Backbone, pool: ScenePool) -> dict[str, float]:
    """Metrics of a backbone on a pool.

    Returns:
        `presence_auc` (median over metas seen at least ten times: does the similarity of picture and name rank pictures
        that show the concept first), `presence_auc_lowest_decile`, `pointing` (the patch most like a visible concept
        shows it) with `pointing_chance`, `probe_meta` and `nearest_country` with their `_chance` (the commonest label),
        `probe_country`, `n`.
    """
    from sklearn.metrics import roc_auc_score

    backbone.model.eval()
    notes = pool.notes
    prototypes = name_prototypes(backbone.model, backbone.tokenizer, notes.metas)
    features, hits, chances = embed_pool(backbone, pool, prototypes)
    similarity = features @ prototypes.numpy().T  # (n, k_m)
    presence = notes.presence()
    auc = [
        roc_auc_score(presence[:, k], similarity[:, k])
        for k in range(len(notes.metas))
        if 10 <= presence[:, k].sum() <= len(pool) - 10
    ]
    country = np.unique(np.array(notes.country), return_inverse=True)[1]
    cut = 2 * len(pool) // 3

    def commonest(labels: np.ndarray) -> float:
        return float((labels[cut:] == np.bincount(labels[:cut]).argmax()).mean())

    return {
        "n": float(len(pool)),
        "presence_auc": float(np.median(auc)) if auc else float("nan"),
        "presence_auc_lowest_decile": float(np.quantile(auc, 0.1)) if auc else float("nan"),
        "pointing": float(hits.mean()),
        "pointing_chance": float(chances.mean()),
        "probe_meta": _probe(features, notes.labelled),
        "probe_meta_chance": commonest(notes.labelled),
        "nearest_country": _nearest(features, country),
        "nearest_country_chance": commonest(country),
        "probe_country": _probe(features, country),
    }

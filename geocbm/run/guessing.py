"""Guessed labels for pictures without any: which concepts of a list are most like them to an encoder of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from geocbm.data import image_files
from geocbm.data.concept_list import ConceptList
from geocbm.data.concepts import GUESSED, SEPARATOR, UNKNOWN
from geocbm.encoders import TextEncoder, load_image_encoder, load_text_encoder
from geocbm.encoders.features import encode_features
from geocbm.errors import ParameterError
from geocbm.files import paths
from geocbm.run.encoding import compute_device

MOST = 3
"""Concepts that are guessed of a picture at most; what is less like it is more often wrong."""


def joint_text_encoder(name: str, width: int) -> TextEncoder | None:
    """Text encoder whose vectors lie in one space with the features (of `width`) of a model; None where it has none."""
    try:
        text = load_text_encoder(name)
    except ParameterError:  # an image encoder without a text tower
        return None
    return text if text.is_tower and text.dim == width else None


def similarity(images: torch.Tensor, text: TextEncoder, concepts: ConceptList) -> np.ndarray:
    """Cosine of pictures `[n, d]` with the prototype of each concept of a list, the mean of its sentences, `[n, k]`."""
    words = [normalize(text.encode(concepts.sentences(name)), dim=-1).mean(0) for name in concepts.parents]
    return (normalize(images.float(), dim=-1) @ normalize(torch.stack(words), dim=-1).T).numpy()


def standardised(scores: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Scores `[n, k]` of each concept less their mean over the training rows, by their spread there.

    Some words are like every picture; what counts is whether a picture is more like them than others are.
    """
    return (scores - scores[train].mean(axis=0)) / np.maximum(scores[train].std(axis=0), 1e-6)


def choose(scores: np.ndarray, train: np.ndarray, above: float) -> tuple[np.ndarray, np.ndarray]:
    """Concept that comes first in each picture `[n]`, or -1, and all that are chosen `[n, k]`, by standardised scores.

    Of those from `above` on, up to `MOST` for a picture. Concepts that come first for no training picture are never
    chosen, for nothing could learn them.
    """
    first = scores[train].argmax(axis=1)[scores[train].max(axis=1) >= above]
    usable = np.isin(np.arange(scores.shape[1]), first)
    held = np.where(usable & (scores >= above), scores, -np.inf)
    order = np.argsort(-held, axis=1, kind="stable")[:, :MOST]
    chosen = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(chosen, order, np.isfinite(np.take_along_axis(held, order, axis=1)), axis=1)
    return np.where(chosen.any(axis=1), order[:, 0], -1), chosen


def guess_concepts(
    table: pd.DataFrame, train: np.ndarray, concepts: ConceptList, name: str, above: float, cache: Path
) -> pd.DataFrame:
    """Label the pictures of a table that has no labels: the best guess is `meta_name`, all are in the column `GUESSED`.

    The attribute of that name says by what they were made; a table that has labels is returned as it is. Scores are
    standardised by the rows `train`, since no other row may have a say in what a guess is, and a picture without one
    `above` the least stays `UNKNOWN`. `name` is a model with an image and a text tower in one space, such as a CLIP,
    and `cache` the folder of the feature stores.

    Raises:
        ParameterError: the table has labels and a model is named, or has none and nothing can be guessed.
    """
    labelled = bool((table["meta_name"] != UNKNOWN).any())
    if labelled and name:
        raise ParameterError(f"guess_with={name!r}, but the table has labels; leave guess_with empty")
    if labelled:
        return table
    if not name:
        raise ParameterError(
            "the table has no labels, and guess_with is empty; name a model of pictures and texts that guesses them, "
            "such as --set 01.guess_with=geolocal/StreetCLIP; or head a column of 1, 0 or nothing with each name of a "
            "list of yours (--set 01.concepts=FILE)"
        )
    encoder = load_image_encoder(name)
    text = joint_text_encoder(name, encoder.pooled_dim)
    if text is None:
        raise ParameterError(f"guess_with={name!r} has no text side for its pictures; name a model such as a CLIP")
    digests = table["image_sha256"].tolist()
    store = encode_features(encoder.to(compute_device()), image_files(table), digests, cache, kinds=("pooled",))
    scores = standardised(similarity(store.read_all("pooled"), text, concepts), train)
    first, chosen = choose(scores, train, above)
    if not chosen[train].any():
        raise ParameterError(f"guess_above={above} is more than any picture reaches; give a lower one, such as 2")
    names, parents = np.array([*concepts.parents, UNKNOWN], object), [*concepts.parents.values(), UNKNOWN]
    guessed = table.assign(meta_name=names[first], parent_concept=np.array(parents, object)[first])
    guessed[GUESSED] = [SEPARATOR.join(names[:-1][row]) for row in chosen]
    made_by = {"by": paths.portable(name) if Path(name).is_dir() else name, "list": concepts.digest}
    guessed.attrs = table.attrs | {GUESSED: made_by | {"above": above, "most": MOST}}
    return guessed

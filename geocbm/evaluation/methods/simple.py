"""Answers of the methods a user would pick instead, and of oracles, for the test split of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm import pipeline
from geocbm.data import image_files
from geocbm.data.ground_truth import has_ground_truth, load_ground_truth
from geocbm.errors import ParameterError
from geocbm.evaluation import baselines
from geocbm.evaluation.baselines import Prediction
from geocbm.evaluation.methods.decodings import Validation, own_place
from geocbm.evaluation.methods.distributions import linear_probe, neighbours, prior
from geocbm.evaluation.methods.retrieval import GEOCLIP_BACKBONE, gallery, geoclip, training_gallery
from geocbm.evaluation.methods.table import words_of
from geocbm.files import read_json
from geocbm.run import Run

if TYPE_CHECKING:
    from geocbm.encoders import TextEncoder


def simple_methods(files: Run, cache: Path, seed: int = 0, geoclip_backbone: str = "") -> list[Prediction]:
    """Answers of all baselines for the test split, learned from the training split alone.

    Left out are zero-shot prompts where texts and pictures share no space, GeoCLIP's own model without its backbone,
    and the classifier on the true concepts where the data comes without ground truth; `remarks` says so. An empty
    test split leaves out all.

    Args:
        files: the run, with Stage 0 trained.
        cache: folder of the feature stores.
        seed: seed of the fitted baselines.
        geoclip_backbone: folder or hub name of GeoCLIP's backbone; empty leaves its own model out.
    """
    if not len(files.rows["test"]):
        return []
    validation = Validation.of(files)
    vanilla = files.features("vanilla").read_all("pooled").numpy()
    train, val, test = (files.rows[split] for split in ("train", "val", "test"))
    meta = files.meta_and_parent[0]
    learned: dict[str, Any] = {"country": files.country[train], "meta": meta[train]}
    places = {"lat": files.lat[train], "lng": files.lng[train]}
    colours = baselines.mean_colours(image_files(files.table))
    k = baselines.choose_k(vanilla[train], vanilla[val], **places, val_lat=files.lat[val], val_lng=files.lng[val])
    labels = {"cell": files.cell_label, "country": files.country}

    def both(ask: Callable[[np.ndarray], Prediction]) -> Prediction:
        return own_place(validation, ask(val), ask(test)) if len(val) else ask(test)

    def nearest(x: np.ndarray, rows: np.ndarray, **options: Any) -> Prediction:
        if not len(rows):
            return Prediction("nearest_neighbour", np.zeros(0), np.zeros(0))
        return baselines.nearest_neighbour(x[train], x[rows], **places, **learned, **options)

    answers = [
        # Another draw for validation: the seed of the test images is the run's.
        both(lambda rows: baselines.chance(**places, n=len(rows), **learned, seed=seed + (rows is val))),
        prior(files, validation, baselines.training_prior(**places, n=len(test), **learned, seed=seed)),
        both(lambda rows: nearest(colours, rows, metric="euclidean", name="mean_colour")),
        gallery(files, cache, validation),
        training_gallery(files, cache, validation),
        both(lambda rows: nearest(vanilla, rows)),
        neighbours(
            files, validation, vanilla, nearest(vanilla, val, k=k, name="knn"), nearest(vanilla, test, k=k, name="knn")
        ),
        linear_probe(validation, vanilla, files.rows, labels | {"meta": meta}),
        *_zero_shot_both(files, validation, vanilla),
        baselines.country_centroid(files.lat[train], files.lng[train], files.country[train], files.country[test]),
        baselines.true_meta(
            files.lat[train], files.lng[train], meta[train], meta[test], files.country[train], seed=seed
        ),
    ]
    if geoclip_backbone:
        answers.append(geoclip(files, cache, geoclip_backbone))
    concepts = visible_concepts(files)
    if concepts is not None:
        named = baselines.true_concepts(concepts[train], concepts[test], meta=meta[train], seed=seed).meta
        answers.append(replace(linear_probe(validation, concepts, files.rows, labels, "true_concepts"), meta=named))
    return answers


def _zero_shot_both(files: Run, validation: Validation, vanilla: np.ndarray) -> list[Prediction]:
    """Zero-shot answers for the test images, those that name places with their validation figures."""
    val, found = files.rows["val"], zero_shot(files, vanilla[files.rows["test"]])
    seen = {answer.name: answer for answer in zero_shot(files, vanilla[val])} if len(val) and found else {}
    return [
        own_place(validation, seen[answer.name], answer) if answer.name in seen and answer.lat is not None else answer
        for answer in found
    ]


def visible_concepts(files: Run) -> np.ndarray | None:
    """Features of the true list of visible concepts of every row; None where the data has no ground truth."""
    folder = Path(files.table.attrs["folder"])
    if not has_ground_truth(folder):
        return None
    truth = load_ground_truth(folder)
    visible = [truth[pano_id]["concepts"] for pano_id in files.table["pano_id"]]
    return baselines.concept_features(visible, files.concepts.metas)


def _own_words(files: Run) -> TextEncoder | None:
    """The untouched text tower of the run's image encoder; None where texts come from another model."""
    from geocbm.encoders import load_text_encoder

    encoders = pipeline.EncoderConfig(**read_json(files.need("features.json"))["encoders"])
    if encoders.text_encoder not in ("", encoders.image_encoder):
        return None
    try:
        text = load_text_encoder(encoders.image_encoder)
    except ParameterError:  # an image encoder without a text tower
        return None
    return text if text.is_tower else None


def zero_shot(files: Run, pictures: np.ndarray) -> list[Prediction]:
    """Country and labelled concept by prompts, with the untouched model; nothing where it has no joint space.

    Only countries of the training split can be named, as by every other method.

    Args:
        files: the run.
        pictures: `[n, d]` pooled features of the untouched encoder.
    """
    from geocbm.data.concepts import META_TEMPLATES
    from geocbm.encoders import prototypes

    text = _own_words(files)
    if text is None or text.dim != pictures.shape[1]:
        return []
    train = files.rows["train"]
    countries = sorted(set(files.country[train].tolist()))
    return [
        baselines.zero_shot_country(
            pictures,
            prototypes(text, countries, baselines.COUNTRY_TEMPLATES),
            countries,
            files.lat[train],
            files.lng[train],
            files.country[train],
        ),
        baselines.zero_shot_concept(pictures, prototypes(text, files.concepts.metas, META_TEMPLATES)),
    ]


def remarks(files: Run, answers: Sequence[Prediction]) -> str:
    """What a reader of the table must know of this run: what is left out and why, what was chosen, what has no answer.

    Args:
        files: the run.
        answers: of `simple_methods`.
    """
    if not len(files.rows["test"]):
        return "The test split is empty: no method is measured."
    by_name = {answer.name: answer for answer in answers}
    lines = []
    if "knn" in by_name:
        lines.append(
            f"Nearest neighbours, {by_name['knn'].detail}: of {', '.join(map(str, baselines.CANDIDATES))} the number "
            "whose middle has the best GeoScore on the validation split; how many vote for cells is chosen there too."
        )
    if "linear_probe" in by_name:
        lines.append(
            f"Linear probe, {by_name['linear_probe'].detail}: of "
            f"{', '.join(f'{strength:g}' for strength in baselines.STRENGTHS)} the strength of the penalty with the "
            "best log likelihood of cells on the validation split (countries and concepts have their own)."
        )
    if "zero_shot_country" not in by_name:
        lines.append(
            "No zero-shot rows: the run's text encoder is another model than its image encoder, so that texts and "
            "pictures share no space. They take a CLIP-family image encoder with its own text tower."
        )
    if "geoclip" not in by_name:
        lines.append(
            f"No row of GeoCLIP's own model: it reads pictures with {GEOCLIP_BACKBONE}. Give its folder, or that name "
            f"if the local model cache holds it: --set 06.geoclip_backbone={GEOCLIP_BACKBONE}. Nothing is downloaded."
        )
    if "true_concepts" not in by_name:
        lines.append("No row of the true concepts: this table comes without a list of what each image shows.")
    for name, of_what in (("country_centroid", "country"), ("true_meta", "label")):
        lat = by_name[name].lat if name in by_name else None
        missing = 0 if lat is None else int(np.isnan(lat).sum())
        if missing:
            lines.append(
                f"The {words_of(name)} has no answer for {missing:,} of {len(files.rows['test']):,} test images, whose "
                f"{of_what} has no training image; they count as misses."
            )
    return "\n".join(lines)

"""What is laid over the pictures that are explained one by one: attention, and the maps of their concepts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.explain.interventions import InterventionModel
    from geocbm.models.stage1 import Stage1ConceptModel
    from geocbm.run import Run

Box = tuple[float, float, float, float]


class Overlays(NamedTuple):
    """Pictures with what is laid over them, as `plots.attention_overlay` takes them.

    Attributes:
        pictures: as the model saw them.
        grids: `(rows, columns)` of each, not negative, with the sum 1.
        captions: a line for each.
        boxes: where the concept truly is, in parts of the picture; None where it is not seen or not known.
    """

    pictures: list[Image]
    grids: list[np.ndarray]
    captions: list[str]
    boxes: list[Box | None]


def seen_picture(files: Run, encoder: ImageEncoder, row: int) -> Image:
    """A picture of the table as the model sees it."""
    from geocbm.data import image_files
    from geocbm.data.images.pictures import open_picture

    return encoder.crop(open_picture(image_files(files.table.iloc[[row]])[0]))


def attention_overlays(
    files: Run, encoder: ImageEncoder, model: InterventionModel, rows: Sequence[int], captions: Sequence[str]
) -> Overlays:
    """Attention of Stage 2: the mean over its heads for each picture, and each head alone for the first one.

    Args:
        files: the run.
        encoder: for its crop and its grid.
        model: Stage 2 in its main mode.
        rows: the pictures.
        captions: what each is.

    Returns:
        The overlays; none where the mode asks no patch.
    """
    found = Overlays([], [], [], [])
    if not model.head.config.reads_tokens:
        return found
    for number, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        attention = model.forward_one(row, model.scores[[row]]).attention[0].float().cpu().numpy()  # (heads, P)
        picture = seen_picture(files, encoder, row)
        shown = [(f"mean: {caption}", attention.mean(axis=0))]
        if number == 0 and len(attention) > 1:
            shown += [(f"head {head}", own) for head, own in enumerate(attention, start=1)]
        for words, own in shown:
            found.pictures.append(picture)
            found.grids.append(own.reshape(encoder.grid) / max(float(own.sum()), 1e-12))
            found.captions.append(words)
            found.boxes.append(None)
    return found


def concept_overlays(
    files: Run,
    encoder: ImageEncoder,
    model: Stage1ConceptModel,
    features: FeatureStore,
    scores: np.ndarray,
    rows: Sequence[int],
    kind: str | None = None,
    most: int = 3,
) -> Overlays:
    """The maps of the concepts with the highest probability.

    Args:
        files: the run.
        encoder: for its crop and its grid.
        model: Stage 1.
        features: the adapted features.
        scores: `[n, k]` probabilities of metas (and then parents) of all pictures.
        rows: the pictures.
        kind: of the maps (`localisation.choose_kind`).
        most: concepts of each.

    Returns:
        The overlays. A box is drawn where the data knows that the concept is seen and where; it is the largest one of
        that concept.
    """
    from geocbm.explain.maps import concept_maps

    metas = files.concepts.metas
    found = Overlays([], [], [], [])
    first = [np.argsort(-scores[row, : len(metas)], kind="stable")[:most] for row in rows]
    owners = np.repeat(np.asarray(rows, dtype=np.int64), [len(own) for own in first])
    wanted = np.concatenate(first) if first else np.zeros(0, dtype=np.int64)
    maps = concept_maps(files, encoder, model, features, owners, wanted, kind)
    truth = _ground_truth(files)
    pictures = {row: seen_picture(files, encoder, row) for row in rows}
    for row, meta, own in zip(owners.tolist(), wanted.tolist(), maps, strict=True):
        found.pictures.append(pictures[row])
        found.grids.append(own.reshape(encoder.grid) / max(float(own.sum()), 1e-30))
        box = None
        if truth is not None:
            window = _window(files, encoder, row)
            box = _box_of(truth[str(files.table["pano_id"].iloc[row])], metas[meta], window)
        absent = " (not there)" if truth is not None and box is None else ""
        found.captions.append(f"{metas[meta]} {scores[row, meta]:.0%}{absent}")
        found.boxes.append(box)
    return found


def _ground_truth(files: Run) -> dict | None:
    """What can truly be seen in each panorama; None where nobody knows."""
    from geocbm.data.ground_truth import has_ground_truth, load_ground_truth

    folder = Path(files.table.attrs["folder"])
    return load_ground_truth(folder) if has_ground_truth(folder) else None


def _window(files: Run, encoder: ImageEncoder, row: int) -> Box:
    """The part of a picture that the model sees."""
    from geocbm.data import image_files
    from geocbm.data.images.pictures import open_picture
    from geocbm.explain.boxes import crop_window

    return crop_window(encoder, open_picture(image_files(files.table.iloc[[row]])[0]).size)


def _box_of(scene: dict, name: str, window: Box) -> Box | None:
    """The largest box of a concept in what the model sees of a scene; None where it sees none."""
    from geocbm.explain.boxes import boxes_in_window

    boxes = [one.get("boxes") or [one["box"]] for one in scene["concepts"] if one["meta_name"] == name]
    seen = boxes_in_window([box for some in boxes for box in some], window) if boxes else np.zeros((0, 4))
    if not len(seen):
        return None
    x0, y0, x1, y1 = max(seen.tolist(), key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    return x0, y0, x1, y1

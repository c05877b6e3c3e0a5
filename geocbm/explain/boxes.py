"""Concept boxes: where concepts truly are, as the model's crop and its grid of patches see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geocbm.data import image_files
from geocbm.data.ground_truth import has_ground_truth, load_ground_truth
from geocbm.data.images.pictures import open_picture
from geocbm.encoders.preprocessing import crop_window
from geocbm.errors import ParameterError

if TYPE_CHECKING:
    from geocbm.encoders import ImageEncoder
    from geocbm.run import Run

Box = tuple[float, float, float, float]

EDGE = 0.02
"""A box must reach this far into a patch, in sides of a patch, to meet it: boxes are stored with four decimals."""

SAMPLES = 8  # places per side of a patch at which the covered area is looked up


@dataclass(frozen=True)
class ConceptBoxes:
    """Pictures and concepts that can truly be seen in them, one pair a line."""

    position: np.ndarray  # [n] of the picture among the rows that were asked for
    row: np.ndarray  # [n] of the table
    meta: np.ndarray  # [n] the concept
    labelled: np.ndarray  # [n] whether it is the picture's label
    largest: np.ndarray  # [n, 4] its largest box x0, y0, x1, y1 in parts of what the model sees
    touched: np.ndarray  # [n, P] patches that a box of the concept meets
    centred: np.ndarray  # [n, P] patches whose middle lies in a box
    inside: np.ndarray  # [n, P] share of each patch that lies in the boxes

    def __len__(self) -> int:
        return len(self.row)

    @property
    def chance(self) -> np.ndarray:
        """`[n]` probability that a patch drawn at random is met by a box."""
        return self.touched.mean(axis=1)

    def at(self, chosen: np.ndarray) -> ConceptBoxes:
        """Some of the pairs, by mask or position."""
        return ConceptBoxes(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    def box(self, row: int, meta: int) -> Box | None:
        """The largest box of a concept in a picture; None where the model sees none."""
        found = self.largest[(self.row == row) & (self.meta == meta)]
        return tuple(found[0].tolist()) if len(found) else None


def boxes_in_window(boxes: Sequence[Sequence[float]], window: Box) -> np.ndarray:
    """Boxes in parts of a picture as boxes in parts of a window of it, `[m, 4]`; those outside are left out."""
    x0, y0, x1, y1 = window
    given = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    moved = (given - [x0, y0, x0, y0]) / [x1 - x0, y1 - y0, x1 - x0, y1 - y0]
    moved = moved.clip(0.0, 1.0)
    return moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])]


def covered_patches(boxes: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches `[P]` that boxes `[m, 4]` meet, whose middle they hold, and the share of each patch that lies in them."""
    n_rows, n_columns = grid
    touched, centred = np.zeros(grid, dtype=bool), np.zeros(grid, dtype=bool)
    fine = np.zeros((n_rows * SAMPLES, n_columns * SAMPLES), dtype=bool)
    for x0, y0, x1, y1 in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        touched |= _between(y0, y1, n_rows, EDGE)[:, None] & _between(x0, x1, n_columns, EDGE)
        centred |= _holds(y0, y1, n_rows)[:, None] & _holds(x0, x1, n_columns)
        fine |= _holds(y0, y1, n_rows * SAMPLES)[:, None] & _holds(x0, x1, n_columns * SAMPLES)
    inside = fine.reshape(n_rows, SAMPLES, n_columns, SAMPLES).mean(axis=(1, 3))
    return touched.reshape(-1), centred.reshape(-1), inside.reshape(-1)


def _between(low: float, high: float, count: int, edge: float) -> np.ndarray:
    """Which of `count` equal steps of the way from 0 to 1 an interval meets by more than `edge` of a step."""
    steps = np.arange(count)
    # What is thinner than the edge still meets the step that holds it.
    edge = min(edge, (high - low) * count / 4)
    return (low * count < steps + 1 - edge) & (high * count > steps + edge)


def _holds(low: float, high: float, count: int) -> np.ndarray:
    """Of which of `count` equal steps of the way from 0 to 1 an interval holds the middle."""
    middles = (np.arange(count) + 0.5) / count
    return (low <= middles) & (middles <= high)


def concept_boxes(run: Run, encoder: ImageEncoder, rows: np.ndarray) -> ConceptBoxes | None:
    """Some pictures with every concept in the part that the model sees; None without ground truth of where they are.

    Raises:
        ParameterError: a box has no four ends.
    """
    folder = run.table.attrs["folder"]
    if not has_ground_truth(folder):
        return None
    truth, names = load_ground_truth(folder), {name: i for i, name in enumerate(run.concepts.metas)}
    pano_id, label, paths = run.table["pano_id"].to_numpy(), run.meta_and_parent[0], image_files(run.table)
    windows: dict[tuple[int, int], Box] = {}
    found, largest, covers = [], [], []
    for position, row in enumerate(np.asarray(rows, dtype=np.int64).tolist()):
        size = open_picture(paths[row]).size
        if size not in windows:
            windows[size] = crop_window(encoder, size)
        for concept in truth[pano_id[row]]["concepts"]:
            meta = names.get(concept["meta_name"])
            boxes = concept.get("boxes") or [concept["box"]]
            if any(len(box) != 4 for box in boxes):
                raise ParameterError(
                    f"{pano_id[row]}: a box of {concept['meta_name']!r} has no four ends; give x0 y0 x1 y1"
                )
            seen = boxes_in_window(boxes, windows[size])
            if meta is not None and len(seen):
                found.append((position, row, meta, label[row] == meta))
                largest.append(seen[np.prod(seen[:, 2:] - seen[:, :2], axis=1).argmax()])
                covers.append(covered_patches(seen, encoder.grid))
    columns = np.array(found, dtype=np.int64).reshape(-1, 4).T
    n_patches = encoder.grid[0] * encoder.grid[1]
    touched, centred, inside = (np.array([cover[i] for cover in covers]).reshape(-1, n_patches) for i in range(3))
    corners = np.array(largest).reshape(-1, 4)
    return ConceptBoxes(columns[0], columns[1], columns[2], columns[3] > 0, corners, touched > 0, centred > 0, inside)

"""Layout of tokens: which of a model's outputs are patches, and where in the picture each of them lies.

Models mix patches with class, register, pooled and detection tokens, put channels first or last, and may leave their
tokens in the order of windows. None of that is read from a list of names: the possible layouts follow from the shape
of the output, and a position test decides. One bright patch in a grey picture must change the token of its own cell
most; a model of which that is not true would give maps that mean nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Cell = tuple[int, int]

MOST_OTHER_TOKENS = 104
"""Most tokens that are no patches; detectors add 100."""

_SPOTS = ((0.1, 0.7), (0.3, 0.1), (0.5, 0.5), (0.7, 0.9), (0.9, 0.3))
"""Where the bright patch is put, as shares of height and width; rows and columns are uncorrelated."""

_FEWEST_TO_TELL = 4
"""Patches from which on the position test can tell them from other tokens."""

_LEAST_CORRELATION = 0.3
"""Of the place of a patch with the centre of what it changes on a map, mean of both axes."""

_NEAR_SHARE = 0.5
"""A neighbour may change more than the cell itself, by this factor, where receptive fields overlap."""


class TokenLayout(NamedTuple):
    """Where the patches are in the output of a model."""

    rows: int
    columns: int
    first: int = 0  # tokens in front of the patches; 0 for maps
    form: str = "sequence"  # (B, N, w); "channels_first" (B, w, H, W) or "channels_last" (B, H, W, w)

    @property
    def size(self) -> int:
        """Number of patches."""
        return self.rows * self.columns

    def patches(self, hidden: Tensor) -> Tensor:
        """The tokens of patches, row by row from the top left, (B, rows * columns, w)."""
        if self.form == "channels_first":
            return hidden.flatten(2).transpose(1, 2)
        if self.form == "channels_last":
            return hidden.flatten(1, 2)
        return hidden[:, self.first : self.first + self.size]


def _possible_layouts(shape: Sequence[int], height: int, width: int) -> list[TokenLayout]:
    """Every layout that an output of this shape could have for a picture of this size, the likeliest first."""
    if len(shape) == 4:
        first = TokenLayout(shape[2], shape[3], 0, "channels_first")
        last = TokenLayout(shape[1], shape[2], 0, "channels_last")
        # Cells of a map are about as tall as they are wide.
        return [map_ for map_ in (first, last) if abs(map_.columns - map_.rows * width / height) <= 1]
    if len(shape) != 3:
        return []
    n = shape[1]
    grids = {
        (rows, columns)
        for rows in range(1, n + 1)
        for columns in {math.floor(rows * width / height), math.ceil(rows * width / height)}
        if columns and max(0, n - MOST_OTHER_TOKENS) <= rows * columns <= n
    }
    layouts: list[TokenLayout] = []
    for rows, columns in sorted(grids, key=lambda grid: -grid[0] * grid[1]):
        others = n - rows * columns
        if others and rows * columns < _FEWEST_TO_TELL:
            continue
        # Tokens that are no patches stand in front, or one of them does and the rest behind.
        layouts += [TokenLayout(rows, columns, first) for first in dict.fromkeys((others, 0, min(others, 1)))]
    return layouts


def find_layout(
    encode: Callable[[Tensor], Tensor], shape: Sequence[int], dark: Tensor, bright: Tensor
) -> TokenLayout | None:
    """Choose the layout of an output that passes the position test; None for tokens on no grid, or in another order.

    `encode` makes the output of pixels (B, 3, H, W); `dark` and `bright` are plain pictures (3, H, W).
    """
    layouts = _possible_layouts(shape, *dark.shape[-2:])
    for _, alike in itertools.groupby(layouts, key=lambda layout: (layout.rows, layout.columns, layout.form)):
        group = list(alike)
        rows, columns = group[0][:2]
        cells = list(dict.fromkeys((int(y * rows), int(x * columns)) for y, x in _SPOTS))
        pictures = _bright_patches(dark, bright, group[0], cells)
        hidden = encode(torch.cat([dark[None], pictures, noise_between(dark, bright)[None]]))
        changes = (hidden[1:] - hidden[:1]).float()
        for layout in group:
            has_others = layout.form == "sequence" and shape[1] > layout.size
            moved = layout.patches(changes).norm(dim=-1)  # (n + 1, P)
            # Every patch must answer to noise: cells that a model never fills stay as they are.
            is_alive = bool(moved[-1].min() > 1e-5 * moved[-1].max())
            if is_alive and _passes(layout, moved[:-1], cells, has_others):
                return layout
    return None


def _bright_patches(dark: Tensor, bright: Tensor, layout: TokenLayout, cells: Sequence[Cell]) -> Tensor:
    """Pictures that are bright in one cell each and dark elsewhere, (len(cells), 3, H, W)."""
    height, width = dark.shape[-2:]
    pictures = dark.repeat(len(cells), 1, 1, 1)
    for picture, (row, column) in zip(pictures, cells, strict=True):
        rows = slice(row * height // layout.rows, (row + 1) * height // layout.rows)
        columns = slice(column * width // layout.columns, (column + 1) * width // layout.columns)
        picture[:, rows, columns] = bright[:, rows, columns]
    return pictures


def noise_between(dark: Tensor, bright: Tensor) -> Tensor:
    """A picture that has something to tell at every place, (3, H, W)."""
    share = torch.rand(dark.shape[-2:], generator=torch.Generator().manual_seed(0)).to(dark)
    return dark + share * (bright - dark)


def _passes(layout: TokenLayout, changes: Tensor, cells: Sequence[Cell], has_others: bool) -> bool:
    """Whether bright patches light up at their own places, told by how far the tokens moved, (n, rows * columns).

    In a sequence with other tokens most patches must light up at their very cell, lest one token too many be skipped;
    in a sequence of patches alone a neighbour will do, because receptive fields overlap. A map keeps its order by
    construction, and its fields may cover the whole picture: there the centre of the light must follow the patch.
    """
    if not bool(torch.isfinite(changes).all()) or not bool((changes.amax(dim=1) > 0).all()):
        return False
    # A token that answers to every patch says nothing about places.
    relative = changes / (changes.mean(dim=0) + 0.1 * changes.mean())
    light = relative.unflatten(1, (layout.rows, layout.columns))
    if layout.form != "sequence":
        if min(layout.rows, layout.columns) <= 2:  # too small to tell a place; and the shape leaves no choice
            return True
        along = [_correlation(light.amax(dim=2 - axis), [cell[axis] for cell in cells]) for axis in (0, 1)]
        return sum(along) / 2 > _LEAST_CORRELATION
    right = 0
    for change, (row, column) in zip(light, cells, strict=True):
        most = divmod(int(change.argmax()), layout.columns)
        distance = max(abs(most[0] - row), abs(most[1] - column))
        near = not has_others and distance <= 1 and bool(change[row, column] >= _NEAR_SHARE * change.max())
        right += int(distance == 0 or near)
    return right > 0.7 * len(cells)


def _correlation(light: Tensor, places: Sequence[int]) -> float:
    """How well the centre of the light along one axis, (n, length), follows the patches: Pearson's coefficient."""
    weight = (light - light.amin(dim=1, keepdim=True)).square() + 1e-9
    centre = (weight * torch.arange(light.shape[1], device=light.device)).sum(dim=1) / weight.sum(dim=1)
    pair = torch.stack([centre, torch.tensor(places, dtype=light.dtype, device=light.device)])
    return float(torch.corrcoef(pair)[0, 1].nan_to_num())

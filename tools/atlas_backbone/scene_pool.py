"""Pictures, captions and boxes for pretraining, rendered once from worlds other than the one of the demonstration.

Each world of the pool gives concepts to countries in its own random way, so that what a model learns from the pool is
what a thing looks like and what it is called, never where it stands.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import geocbm_atlas
from geocbm.errors import MismatchError, ParameterError
from geocbm.files import atomic_path, read_json, sha256_file, sha256_text, write_json

if TYPE_CHECKING:
    from geocbm_atlas.world import World

MAX_VISIBLE = 16
CHUNK = 250
CAPTIONS_PER_SCENE = 3


@dataclass(frozen=True)
class PoolAnnotations:
    """What is known of the pictures of a pool, in their order.

    Attributes:
        metas: names of the concepts, the columns that `concept` counts.
        parents: names of the parent concepts.
        meta_to_parent: index of the parent of each meta, (k_m,).
        concept: meta of each visible concept, -1 where there are fewer, (n, MAX_VISIBLE).
        box: its box (x0, y0, x1, y1) as parts of the picture, (n, MAX_VISIBLE, 4).
        labelled: the concept a person would have written down, (n,).
        country: country of each scene.
        captions: sentences per scene.
    """

    metas: tuple[str, ...]
    parents: tuple[str, ...]
    meta_to_parent: np.ndarray
    concept: np.ndarray
    box: np.ndarray
    labelled: np.ndarray
    country: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.labelled)

    def save(self, path: Path) -> None:
        """Write to a compressed NumPy archive, whole or not at all."""
        with atomic_path(path) as temporary:
            columns: dict[str, Any] = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
            np.savez_compressed(temporary, **columns)

    @classmethod
    def load(cls, path: Path) -> PoolAnnotations:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            found = {field.name: archive[field.name] for field in fields(cls)}
        for name in ("metas", "parents", "country"):
            found[name] = tuple(found[name].tolist())
        found["captions"] = tuple(tuple(sentences) for sentences in found["captions"].tolist())
        return cls(**found)

    def presence(self) -> np.ndarray:
        """Whether each meta, then each parent, is visible: bool, (n, k_m + k_p)."""
        n, k = len(self), len(self.metas)
        table = np.zeros((n, k + len(self.parents)), dtype=bool)
        rows, places = np.nonzero(self.concept >= 0)
        found = self.concept[rows, places]
        table[rows, found] = True
        table[rows, k + self.meta_to_parent[found]] = True
        return table


@dataclass(frozen=True)
class ScenePool:
    """Pictures with their annotations.

    Attributes:
        pictures: uint8, (n, H, W, 3); usually a memory map.
        notes: what is in them.
    """

    pictures: np.ndarray
    notes: PoolAnnotations

    def __len__(self) -> int:
        return len(self.pictures)


def patch_targets(
    concept: np.ndarray, box: np.ndarray, meta_to_parent: np.ndarray, n_parents: int, grid: int, cover: float = 0.4
) -> np.ndarray:
    """Which concepts each patch shows.

    A patch shows a concept if the box and the patch share at least the part `cover` of the smaller of the two.

    Args:
        concept: metas, -1 for none, (B, V).
        box: their boxes as parts of the picture, (B, V, 4).
        meta_to_parent: parent of each meta, (k_m,).
        n_parents: number of parents.
        grid: patches along a side.
        cover: part of the smaller of box and patch that must be shared.

    Returns:
        bool, (B, grid * grid, k_m + n_parents), patches row by row.
    """
    edges = np.arange(grid) / grid
    x0, y0, x1, y1 = (box[..., i, None] for i in range(4))  # each (B, V, 1)
    across = np.clip(np.minimum(x1, edges + 1 / grid) - np.maximum(x0, edges), 0, None)  # (B, V, grid)
    down = np.clip(np.minimum(y1, edges + 1 / grid) - np.maximum(y0, edges), 0, None)
    shared = down[..., :, None] * across[..., None, :]  # (B, V, grid, grid)
    area = np.clip((x1 - x0) * (y1 - y0), 1e-9, None)[..., None]
    shown = shared >= cover * np.minimum(area, 1 / grid**2)
    n_metas = len(meta_to_parent)
    targets = np.zeros((len(concept), grid * grid, n_metas + n_parents), dtype=bool)
    for place in range(concept.shape[1]):
        rows = np.flatnonzero(concept[:, place] >= 0)
        found = concept[rows, place]
        patches = shown[rows, place].reshape(len(rows), grid * grid)
        targets[rows, :, found] |= patches
        targets[rows, :, n_metas + meta_to_parent[found]] |= patches
    return targets


def simulator_digest() -> str:
    """Hash of the sources that decide what a scene looks like and is called."""
    simulator = Path(geocbm_atlas.__file__).parent
    sources = [file for file in sorted(simulator.glob("*.py")) if file.stem not in {"dataset", "__init__"}]
    sources.append(Path(__file__).with_name("captions.py"))
    return sha256_text("".join(f"{file.name} {sha256_file(file)}\n" for file in sources))


def render_pool(
    n_scenes: int,
    worlds: Sequence[tuple[int, str | int]],
    seed: int,
    size: int,
    folder: Path,
    workers: int = 2,
) -> ScenePool:
    """Render scenes of several worlds in turn.

    Args:
        n_scenes: number of pictures; each world gives an equal, contiguous share.
        worlds: `(seed, assignment)` of each world, as for `World.create`.
        seed: of the scenes; scene i depends on (seed, i) alone, whatever the number of workers.
        size: side of the pictures, pixels.
        folder: where the pool is written, made if need be: `pictures.npy`, `notes.npz`, `pool.json`. A pool that is
            already there, of the same arguments and the same simulator, is used as it is.
        workers: processes.

    Raises:
        ParameterError: if there are fewer scenes than worlds.
        MismatchError: if the folder holds another pool.
    """
    from geocbm_atlas.facts import META_TO_PARENT

    if not worlds or n_scenes < len(worlds):
        raise ParameterError(
            f"n_scenes = {n_scenes} leaves some of the {len(worlds)} worlds without a scene: raise it."
        )
    metas = tuple(META_TO_PARENT)
    parents = tuple(dict.fromkeys(META_TO_PARENT.values()))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pictures.npy"
    key = {"n_scenes": n_scenes, "worlds": [list(world) for world in worlds], "seed": seed, "size": size}
    key["simulator"] = simulator_digest()
    if (folder / "pool.json").exists():
        if read_json(folder / "pool.json") != key:
            raise MismatchError(f"folder = {folder} holds a pool of other scenes: empty it or name another folder.")
        return ScenePool(np.load(path, mmap_mode="r"), PoolAnnotations.load(folder / "notes.npz"))
    pictures = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n_scenes, size, size, 3))
    bounds = np.linspace(0, n_scenes, len(worlds) + 1).astype(int)
    jobs = [
        (path, world, seed, size, start, min(start + CHUNK, last))
        for world, first, last in zip(worlds, bounds[:-1], bounds[1:], strict=True)
        for start in range(first, last, CHUNK)
    ]
    if workers > 1 and len(jobs) > 1:
        # Spawned, not forked: the parent may hold threads of torch, which a fork would copy half alive.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
            parts = list(executor.map(_render_chunk, jobs))
    else:
        parts = [_render_chunk(job) for job in jobs]
    notes = PoolAnnotations(
        metas,
        parents,
        np.array([parents.index(META_TO_PARENT[meta]) for meta in metas]),
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
        tuple(country for part in parts for country in part[3]),
        tuple(captions for part in parts for captions in part[4]),
    )
    pictures.flush()
    notes.save(folder / "notes.npz")
    write_json(folder / "pool.json", key)  # last: its presence says that the rest is whole
    return ScenePool(np.load(path, mmap_mode="r"), notes)


Chunk = tuple[np.ndarray, np.ndarray, np.ndarray, list[str], list[tuple[str, ...]]]


def _render_chunk(job: tuple[Path, tuple[int, str | int], int, int, int, int]) -> Chunk:
    """Render the scenes [first, last) of one world into the memory map; give their annotations."""
    from PIL import Image

    from geocbm_atlas.draw import render
    from geocbm_atlas.facts import META_TO_PARENT
    from tools.atlas_backbone.captions import caption

    path, (world_seed, assignment), seed, size, first, last = job
    world = _world(world_seed, assignment)
    pictures = np.load(path, mmap_mode="r+")
    index = {meta: i for i, meta in enumerate(META_TO_PARENT)}
    concept = np.full((last - first, MAX_VISIBLE), -1, dtype=np.int64)
    box = np.zeros((last - first, MAX_VISIBLE, 4))
    labelled = np.zeros(last - first, dtype=np.int64)
    countries: list[str] = []
    sentences: list[tuple[str, ...]] = []
    for row in range(last - first):
        rng = np.random.default_rng([seed, first + row])
        scene = world.sample_scene(rng)
        picture, visible = render(scene, size)
        # The atlas is stored as JPEG, so the model must know its traces.
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=scene.conditions.jpeg_quality)
        pictures[first + row] = np.asarray(Image.open(buffer))
        shown = sorted(visible, key=lambda item: -item.area)[:MAX_VISIBLE]
        for place, item in enumerate(shown):
            concept[row, place] = index[item.meta_name]
            box[row, place] = item.box
        labelled[row] = index[scene.labelled]
        countries.append(scene.country)
        sentences.append(tuple(caption(visible, rng) for _ in range(CAPTIONS_PER_SCENE)))
    return concept, box, labelled, countries, sentences


@lru_cache(maxsize=1)
def _world(seed: int, assignment: str | int) -> World:
    """Make a world; a process asked for the same one again keeps it."""
    from geocbm_atlas.world import World

    return World.create(seed, assignment=assignment)

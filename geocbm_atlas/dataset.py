"""Write scenes as a data set in the schema of the workbench, with the ground truth that no real data set has."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from geocbm.errors import ParameterError
from geocbm.files import sha256_file, sha256_text, write_json
from geocbm.files.owners import owner
from geocbm.files.progress import track
from geocbm_atlas.draw import LARGEST_SIZE, SMALLEST_SIZE, VisibleConcept, render
from geocbm_atlas.facts import META_TO_SLOT
from geocbm_atlas.scene import Scene
from geocbm_atlas.world import World

VERSION = 1
"""Raised whenever the pictures or the tables change: a data set of one version is not compared with another's."""

COLUMNS = ("pano_id", "image_path", "meta_name", "parent_concept", "country", "lat", "lng", "note", "region")
ATTEMPTS = 12
_TITLE = "drawing scenes, 64 at a time:"

_NOTES: dict[str, str] = {
    "centre line": "Look at the paint: a <b>{meta}</b> runs down the road. {place}",
    "edge line": "Look at the paint: <b>{meta}</b> border the road. {place}",
    "surface": "The road itself tells: <b>{meta}</b>. {place}",
    "bollard": "Here the verge carries a <b>{meta}</b>. {place}",
    "pole": "The wires hang on a <b>{meta}</b>. {place}",
    "vegetation": "What grows here: <b>{meta}</b>. {place}",
    "ground": "The land beside the road: <b>{meta}</b>. {place}",
    "skyline": "On the horizon: <b>{meta}</b>. {place}",
    "house": "Look at the buildings: <b>{meta}</b>. {place}",
    "plate": "The car ahead wears a <b>{meta}</b>. {place}",
}


def seen_scene(world: World, seed: int, index: int, size: int = 144) -> tuple[Scene, np.ndarray, list[VisibleConcept]]:
    """Make scene number `index` of a data set; one whose labelled concept cannot be seen is drawn anew.

    Args:
        world: where it lies.
        seed: seed of the data set.
        index: number of the scene; scenes do not depend on one another.
        size: side of the picture in pixels.

    Returns:
        `(scene, picture, visible)`, the last two as `draw.render` gives them.

    Raises:
        RuntimeError: if every attempt hides the labelled concept.
    """
    rng = np.random.default_rng([seed, index])
    for _ in range(ATTEMPTS):
        scene = world.sample_scene(rng)
        picture, visible = render(scene, size)
        if any(concept.meta_name == scene.labelled for concept in visible):
            return scene, picture, visible
    raise RuntimeError(f"no scene with a visible labelled concept in {ATTEMPTS} attempts (seed {seed}, scene {index})")


def _note(scene: Scene) -> str:
    usual = "A <b>{meta}</b> stands out. {place}"
    place = f"Noted in {html.escape(scene.region)}."
    text = _NOTES.get(META_TO_SLOT[scene.labelled], usual).format(meta=html.escape(scene.labelled.lower()), place=place)
    return f"<p>{text}</p>"


def _write_scene(world: World, folder: Path, seed: int, index: int, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the picture of one scene; return its row and its ground truth."""
    from PIL import Image

    scene, picture, visible = seen_scene(world, seed, index, size)
    pano_id = f"atlas-{seed}-{index:06d}"
    image_path = f"images/{pano_id}.jpg"
    Image.fromarray(picture).save(folder / image_path, quality=scene.conditions.jpeg_quality)
    row = {
        "pano_id": pano_id,
        "image_path": image_path,
        "meta_name": scene.labelled,
        "parent_concept": scene.labelled_parent,
        "country": scene.country,
        "lat": f"{scene.lat:.6f}",
        "lng": f"{scene.lng:.6f}",
        "note": _note(scene),
        "region": scene.region,
    }
    truth = {
        "pano_id": pano_id,
        "country": scene.country,
        "region": scene.region,
        "labelled": scene.labelled,
        "concepts": [
            {
                "meta_name": concept.meta_name,
                "parent_concept": concept.parent_concept,
                "box": list(concept.box),
                "area": concept.area,
                "boxes": [list(box) for box in concept.boxes[:6]],
            }
            for concept in visible
        ],
    }
    return row, truth


def _write_share(
    world: World, folder: Path, seed: int, indices: range, size: int
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [_write_scene(world, folder, seed, index, size) for index in indices]


def write_atlas(folder: str | Path, n_scenes: int, seed: int = 0, size: int = 144, workers: int | None = None) -> Path:
    """Write a data set of scenes: `images/`, `atlas.csv`, `ground_truth.jsonl.gz`, `atlas.json`.

    Each scene has a source of chance of its own, so the files are the same bytes for any number of workers. Everything
    is written to a temporary folder that takes the place of `folder` at the end.

    Args:
        folder: where to; a data set of the atlas that is there is replaced, anything else is refused.
        n_scenes: number of scenes, at least 1.
        seed: seed of the world and of the scenes.
        size: side of the pictures in pixels.
        workers: processes; by default one per core, at most 8; small data sets use one.

    Returns:
        Path of the CSV.

    Raises:
        ParameterError: for an impossible number, or a folder that holds something else.
    """
    if n_scenes < 1:
        raise ParameterError(f"n_scenes is {n_scenes}; choose at least 1")
    if seed < 0:
        raise ParameterError(f"seed is {seed}; choose 0 or more")
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise ParameterError(f"size is {size}; choose {SMALLEST_SIZE} to {LARGEST_SIZE} pixels")
    if workers is not None and workers < 1:
        raise ParameterError(f"workers is {workers}; choose at least 1")
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and ((folder / "atlas.json").is_file() or not any(folder.iterdir()))):
        raise ParameterError(f"{folder} exists and is no data set of the atlas; choose another folder or remove it")
    workers = workers or min(8, os.cpu_count() or 1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.{owner()}", dir=folder.parent))
    try:
        (temporary / "images").mkdir()
        world = World.create(seed)
        shares = [range(start, min(start + 64, n_scenes)) for start in range(0, n_scenes, 64)]
        if workers == 1 or len(shares) == 1:
            made: Iterable[Any] = (_write_share(world, temporary, seed, share, size) for share in shares)
            parts = list(track(made, _TITLE, len(shares)))
        else:
            n = len(shares)
            # Processes are spawned, not forked: forking a process that runs torch threads can hang.
            with ProcessPoolExecutor(min(workers, n), mp_context=get_context("spawn")) as pool:
                made = pool.map(_write_share, [world] * n, [temporary] * n, [seed] * n, shares, [size] * n)
                parts = list(track(made, _TITLE, n))
        _write_tables(temporary, [entry for part in parts for entry in part], seed, size)
        temporary.chmod(0o755)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / "atlas.csv"


def _write_tables(folder: Path, entries: list[tuple[dict[str, Any], dict[str, Any]]], seed: int, size: int) -> None:
    """Write the CSV, the ground truth and the description."""
    with (folder / "atlas.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row, _ in entries)
    lines = "".join(json.dumps(truth, ensure_ascii=False) + "\n" for _, truth in entries)
    buffer = io.BytesIO()
    with gzip.GzipFile(
        fileobj=buffer, mode="wb", filename="", mtime=0
    ) as packed:  # no time stamp: same bytes each time
        packed.write(lines.encode())
    (folder / "ground_truth.jsonl.gz").write_bytes(buffer.getvalue())
    digest = sha256_text(sha256_file(folder / "atlas.csv") + sha256_text(lines))
    write_json(
        folder / "atlas.json",
        {"seed": seed, "n": len(entries), "size": size, "version": VERSION, "digest": digest, "simulated": True},
    )


def _replace(temporary: Path, folder: Path) -> None:
    """Put the finished folder in its place; the old one goes only when the new one is whole."""
    if not folder.exists():
        temporary.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.{owner()}", dir=folder.parent))
    folder.rename(old / "data")
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)

"""How many scenes of the atlas one core samples and draws in a second.

Run: `python benchmarks/atlas_render.py [--scenes 300] [--size 144]`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from geocbm_atlas.draw import render
from geocbm_atlas.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--size", type=int, default=144)
    arguments = parser.parse_args()
    start = time.perf_counter()
    world = World.create(seed=0)
    print(f"world: {time.perf_counter() - start:.2f} s")
    rng = np.random.default_rng(0)
    start, used = time.perf_counter(), time.process_time()
    scenes = [world.sample_scene(rng) for _ in range(arguments.scenes)]
    print(f"sampling: {arguments.scenes / (time.perf_counter() - start):.0f} scenes/s")
    start, used = time.perf_counter(), time.process_time()
    for scene in scenes:
        render(scene, arguments.size)
    wall, processor = time.perf_counter() - start, time.process_time() - used
    print(f"drawing at {arguments.size} px: {arguments.scenes / wall:.1f} scenes/s by the clock,", end=" ")
    print(f"{arguments.scenes / processor:.1f} scenes per second of processor time")


if __name__ == "__main__":
    main()

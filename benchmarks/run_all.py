"""Run all benchmarks, one after the other, and write what they print into one block of RESULTS.md.

Run `python -m benchmarks.run_all`, or name some of them: `python -m benchmarks.run_all stage2_step gallery`. Each is a
process of its own, so that none inherits the memory or the threads of the one before. The block is written between two
marks, anew after each benchmark; what people wrote around it stays. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from geocbm.files import atomic_path

NAMES = (
    "stage2_step",
    "stage0_epoch",
    "stage1_epoch",
    "geocells",
    "table",
    "gallery",
    "feature_store",
    "stage2_memory",
    "atlas_render",
    "evaluation",
    "predict",
)
RESULTS = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- output of run_all: begin -->", "<!-- output of run_all: end -->"


def printed(name: str) -> str:
    """What one benchmark prints, in Markdown; a failure is reported in its place."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    lines = done.stdout.strip()
    if done.returncode:
        lines += f"\nFAILED: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
    took = time.perf_counter() - started
    return f"### {name}\n\n`python -m benchmarks.{name}`, {took:.0f} s\n\n```text\n{lines.strip()}\n```\n"


def write_block(file: Path, sections: list[str]) -> None:
    """Put sections between the two marks of a file, which are added at its end if they are not there."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    block = f"{BEGIN}\n\nRun on {date.today().isoformat()}.\n\n" + "\n".join(sections) + f"\n{END}"
    if BEGIN in text and END in text:
        text = text[: text.index(BEGIN)] + block + text[text.index(END) + len(END) :]
    else:
        text = f"{text.rstrip()}\n\n{block}\n".lstrip()
    with atomic_path(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all of them by default")
    parser.add_argument("--into", type=Path, default=RESULTS, help="file to write the block into")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    sections: list[str] = []
    for name in given.names or NAMES:
        sections.append(printed(name))
        print(sections[-1], flush=True)
        write_block(given.into, sections)


if __name__ == "__main__":
    main()

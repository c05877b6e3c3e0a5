"""Run the campaigns of reliability: ``python -m tests.soak [NAME ...] [--count N] [--seed S]``.

Each campaign leaves a row in ``tests/soak/results/NAME.json``; ``tests/RELIABILITY.md`` is written from the rows.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import inspect
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.soak.trial import Trial

FULL = {"kills": 40, "work": 25, "disks": 40, "damaged": 336, "tables": 3500, "pictures": 500, "injections": 60}
"""The campaigns and how many trials each has in full."""
RESULTS = Path(__file__).parent / "results"
_KEEP = 10.0  # seconds after which the row of a campaign under way is written again
PAGE = Path(__file__).parents[1] / "RELIABILITY.md"
_TITLE = """# Reliability

What was tried to break the workbench, and what held. `make soak` runs all of it again (over an hour on two
cores) and writes this page; a few trials of each campaign are part of `make test` (`tests/soak/test_soak.py`).

| campaign | tried | held | what is promised | made again by | on | minutes |
|---|--:|--:|---|---|---|--:|
"""


def run(name: str, count: int, seed: int, folder: Path) -> int:
    """Carry out a campaign, with a line that moves; its row is kept as it goes, what did not hold is printed.

    Returns:
        How many trials did not hold.
    """
    module = importlib.import_module(f"tests.soak.{name}")
    promise, _, drawn = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    tried, held, failures = Counter[str](), Counter[str](), list[Trial]()
    began = kept = time.monotonic()

    def keep(complete: bool) -> None:
        row = {
            "campaign": name,
            "promise": " ".join(promise.split()),
            "drawn": " ".join(drawn.split()),
            "command": f"python -m tests.soak {name} --count {count} --seed {seed}",
            "complete": complete,
            "tried": tried.total(),
            "held": held.total(),
            "kinds": {kind: [tried[kind], held[kind]] for kind in sorted(tried)},
            "failures": [{"what": each.what, "seen": each.seen.replace(str(folder), "FOLDER")} for each in failures],
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "minutes": round((time.monotonic() - began) / 60, 1),
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(row, indent=1, sort_keys=True) + "\n")

    for trial in module.campaign(count, seed, folder):
        tried[trial.kind] += 1
        held[trial.kind] += trial.held
        if not trial.held:
            failures.append(trial)
            print(f"\r{name}: did not hold: {trial.what}\n    {trial.seen}", file=sys.stderr, flush=True)
        line = f"{name} {tried.total()}/{count}  held {held.total()}  {trial.what}"[:118]
        print(f"\r{line:<118}", end="" if sys.stdout.isatty() else "\n", flush=True)
        if time.monotonic() - kept > _KEEP:
            keep(complete=False)
            kept = time.monotonic()
    print(flush=True)
    keep(complete=True)
    return len(failures)


def write_page() -> None:
    """Write the page from the rows there are."""
    rows = [json.loads(file.read_text()) for name in FULL if (file := RESULTS / f"{name}.json").is_file()]
    lines = []
    for row in rows:
        stopped = "" if row.get("complete", True) else " (stopped before its end)"
        lines.append(
            f"| {row['campaign']} | {row['tried']:,}{stopped} | {row['held']:,} | {row['promise']} "
            f"| `{row['command']}` | {row['date']} | {row['minutes']:g} |\n"
        )
    parts = [_TITLE, *lines]
    for row in rows:
        kinds = "; ".join(f"{kind} {held} of {tried}" for kind, (tried, held) in row["kinds"].items())
        parts.append(f"\n## {row['campaign'].capitalize()}\n\n{row['drawn']}\n\nHeld: {kinds}.\n")
        if row["failures"]:
            parts.append("\nDid not hold:\n\n")
            parts += [f"- {each['what']}: {' '.join(each['seen'].split())}\n" for each in row["failures"]]
    PAGE.write_text("".join(parts))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for.

    Returns:
        1 if anything did not hold.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(FULL)}; by default all")
    parser.add_argument("--count", type=int, help="trials of each campaign; by default the full number")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument(
        "--folder", type=Path, help="keep the projects here; the undisturbed chain in it is not made again"
    )
    asked = parser.parse_args(arguments)
    if strange := set(asked.names) - set(FULL):
        parser.error(f"there is no campaign {min(strange)!r}; the campaigns are: {', '.join(FULL)}")
    there = [name for name in FULL if (Path(__file__).parent / f"{name}.py").is_file()]
    lost = 0
    with tempfile.TemporaryDirectory(prefix="geocbm-soak-", ignore_cleanup_errors=True) as own:
        folder = asked.folder or Path(own)
        for name in asked.names or there:
            lost += run(name, asked.count or FULL[name], asked.seed, folder.absolute() / name)
            write_page()
    print(f"{PAGE.name}: {lost} did not hold" if lost else f"{PAGE.name}: everything held")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())

"""The generated world of a profile as the chain's first step: drawn when its table is missing or out of date."""

import json
import math
import sys
from pathlib import Path

from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import owners, paths, progress, read_json_or_empty, write_json
from geocbm.workbench import keys, process
from geocbm.workbench.parameters import Parameter, coerce
from geocbm.workbench.profiles import profile_names, read_profile
from geocbm.workbench.stages import Chain
from geocbm.workbench.status_line import StatusLine

_ATLAS_KEYS = ("scenes", "seed", "size")
_LABEL = f"[--] {'atlas':<22}"


def atlas_request(chain: Chain, csv: str | None) -> tuple[Path, dict[str, int]] | None:
    """The folder and the ``scenes``, ``seed`` and ``size`` of the profile's world that a table belongs to.

    None for any other table, such as one of a world that was drawn in the same place with ``geocbm atlas make``.

    Raises:
        MissingInputError: If the table is not there and no profile says how to draw it.
    """
    if not csv or (place := paths.locate(csv)).name != "atlas.csv" or place.parents[1] != paths.data_root() / "atlas":
        return None
    folder, name = place.parent, place.parent.name
    draw = f"geocbm atlas make --out {paths.portable(folder)}"
    if name not in profile_names():
        missing = f"{paths.portable(place)} does not exist; draw a world of your own there with: {draw}"
    else:
        world = chain.atlas | read_profile(name).atlas
        if strange := set(world) - set(_ATLAS_KEYS):
            known = ", ".join(_ATLAS_KEYS)
            raise ParameterError(f"atlas of profile {name!r}: {min(strange)!r} is unknown; known: {known}")
        if "scenes" in world:
            numbers = {key: Parameter(f"atlas.{key}", "int", value, "") for key, value in sorted(world.items())}
            return folder, {key: coerce(number.default, number) for key, number in numbers.items()}
        missing = (
            f"profile {name!r} does not say how many scenes its atlas has; add `atlas: scenes:` to it, or draw the "
            f"world with: {draw}"
        )
    if not place.exists():
        raise MissingInputError(missing)
    return None


def why(chain: Chain, csv: str | None) -> str | None:
    """Why the world must be drawn (again), or None when it need not be, or the table is the user's own.

    Raises:
        ParameterError: If another world was drawn by hand in the place of the profile's; it is not replaced.
    """
    found = atlas_request(chain, csv)
    if found is None:
        return None
    folder, world = found
    if not (stamp := read_json_or_empty(folder / "made.json")):
        _keep_own(folder, world)
        return "there is no atlas yet"
    if not (folder / "atlas.csv").is_file() or keys.digest_file(folder / "atlas.csv") != stamp.get("csv"):
        return "its table is gone or was changed"
    if len(list((folder / "images").glob("*"))) != stamp.get("images"):
        return "images were added or removed"
    if stamp.get("world") != world:
        return f"it was made with {json.dumps(stamp.get('world'))}, now it is {json.dumps(world)}"
    return "the simulator's code changed" if stamp.get("sources") != _simulator() else None


def _simulator() -> dict[str, str]:
    """Digests of the code that draws a world."""
    return keys.source_digests(["import geocbm_atlas.dataset"])


def _keep_own(folder: Path, wanted: dict[str, int]) -> None:
    """Refuse to draw over a world that the chain has not made, unless it is the very one that is wanted."""
    there = read_json_or_empty(folder / "atlas.json")
    own = {"scenes": there.get("n"), "seed": there.get("seed"), "size": there.get("size")}
    if None not in own.values() and own != wanted:  # else there is no whole world
        raise ParameterError(
            f"{paths.portable(folder)} holds a world that was drawn by hand with {json.dumps(own)}, where the profile "
            f"wants {json.dumps(wanted)}; move it to another folder and name its table with --set "
            "01.csv=FOLDER/atlas.csv, or remove it"
        )


def make(chain: Chain, csv: str | None, limit: float | None) -> bool:
    """Draw the world of a table in a process of its own, of at most `limit` seconds, when it must be drawn.

    False when it failed; what the process said is on the terminal then.
    """
    found = atlas_request(chain, csv)
    if found is None:
        return True
    folder, world = found
    with owners.only_one(folder.parent / f".{folder.name}.lock", f"the atlas {folder.name!r}"):
        reason = why(chain, csv)
        if reason is None:
            print(f"{_LABEL} skipped (unchanged)", flush=True)
            return True
        arguments = [f"--{key}={value}" for key, value in world.items()]
        with owners.scratch_folder() as place:
            status = Path(place) / "status.json"
            line = StatusLine(_LABEL, "[--]", status)
            outcome = process.run_limited(
                [sys.executable, "-m", "geocbm", "atlas", "make", "--out", str(folder), "--force", *arguments],
                paths.project_root(),
                process.child_environment(paths.as_environment() | {progress.STATUS: str(status)}),
                limit or math.inf,
                line,
            )
        if outcome.code != 0 or outcome.timed_out:
            line.end(f"failed after {outcome.seconds:.1f} s")
            ended = f"geocbm: the atlas was not drawn: its process ended with {outcome.cause}"
            print(outcome.tail.strip() or ended, file=sys.stderr)
            return False
        made = {
            "world": world,
            "sources": _simulator(),
            "csv": keys.digest_file(folder / "atlas.csv"),
            "images": len(list((folder / "images").glob("*"))),
        }
        write_json(folder / "made.json", made)
        line.end(f"{outcome.seconds:6.1f} s  (ran: {reason})")
        return True

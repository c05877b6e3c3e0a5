"""How a run stands: which of its stages are as they were made, which were changed by hand, and which are stale."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geocbm.errors import UserError
from geocbm.files import read_json_or_empty, write_json
from geocbm.workbench import keys
from geocbm.workbench.stages import NUMBER_GLOB, Chain, Stage, read_chain

DONE, PARTLY, NOT_YET, CHANGED, STALE = "done", "partly", "not yet", "changed by hand", "stale"


@dataclass(frozen=True)
class StageState:
    """How one stage of a run stands.

    It is `done`; `partly` or `not yet` where files are missing; `changed by hand` where its files are not the ones that
    the chain left; `stale` where it was made from files that the run no longer has.
    """

    state: str
    reason: str = ""  # for the last two

    @property
    def wrong(self) -> bool:
        """Whether its files cannot be trusted to belong to the run."""
        return self.state in (CHANGED, STALE)


def run_states(folder: Path, chain: Chain | None = None) -> dict[str, StageState]:
    """State of every stage of the run in a folder, which need not exist, by its number, in the order of execution."""
    chain = chain or read_chain()
    any_stamp = any((folder / "stamps").glob(f"{NUMBER_GLOB}.json"))
    states = {stage.number: _own_state(stage, folder, any_stamp) for stage in chain.stages}
    for stage in chain.stages:
        wrong = [each.number for each in chain.feeders(stage) if each != stage and states[each.number].state == STALE]
        if wrong and states[stage.number].state == DONE:
            states[stage.number] = StageState(STALE, f"{', '.join(wrong)} is stale")
    return states


def wrong_states(folder: Path) -> dict[str, StageState]:
    """Stages of a run that were changed by hand or are stale, by their numbers; none where there are no notebooks."""
    try:
        return {number: each for number, each in run_states(folder).items() if each.wrong}
    except UserError:
        return {}


def remark(folder: Path) -> str:
    """One sentence on what of a run was changed by hand or is stale, with the command that mends it; or nothing."""
    wrong = wrong_states(folder)
    if not wrong:
        return ""
    from geocbm.workbench import rerun_command

    told = "; ".join(f"{number} {each.state} ({each.reason})" for number, each in sorted(wrong.items()))
    command = rerun_command.remedy(folder, min(wrong))
    return f"run {folder.name!r} is not as it was made: {told}; make it right with: {command}"


def difference(recorded: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Parameters that are not the recorded ones, in words; empty when all are."""
    changed = [
        f"{name}={value!r} instead of {recorded[name]!r}"
        for name, value in values.items()
        if name != "run" and name in recorded and recorded[name] != value
    ]
    return _listed(changed, 4)


def note_by_hand(stage: Stage, folder: Path, values: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Note that a notebook was run to its end outside of the chain; `inputs` are `own_inputs` as it began.

    Returns in what its result differs from the one that the chain left; empty when in nothing, or when there was none.
    """
    file = keys.hand_file(folder, stage.number)
    stamp = _success(folder, stage.number)
    outputs = keys.digests(keys.written_files(stage, folder))
    if stamp and _kept(stamp, stage) == outputs:
        file.unlink(missing_ok=True)
        return ""
    # Where the chain's own execution never ended, the same parameters by hand make up for it.
    how = difference(recorded_parameters(folder, stage.number), values) or ("other files than before" if stamp else "")
    content = {"parameters": dict(values), "inputs": dict(inputs), "outputs": outputs}
    write_json(file, content | ({"differs": how} if how else {}))
    return how


def parameters_of(note: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters in a stamp, which may be of a stage that was only begun, or in a note of a run by hand."""
    key = note.get("key")
    finished = key.get("parameters") if isinstance(key, dict) else None
    return dict(finished or note.get("asked") or note.get("parameters") or {})


def recorded_parameters(folder: Path, number: str) -> dict[str, Any]:
    """Parameters with which the chain has run a stage, or has begun to; empty when it has not."""
    return parameters_of(read_json_or_empty(keys.stamp_file(folder, number)))


def own_inputs(stage: Stage, folder: Path) -> dict[str, str]:
    """Digests of what a stage reads of its own run, as far as it is there."""
    files = sorted(file for name in stage.own_reads for file in folder.glob(name))
    return keys.digests({file.relative_to(folder).as_posix(): file for file in files})


def _own_state(stage: Stage, folder: Path, any_stamp: bool) -> StageState:
    present = [(folder / name).exists() for name in stage.promised or (stage.record,)]
    if not all(present):
        return StageState(PARTLY if any(present) else NOT_YET)
    if not stage.promised:
        return StageState(DONE)
    stamp = _success(folder, stage.number)
    hand = read_json_or_empty(keys.hand_file(folder, stage.number))
    outputs = keys.digests(keys.written_files(stage, folder))
    if stamp and _kept(stamp, stage) == outputs:
        return _fed_state(stage, folder, stamp["key"], keys.stamp_file(folder, stage.number))
    if hand and hand.get("outputs") == outputs:
        if how := hand.get("differs"):
            return StageState(CHANGED, f"its notebook was run with {how}")
        return _fed_state(stage, folder, hand, keys.hand_file(folder, stage.number))
    if stamp or hand:
        before = _kept(stamp, stage) if stamp else hand.get("outputs", {})
        changed = [name for name in sorted({*before, *outputs}) if before.get(name) != outputs.get(name)]
        return StageState(CHANGED, f"{_listed(changed)} changed since")
    return StageState(STALE, "its last run did not end") if any_stamp else StageState(DONE)


def _fed_state(stage: Stage, folder: Path, origin: Mapping[str, Any], note: Path) -> StageState:
    """State of a stage whose files are as it left them, by what it has read of the run: `origin`, written to `note`."""
    now = own_inputs(stage, folder)
    recorded = {name: digest for name, digest in origin.get("inputs", {}).items() if _matches(name, stage.own_reads)}
    changed = [name for name in recorded if now.get(name) != recorded[name]]
    # What is new behind a pattern counts when it is younger than the result; else it is the pattern that is new.
    new = [name for name in now if name not in recorded and name not in stage.reads]
    changed += [name for name in new if (folder / name).stat().st_mtime > note.stat().st_mtime]
    return StageState(STALE, f"made from another {_listed(changed)}") if changed else StageState(DONE)


def _listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _kept(stamp: Mapping[str, Any], stage: Stage) -> dict[str, str]:
    """Digests that a stamp has of the run's files; the page, and what the stage no longer writes, are none of them."""
    own = (*stage.writes, stage.record, f"remarks/{stage.number}.json")
    return {name: digest for name, digest in stamp["outputs"].items() if _matches(name, own)}


def _success(folder: Path, number: str) -> dict[str, Any]:
    """The stamp of a stage that has come to its end; else empty."""
    stamp = read_json_or_empty(keys.stamp_file(folder, number))
    return stamp if isinstance(stamp.get("key"), dict) and isinstance(stamp.get("outputs"), dict) else {}

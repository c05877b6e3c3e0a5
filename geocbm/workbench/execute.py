"""One notebook of the chain in a process of its own, and what it leaves: page, stamp and manifest, or a traceback.

The child is ``python -m geocbm.workbench.execute JOB.json``. The job names the notebook, the output, the parameters and
the limit; the outcome is written beside it, so that the parent needs neither papermill nor a kernel in its own process.
"""

import math
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geocbm import errors
from geocbm.errors import UserError
from geocbm.files import (
    engine,
    lineage,
    owners,
    paths,
    progress,
    read_json,
    read_json_or_empty,
    remove_if_possible,
    said_when_unwritable,
    write_json,
)
from geocbm.workbench import keys, process, records, rerun_command
from geocbm.workbench.notebook import IN_CHAIN
from geocbm.workbench.stages import Stage
from geocbm.workbench.status_line import Console, StatusLine, last_seconds
from geocbm.workbench.sync import write_pair

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TRACEBACK_LINES = 30
SILENCE = 1800.0
"""Seconds without a finished cell, an output or a step of progress after which a stage counts as hanging."""


class StageFailed(Exception):
    """A stage did not end well; what it said is on the terminal already."""


def label(stage: Stage) -> str:
    """How lines on the terminal begin: number and title of the stage, in columns."""
    return f"[{stage.number}] {stage.title:<22}"


def forget_trainings(stage: Stage, run: str) -> None:
    """Let the checkpoints of a stage be what no training takes over, so that it trains again.

    What the stage writes tells which checkpoints are its own.
    """
    folder = paths.run_folder(run)
    own = {name.split(".")[0].rstrip("*_") for name in stage.writes if name.startswith("stage")}
    for stem in sorted(own):
        for file in folder.glob(f"{stem}*.json"):
            if file.stem.endswith(lineage.ADOPTED):
                continue  # of another run
            content = read_json_or_empty(file)  # what is damaged is never taken over
            if content.pop("training", None) is not None:
                write_json(file, content)


@dataclass(frozen=True)
class Surroundings:
    """What the stages of one command share.

    Attributes:
        console: where their lines are written.
        engine: text of the engine whose workers encode pictures, empty for what the environment says.
    """

    console: Console
    engine: str


def execute(
    stage: Stage,
    run: str,
    values: dict[str, Any],
    limit: float | None,
    key: dict[str, Any],
    reason: str,
    around: Surroundings,
) -> None:
    """Execute one notebook; on success leave page, stamp and manifest, on failure the failed copy and its traceback.

    After `limit` seconds it is ended, and without a limit when it says nothing for `SILENCE` seconds. `key` is what the
    result depends on (`keys.compute`), `reason` why it is executed.

    Raises:
        StageFailed: If it failed, took too long or did not write what it promised.
        Stopped: If the chain ends.
    """
    folder, report, profile = paths.run_folder(run), paths.report_folder(run), key["profile"]
    with said_when_unwritable(report):
        report.mkdir(parents=True, exist_ok=True)
    temporary = report / f".{stage.notebook}.running.ipynb"
    failed_copy = report / f"{stage.notebook}.failed.ipynb"
    # From here until success the stage counts as never run, whatever happens to this process; what was asked for is
    # kept, so that a message can name the command that asks for it again.
    write_json(keys.stamp_file(folder, stage.number), {"profile": profile, "asked": key["parameters"]})
    rerun_command.record(folder, profile)
    started = records.now()
    try:
        with owners.scratch_folder() as scratch:
            job, status = Path(scratch) / "job.json", Path(scratch) / "status.json"
            content = {
                "source": str(stage.source),
                "notebook": str(Path(scratch) / f"{stage.notebook}.ipynb"),
                "output": str(temporary),
                "parameters": values,
                "cwd": str(paths.project_root()),
                "timeout": limit,
            }
            write_json(job, content)
            silence, last = math.inf if limit else SILENCE, last_seconds(run, profile, stage.number)
            line = StatusLine(label(stage), f"[{stage.number}]", status, [temporary], silence, last, around.console)
            outcome = process.run_limited(
                [sys.executable, "-m", "geocbm.workbench.execute", str(job)],
                paths.project_root(),
                process.child_environment(
                    # What its kernel leaves in the temporary folder goes with it, whatever ends it.
                    paths.as_environment()
                    | {IN_CHAIN: "1", progress.STATUS: str(status), "TMPDIR": scratch}
                    | ({engine.ENGINE: around.engine} if around.engine else {}),
                    2 if stage.beside else 1,  # however many jobs: sums hang on how many threads add them up
                ),
                limit + 60 if limit else math.inf,  # the cell's own limit comes first: it leaves a better message
                line,
            )
            result = _result(job.with_suffix(".result.json"), outcome, limit)
        if result["status"] == "ok":
            result = _promised(run, stage) or result
        stamp = records.stage_stamp(stage, run, key, values, started, outcome.seconds, outcome.peak_bytes)
        final = report / f"{stage.notebook}.ipynb" if result["status"] == "ok" else failed_copy
        if temporary.is_file() and temporary.stat().st_size:
            try:
                records.stamp_notebook(temporary, final, stamp | {"reason": reason}, values)
            except (ValueError, UserError):  # only half of it was written: the disk is full, or closed since
                if result["status"] == "ok":
                    raise
        if result["status"] != "ok":
            stamp |= {"error": f"{result['kind']}: {result['message']}"}
            records.write_stage(run, profile, stage.number, stamp, "failed", reason)
            line.end(f"failed after {outcome.seconds:.1f} s  (ran: {reason})")
            around.console.break_line()
            _tell(stage, result, failed_copy)
            raise StageFailed(stage.notebook)
    finally:
        remove_if_possible(temporary)
    failed_copy.unlink(missing_ok=True)
    made = keys.digests(keys.output_files(stage, folder))
    records.write_stage(run, profile, stage.number, stamp | {"outputs": made}, "fresh", reason)
    keys.hand_file(folder, stage.number).unlink(missing_ok=True)
    write_json(keys.stamp_file(folder, stage.number), {"key": key, "outputs": made, "profile": profile})
    line.end(f"{outcome.seconds:6.1f} s  (ran: {reason})")
    say_remarks(stage, run, around.console)


def say_remarks(stage: Stage, run: str, console: Console) -> None:
    """Print what a stage's notebook has to say to whoever runs it, whether it was executed or taken over."""
    for remark in records.read_remarks(run, stage.number):
        console.say(f"     beware: {remark}")


def _result(file: Path, outcome: process.Outcome, limit: float | None) -> dict[str, Any]:
    """What the child said, or what must have happened when it could not say anything."""
    if outcome.timed_out:
        said = f"it took more than {limit:g} s" if limit else f"it gave no sign of life for {SILENCE:g} s"
        advice = "" if limit else "; if it needs so long for one step, give it a limit of its own: --timeout SECONDS"
        return {"status": "timeout", "kind": "timeout", "message": f"{said} and was ended{advice}"}
    try:
        return dict(read_json(file))
    except (OSError, ValueError):
        interrupted = outcome.code == -signal.SIGINT
        return {
            "status": "failed",
            "kind": "crash",
            "message": f"its process ended with {outcome.cause}",
            "traceback": [] if interrupted else outcome.tail.splitlines(),
        }


def _promised(run: str, stage: Stage) -> dict[str, Any] | None:
    """A failure when the notebook ended well without writing what it promised."""
    folder = paths.run_folder(run)
    missing = [name for name in (*stage.promised, stage.record) if not (folder / name).is_file()]
    if not missing:
        return None
    message = f"it ended without writing {', '.join(missing)}; does it call nb.finish()?"
    return {"status": "failed", "kind": "incomplete", "message": message}


def _tell(stage: Stage, result: dict[str, Any], kept: Path) -> None:
    """Print why a stage failed: one sentence for a user's error, the end of the traceback for anything else."""
    kind, message = result["kind"], result["message"]
    known = getattr(errors, kind, None)
    lines = [line for text in result.get("traceback") or [] for line in _COLOURS.sub("", text).splitlines()]
    for_user = isinstance(known, type) and issubclass(known, UserError)
    if not for_user and len(lines) > 1:
        print("\n".join(lines[-_TRACEBACK_LINES:]), file=sys.stderr)
    print(f"geocbm: {stage.notebook}: {message if for_user else f'{kind}: {message}'}", file=sys.stderr)
    if kept.is_file():
        print(f"geocbm: the notebook as far as it came: {paths.portable(kept)}", file=sys.stderr, flush=True)


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Execute one notebook with papermill.

    The job is that of `execute`; the outcome has a ``status`` (``ok``, ``failed`` or ``timeout``) and, unless it is ok,
    ``kind``, ``message`` and ``traceback``.
    """
    import logging

    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    # The script is the source of truth: a pair that lags behind it must not be what is executed.
    write_pair(Path(job["source"]), Path(job["notebook"]))
    try:
        papermill.execute_notebook(
            job["notebook"],
            job["output"],
            parameters=job["parameters"],
            kernel_name="python3",
            cwd=job["cwd"],
            progress_bar=False,
            execution_timeout=int(job["timeout"]) if job["timeout"] else None,
            start_timeout=120,
        )
    except papermill.PapermillExecutionError as failure:
        if failure.ename == "KeyboardInterrupt":
            return {"status": "failed", "kind": "interrupt", "message": "its kernel was interrupted"}
        return {
            "status": "failed",
            "kind": failure.ename,
            "message": str(failure.evalue),
            "traceback": list(failure.traceback),
        }
    except CellTimeoutError:
        return {"status": "timeout", "kind": "timeout", "message": f"a cell took more than {job['timeout']} s"}
    except DeadKernelError:
        message = "the kernel died; most often the machine ran out of memory"
        return {"status": "failed", "kind": "DeadKernelError", "message": message, "traceback": [message]}
    except OSError as problem:
        try:
            with said_when_unwritable(Path(job["output"])):
                raise problem
        except UserError as sentence:
            return {"status": "failed", "kind": type(sentence).__name__, "message": str(sentence)}
    return {"status": "ok"}


def main(arguments: list[str]) -> int:
    """Read the job, execute it, and write ``<job>.result.json``."""
    process.end_with_parent()
    job_file = Path(arguments[0])
    write_json(job_file.with_suffix(".result.json"), run_job(read_json(job_file)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

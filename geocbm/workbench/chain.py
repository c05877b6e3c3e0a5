"""The chain: every notebook headless, in order, skipped when nothing it depends on has changed."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import atomic_path, paths, read_json, write_json
from geocbm.workbench import demo_data, execute, keys, process, profiles, records, settings, state
from geocbm.workbench.parameters import Parameter, did_you_mean
from geocbm.workbench.stages import NUMBER_GLOB, Chain, Stage, read_chain

DEFAULT_TIMEOUT = 1800.0


@dataclass(frozen=True)
class Request:
    """What ``geocbm run`` was asked for.

    Attributes:
        profile: name of a profile.
        recipe: name of a recipe; by default the one that the profile names, if any.
        run: name of the run; by default the profile's, with the recipe's behind it when one is given.
        settings: ``[NN.]name=value``.
        grid: ``[NN.]name=value,value``; every combination is a run of its own that takes over unchanged stages.
        only: numbers of the stages to look at; all when empty.
        start: number of the first stage to look at.
        reuse: runs whose results are taken over for every stage that depends on the very same things.
        force: run them whether or not anything changed.
        dry_run: say what would run and why, and do nothing.
        timeout: limit of a stage in seconds; by default the chain file's, the profile's, or half an hour.
        render: make the pages at the end.
    """

    profile: str = "demo"
    recipe: str | None = None
    run: str | None = None
    settings: tuple[str, ...] = ()
    grid: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    start: str | None = None
    reuse: tuple[str, ...] = ()
    force: bool = False
    dry_run: bool = False
    timeout: float | None = None
    render: bool = True


@dataclass
class _Run:
    """One run under way: what is resolved, and what has happened."""

    name: str
    profile: profiles.Profile
    chain: Chain
    values: dict[str, dict[str, Any]]
    request: Request
    siblings: Sequence[str] = ()
    ran: int = 0

    @property
    def csv(self) -> str | None:
        """The table that the first notebook reads."""
        return self.values[self.chain.stages[0].number].get("csv")

    def timeout(self, stage: Stage) -> float:
        """Limit of a stage in seconds."""
        return self.request.timeout or stage.timeout or self.profile.timeout or DEFAULT_TIMEOUT


def run_chain(request: Request) -> int:
    """Execute what was asked for and render the pages.

    Returns:
        0, or 1 when a stage failed.

    Raises:
        UserError: If the request cannot be carried out; no kernel has been started then.
    """
    named = f"{request.profile}-{request.recipe}" if request.recipe else request.profile
    name = paths.check_run_name(request.run or named)
    chain = read_chain()
    profile = profiles.read_profile(request.profile)
    if request.recipe:
        profile = replace(profile, recipe=request.recipe)
    declared = settings.read_declared(chain)
    selected = _selected(chain, request)
    wanted = settings.grid_runs(request.grid, name) or [(name, [])]
    # Everything is resolved before anything starts, so that a mistyped value of the last run costs no time.
    runs = [
        _Run(each, profile, chain, _values(chain, declared, profile, request, each, extra), request)
        for each, extra in wanted
    ]
    # Another recipe shares what comes before its options with the profile's own run.
    done: list[str] = [name] if request.grid else [request.profile] if request.recipe else []
    done += _reused(request.reuse, {run.name for run in runs})
    failed = False
    index: Path | None = None
    for run in runs:
        run = replace(run, siblings=tuple(done))
        if len(runs) > 1:
            print(f"run {run.name}")
        if request.dry_run:
            _explain(run, selected)
            continue
        with process.only_one(paths.run_folder(run.name) / ".lock", f"run {run.name!r}"):
            try:
                _execute_all(run, selected)
            except execute.StageFailed:
                failed = True
            records.merge(run.name)
            done.append(run.name)
            if request.render:
                index = _render(run, failed)
        if failed:
            break
    if index is not None:
        print(f"report: {index}")
    return 1 if failed else 0


def _values(
    chain: Chain,
    declared: dict[str, dict[str, Parameter]],
    profile: profiles.Profile,
    request: Request,
    run: str,
    extra: Sequence[str],
) -> dict[str, dict[str, Any]]:
    return settings.resolve_all(chain, declared, profile, [*request.settings, *extra], run)


def _selected(chain: Chain, request: Request) -> list[Stage]:
    """Stages to look at, in order of execution."""
    if request.only and request.start:
        raise ParameterError("--only and --from exclude one another; give one of them")
    only = [number.strip() for text in request.only for number in text.split(",") if number.strip()]
    for number in [*only, *([request.start] if request.start else [])]:
        chain.stage(number)
    if only:
        return [stage for stage in chain.stages if stage.number in only]
    if request.start:
        first = chain.stages.index(chain.stage(request.start))
        return list(chain.stages[first:])
    return list(chain.stages)


def _reused(names: Sequence[str], own: set[str]) -> list[str]:
    """The runs whose results may be taken over.

    Raises:
        ParameterError: If one has no results, or is the run itself.
    """
    known = sorted(folder.parent.name for folder in (paths.data_root() / "runs").glob("*/stamps"))
    for name in names:
        if name in own:
            raise ParameterError(f"--reuse {name} is the run itself; name another one, or the new run with --run")
        if name not in known:
            hint = did_you_mean(name, known)
            raise ParameterError(f"--reuse {name}: there is no such run; {hint}Runs: {', '.join(known) or 'none'}")
    return list(names)


def _explain(run: _Run, selected: Sequence[Stage]) -> None:
    """Say for each stage whether it would run, and why."""
    dirty: set[str] = set()
    for stage in selected:
        if stage is run.chain.stages[0] and (atlas := demo_data.why(run.chain, run.csv)):
            print(f"[--] {'atlas':<22} would run   ({atlas})")
            dirty.add("atlas")
        waits = [
            other.number for other in run.chain.stages if other.number in dirty and keys.feeds(run.chain, other, stage)
        ]
        if "atlas" in dirty and stage is run.chain.stages[0]:
            waits.append("atlas")
        try:
            key = keys.compute(run.chain, stage, run.name, run.profile.name, run.values[stage.number])
            reason = keys.stale_reason(keys.read_stamp(stage, run.name), key, keys.output_digests(stage, run.name))
        except MissingInputError as missing:
            reason = f"after {', '.join(waits)}" if waits else str(missing)
            dirty.add(stage.number)
            print(f"{execute.label(stage)} {'would run  ' if waits else 'cannot run '} ({reason})")
            continue
        if run.request.force:
            reason = "forced"
        if reason and not run.request.force and (source := _twin(run, stage, key)):
            dirty.add(stage.number)
            print(f"{execute.label(stage)} would be taken over from run {source} (the same key)")
        elif reason:
            dirty.add(stage.number)
            print(f"{execute.label(stage)} would run   ({reason})")
        elif waits:
            dirty.add(stage.number)
            print(f"{execute.label(stage)} may run     (if {', '.join(waits)} makes something else than before)")
        else:
            print(f"{execute.label(stage)} would be skipped (unchanged)")


def _execute_all(run: _Run, selected: Sequence[Stage]) -> None:
    """Bring every selected stage up to date, in order."""
    for stage in selected:
        limit = run.request.timeout or run.profile.timeout or DEFAULT_TIMEOUT
        if stage is run.chain.stages[0] and not demo_data.make(run.chain, run.csv, limit):
            raise execute.StageFailed("atlas")
        key = keys.compute(run.chain, stage, run.name, run.profile.name, run.values[stage.number])
        stamp = keys.read_stamp(stage, run.name)
        reason = keys.stale_reason(stamp, key, keys.output_digests(stage, run.name))
        if run.request.force:
            reason = "forced"
            execute.forget_trainings(stage, run.name)
        if reason is None:
            print(f"{execute.label(stage)} skipped (unchanged)", flush=True)
            records.write_stage(run.name, run.profile.name, stage.number, None, "skipped", "unchanged")
        elif not run.request.force and (source := _twin(run, stage, key)):
            _take_over(run, stage, source)
            print(f"{execute.label(stage)} taken over from run {source} (the same key)", flush=True)
            execute.say_remarks(stage, run.name)
        else:
            values, limit = run.values[stage.number], run.timeout(stage)
            execute.execute(stage, run.name, run.profile.name, values, limit, key, reason)
            run.ran += 1


def _twin(run: _Run, stage: Stage, key: dict[str, Any]) -> str | None:
    """Another run of the same grid whose result for this stage has the very same key and is still whole."""
    for name in run.siblings:
        if name == run.name:
            continue
        if keys.stale_reason(keys.read_stamp(stage, name), key, keys.output_digests(stage, name)) is None:
            return name
    return None


def _take_over(run: _Run, stage: Stage, source: str) -> None:
    """Copy what another run made (hard links where the disk allows: files are replaced, never changed in place)."""
    taken = keys.output_files(stage, source)
    for name, file in keys.output_files(stage, run.name).items():
        if name not in taken:
            file.unlink()  # left by an execution with other parameters
    for name, file in taken.items():
        folder = paths.report_folder if name == f"{stage.notebook}.ipynb" else paths.run_folder
        with atomic_path(folder(run.name) / name) as temporary:
            temporary.unlink()
            try:
                os.link(file, temporary)
            except OSError:
                shutil.copyfile(file, temporary)
    stamp = keys.read_stamp(stage, source) or {}
    manifest = read_json(paths.report_folder(source) / "manifest.json")
    entry = dict(manifest.get("stages", {}).get(stage.number) or {})
    records.write_stage(run.name, run.profile.name, stage.number, entry, "taken over", f"the same as in run {source}")
    state.hand_file(paths.run_folder(run.name), stage.number).unlink(missing_ok=True)
    write_json(keys.stamp_file(stage, run.name), stamp)


def _render(run: _Run, failed: bool) -> Path | None:
    """Make the pages when something ran or they are not there; return the index of the run."""
    index = paths.report_folder(run.name) / "index.html"
    if not (run.ran or failed or not index.is_file()):
        return index
    if not any(paths.report_folder(run.name).glob(f"{NUMBER_GLOB}_*.ipynb")):
        return None
    from geocbm.workbench import report

    index = report.render_run(run.name)
    report.render_site()
    return index

"""The chain: every notebook headless, in order, skipped when nothing it depends on has changed."""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from geocbm.errors import MissingInputError, ParameterError, did_you_mean
from geocbm.files import atomic_path, engine, link_or_copy, owners, paths, read_json_or_empty, write_json
from geocbm.workbench import demo_data, execute, keys, names, profiles, records, rerun_command, settings
from geocbm.workbench.stages import NUMBER_GLOB, Chain, Stage, read_chain
from geocbm.workbench.status_line import Console

_TICK = 0.1  # seconds between looks at the stages under way
Profile = Annotated[
    str, typer.Option(help="Parameter file in notebooks/params.", autocompletion=profiles.profile_names)
]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="Options from notebooks/recipes; by default the profile's.", autocompletion=profiles.recipe_names
    ),
]
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="[STAGE.]NAME=VALUE",
        help="Set a parameter; may be repeated.",
        autocompletion=names.assignments,
    ),
]


def _above_zero(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1e9:
        raise typer.BadParameter(f"{value:g} is no number of seconds above 0")
    return value


def _checked_engine(text: str) -> str:
    return engine.checked(text) if text else text


class Request(NamedTuple):
    """Execute the notebooks in order and render the pages.

    \b
    Examples:
      geocbm run --profile smoke
      geocbm run --profile demo --set stage2.lr=0.0003 --run slower
      geocbm run --grid 05.ablation_mode=both,concept_only --from 05
      geocbm run --run demo --only geocells,06 --dry-run
    """  # noqa: D301 (the fields are the options of the command, this is its help: \b keeps lines as they are)

    profile: Profile = "demo"
    recipe: Recipe = None
    run: Annotated[
        str | None,
        typer.Option(
            help="Name of the run (files: data/runs/NAME); by default the profile's.", autocompletion=names.runs
        ),
    ] = None
    settings: Settings = []  # noqa: RUF012 (never changed)
    grid: Annotated[
        list[str],
        typer.Option(
            metavar="[STAGE.]NAME=A,B",
            help="One run for each value; repeated: all combinations.",
            autocompletion=names.assignments,
        ),
    ] = []  # noqa: RUF012
    only: Annotated[
        list[str],
        typer.Option(
            metavar="STAGE[,STAGE]", help="Look at these stages only, by number or name.", autocompletion=names.stages
        ),
    ] = []  # noqa: RUF012
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="STAGE", help="Look at this stage and the ones after it.", autocompletion=names.stages
        ),
    ] = None
    reuse: Annotated[
        list[str],
        typer.Option(
            metavar="RUN", help="Take over what RUN has made from the same things.", autocompletion=names.runs
        ),
    ] = []  # noqa: RUF012
    force: Annotated[bool, typer.Option("--force", help="Run stages whether or not anything changed.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why, and do nothing.")] = False
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            callback=_above_zero,
            help="Limit of a stage, in place of half an hour without a sign of life.",
        ),
    ] = None
    engine: Annotated[
        str,
        typer.Option(
            metavar="ENGINE",
            callback=_checked_engine,
            help="Encode pictures on workers: loky:N processes here, or dask://HOST:PORT.",
        ),
    ] = ""
    jobs: Annotated[
        int, typer.Option(min=1, help="Pages that do not read one another are made so many at a time; memory for each.")
    ] = 2
    no_render: Annotated[bool, typer.Option("--no-render", help="Leave the pages alone.")] = False


@dataclass
class _Run:
    """One run under way: what is resolved, and what has happened."""

    name: str
    profile: profiles.Profile
    chain: Chain
    values: dict[str, dict[str, Any]]
    request: Request
    siblings: Sequence[str] = ()  # runs whose results may be taken over
    ran: int = 0

    @property
    def folder(self) -> Path:
        """Folder of the run's files."""
        return paths.run_folder(self.name)

    @property
    def csv(self) -> str | None:
        """The table that the first notebook reads."""
        return self.values[self.chain.stages[0].number].get("csv")

    def timeout(self, own: float | None = None) -> float | None:
        """Limit in seconds of a stage that may have one of its own; None where only silence is limited."""
        return self.request.timeout or own or self.profile.timeout

    def decide(self, stage: Stage) -> tuple[dict[str, Any], str | None, str | None]:
        """The stage's key, why it must run (None when it need not), and the run that has the same result whole."""
        key = keys.compute(self.chain, stage, self.folder, self.profile.name, self.values[stage.number])
        if self.request.force:
            return key, "forced", None
        reason = keys.stale_reason(stage, self.folder, key)
        for name in self.siblings if reason else ():
            if name != self.name and keys.stale_reason(stage, paths.run_folder(name), key) is None:
                return key, reason, name
        return key, reason, None


def run_chain(request: Request) -> int:
    """Execute what was asked for and render the pages; 0, or 1 when a stage failed.

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
    # Everything is resolved before anything starts, so that a mistyped value of the last run costs no time.
    runs = []
    for each, extra in settings.grid_runs(request.grid, name) or [(name, [])]:
        values = settings.resolve_all(chain, declared, profile, [*request.settings, *extra], each)
        runs.append(_Run(each, profile, chain, values, request))
    # Another recipe shares what comes before its options with the profile's own run.
    done: list[str] = [name] if request.grid else [request.profile] if request.recipe else []
    done += _reused(request.reuse, {run.name for run in runs})
    failed = False
    index: Path | None = None
    for run in runs:
        run.siblings = tuple(done)
        if len(runs) > 1:
            print(f"run {run.name}")
        if request.dry_run:
            _explain(run, selected)
            continue
        with owners.only_one(run.folder / owners.LOCK, f"run {run.name!r}"):
            _remove_leftovers(run)
            try:
                _execute_all(run, selected)
            except execute.StageFailed:
                failed = True
            records.merge(run.name)
            done.append(run.name)
            if not request.no_render:
                index = _render(run, failed)
        if failed:
            break
    if index is not None:
        print(f"report: {index}")
    return 1 if failed else 0


def _remove_leftovers(run: _Run) -> None:
    """Remove what killed processes have left; as this one holds the run's lock, no notebook of it is under way."""
    reports = paths.report_folder(run.name)
    for half in reports.glob(".*.running.ipynb"):
        half.unlink(missing_ok=True)
    within = [run.folder / name for name in ("stamps", "records", "remarks", "by_hand", "visualizations")]
    pages, cache = paths.reports_root(), paths.cache_folder()
    shared = [pages, pages / "_assets", cache, *cache.glob("*/"), paths.data_root() / "atlas"]
    owners.remove_leftovers(run.folder, *within, reports, *shared)


def _selected(chain: Chain, request: Request) -> list[Stage]:
    """Stages to look at, in order of execution."""
    if request.only and request.start:
        raise ParameterError("--only and --from exclude one another; give one of them")
    named = [name.strip() for text in request.only for name in text.split(",") if name.strip()]
    only = [chain.stage(name) for name in named]
    first = chain.stages.index(chain.stage(request.start)) if request.start else 0
    return [stage for stage in chain.stages[first:] if not only or stage in only]


def _reused(names: Sequence[str], own: set[str]) -> Sequence[str]:
    """The runs whose results may be taken over; refused where one has none, or is the run itself."""
    known = paths.runs_in(paths.data_root() / "runs", "stamps")
    for name in names:
        if name in own:
            raise ParameterError(f"--reuse {name} is the run itself; name another one, or the new run with --run")
        if name not in known:
            hint = did_you_mean(name, known)
            raise ParameterError(f"--reuse {name}: there is no such run; {hint}Runs: {', '.join(known) or 'none'}")
    return names


def _explain(run: _Run, selected: Sequence[Stage]) -> None:
    """Say for each stage whether it would run, and why."""
    first = run.chain.stages[0]
    atlas = demo_data.why(run.chain, run.csv) if first in selected else None
    if atlas:
        print(f"[--] {'atlas':<22} would run   ({atlas})")
    dirty: set[str] = set()
    for stage in selected:
        feeders = {each.number for each in run.chain.feeders(stage)}
        waits = ", ".join([each.number for each in run.chain.stages if each.number in dirty & feeders])
        if atlas and stage is first:
            waits = "atlas"
        try:
            _, reason, source = run.decide(stage)
        except MissingInputError as missing:
            said = f"would run   (after {waits})" if waits else f"cannot run  ({missing})"
            dirty.add(stage.number)
        else:
            if reason:
                dirty.add(stage.number)
            if source:
                said = f"would be taken over from run {source} (the same key)"
            elif reason:
                said = f"would run   ({reason})"
            elif waits:
                said = f"may run     (if {waits} makes something else than before)"
            else:
                said = "would be skipped (unchanged)"
        print(f"{execute.label(stage)} {said}")


def _execute_all(run: _Run, selected: Sequence[Stage]) -> None:
    """Bring every selected stage up to date: in order, and side by side where the chain allows it.

    When one fails no other begins; those under way come to their end, unless the command itself is ended.
    """
    around = execute.Surroundings(Console(), run.request.engine)
    waiting, under_way = list(selected), dict[Future[None], Stage]()
    with ThreadPoolExecutor(run.request.jobs) as pool:
        try:
            while waiting or under_way:
                while stage := _next(run, waiting, under_way.values()):
                    waiting.remove(stage)
                    if work := _work(run, stage, around):
                        under_way[pool.submit(work)] = stage
                # Not `wait`: an interrupt that comes just before it sleeps, or to another thread, would not wake it.
                while under_way and not any(future.done() for future in under_way):
                    time.sleep(_TICK)
                for ended in [future for future in under_way if future.done()]:
                    del under_way[ended]
                    ended.result()
        except execute.StageFailed:
            raise
        except BaseException:  # an interrupt, or what nobody foresaw
            around.console.stopped.set()
            raise


def _next(run: _Run, waiting: Sequence[Stage], under_way: Collection[Stage]) -> Stage | None:
    """The first stage that may begin beside those under way: all that it reads is made, and it may run beside them."""
    for place, stage in enumerate(waiting):
        busy = [*waiting[:place], *under_way]
        alone = not (stage.beside and all(other.beside for other in busy))
        if (alone and busy) or len(under_way) >= run.request.jobs:
            return None
        if not any(feeder in busy for feeder in run.chain.feeders(stage)):
            return stage
    return None


def _work(run: _Run, stage: Stage, around: execute.Surroundings) -> Callable[[], None] | None:
    """What remains to be done in a process of its own to bring a stage up to date; None when nothing does."""
    if stage is run.chain.stages[0] and not demo_data.make(run.chain, run.csv, run.timeout()):
        raise execute.StageFailed("atlas")
    key, reason, source = run.decide(stage)
    if run.request.force:
        execute.forget_trainings(stage, run.name)
    if reason is None:
        around.console.say(f"{execute.label(stage)} skipped (unchanged)")
        records.write_stage(run.name, run.profile.name, stage.number, None, "skipped", "unchanged")
    elif source:
        _take_over(run, stage, source)
        around.console.say(f"{execute.label(stage)} taken over from run {source} (the same key)")
        execute.say_remarks(stage, run.name, around.console)
    else:
        values, limit = run.values[stage.number], run.timeout(stage.timeout)
        run.ran += 1
        return partial(execute.execute, stage, run.name, values, limit, key, reason, around)
    return None


def _take_over(run: _Run, stage: Stage, source: str) -> None:
    """Copy what another run made (hard links where the disk allows: files are replaced, never changed in place)."""
    other = paths.run_folder(source)
    taken = keys.output_files(stage, other)
    for name, file in keys.output_files(stage, run.folder).items():
        if name not in taken:
            file.unlink()  # left by an execution with other parameters
    for name, file in taken.items():
        target = paths.report_folder(run.name) if name == f"{stage.notebook}.ipynb" else run.folder
        with atomic_path(target / name) as temporary:
            temporary.unlink()
            link_or_copy(file, temporary)
    manifest = read_json_or_empty(paths.report_folder(source) / "manifest.json")
    entry = dict(manifest.get("stages", {}).get(stage.number) or {})
    records.write_stage(run.name, run.profile.name, stage.number, entry, "taken over", f"the same as in run {source}")
    keys.hand_file(run.folder, stage.number).unlink(missing_ok=True)
    stamp = read_json_or_empty(keys.stamp_file(other, stage.number))
    write_json(keys.stamp_file(run.folder, stage.number), stamp)
    rerun_command.record(run.folder, run.profile.name)


def _render(run: _Run, failed: bool) -> Path | None:
    """Make the pages when something ran or they are not whole; return the index of the run."""
    index = paths.report_folder(run.name) / "index.html"
    if not (run.ran or failed) and records.pages_made(run.name):
        return index
    if not any(paths.report_folder(run.name).glob(f"{NUMBER_GLOB}_*.ipynb")):
        return None
    from geocbm.workbench import report

    index = report.render_run(run.name)
    report.render_site()
    records.mark_pages(run.name)
    return index

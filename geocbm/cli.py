"""The command ``geocbm``: a table of subcommands; each takes its arguments and returns an exit status."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from types import FrameType

from geocbm import __version__
from geocbm.errors import UserError
from geocbm.workbench import data_commands, paths
from geocbm.workbench.model_commands import configure_fit, fit
from geocbm.workbench.predict_command import configure_predict, predict

Parser = argparse.ArgumentParser
Arguments = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: its words, such as ``run`` or ``atlas make``.
        help: one line for the list of commands.
        configure: adds its arguments to its parser.
        act: does the work and returns the exit status.
    """

    name: str
    help: str
    configure: Callable[[Parser], None]
    act: Callable[[Arguments], int]


def _configure_run(parser: Parser) -> None:
    add = parser.add_argument
    add("--profile", default="demo", help="parameter file in notebooks/params (default: demo)")
    add("--recipe", help="options of the stages, from notebooks/recipes (default: what the profile names)")
    add("--run", help="name of the run; its files go to data/runs/NAME (default: the profile's name)")
    add("--set", action="append", default=[], metavar="[NN.]NAME=VALUE", help="set a parameter; may be repeated")
    add(
        "--grid",
        action="append",
        default=[],
        metavar="[NN.]NAME=A,B",
        help="one run for each value; may be repeated for all combinations",
    )
    add("--only", action="append", default=[], metavar="NN[,NN]", help="look at these stages only")
    add("--from", dest="start", metavar="NN", help="look at this stage and the ones after it")
    add("--reuse", action="append", default=[], metavar="RUN", help="take over what RUN has made from the same things")
    add("--force", action="store_true", help="run stages whether or not anything changed")
    add("--dry-run", action="store_true", help="say what would run and why, and do nothing")
    add("--timeout", type=_seconds, metavar="SECONDS", help="limit of a stage (default: 1800 unless the profile says)")
    add("--no-render", action="store_true", help="leave the pages alone")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def _run(arguments: Arguments) -> int:
    from geocbm.workbench.chain import Request, run_chain
    from geocbm.workbench.sync import unheard

    for sentence in unheard():
        print(f"geocbm: {sentence}", file=sys.stderr)
    return run_chain(
        Request(
            profile=arguments.profile,
            recipe=arguments.recipe,
            run=arguments.run,
            settings=tuple(arguments.set),
            grid=tuple(arguments.grid),
            only=tuple(arguments.only),
            start=arguments.start,
            reuse=tuple(arguments.reuse),
            force=arguments.force,
            dry_run=arguments.dry_run,
            timeout=arguments.timeout,
            render=not arguments.no_render,
        )
    )


def _configure_render(parser: Parser) -> None:
    parser.add_argument("--run", help="render this run only (default: all)")


def _render(arguments: Arguments) -> int:
    from geocbm.workbench import report

    runs = [arguments.run] if arguments.run else _rendered_runs()
    for run in runs:
        print(report.render_run(paths.check_run_name(run)))
    print(report.render_site())
    return 0


def _rendered_runs() -> list[str]:
    """Runs with at least one executed notebook."""
    return sorted({file.parent.name for file in paths.reports_root().glob("[!_.]*/[0-9][0-9]*_*.ipynb")})


def _no_arguments(parser: Parser) -> None:
    """The command takes no arguments of its own."""


def _configure_sync(parser: Parser) -> None:
    add = parser.add_argument
    add("notebooks", nargs="*", metavar="NN", help="numbers or names of notebooks (default: all)")
    add("--take", choices=("py", "ipynb"), help="keep this side of the named notebooks, whatever the other one says")


def _sync(arguments: Arguments) -> int:
    from geocbm.workbench.sync import synchronise

    done = synchronise(arguments.notebooks, arguments.take)
    for file in done.changed:
        print(f"wrote {file.name}")
    for problem in done.refused:
        print(problem, file=sys.stderr)
    if not done.changed and not done.refused:
        print("all pairs are in sync")
    return 1 if done.refused else 0


def _check(arguments: Arguments) -> int:
    from geocbm.workbench.check import check_all

    problems = check_all()
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} problems" if problems else "notebooks, chain and profiles are in order")
    return 1 if problems else 0


def _list(arguments: Arguments) -> int:
    from geocbm.files import read_json
    from geocbm.workbench import state
    from geocbm.workbench.overview import headlines

    folders = sorted(folder for folder in (paths.data_root() / "runs").glob("*") if folder.is_dir())
    if not folders:
        print("there is no run yet; make one with: geocbm run")
    for folder in folders:
        stamps = sorted((folder / "stamps").glob("*.json"))
        profile = read_json(stamps[-1]).get("profile", "?") if stamps else "?"
        figures = "; ".join(f"{row.figure} {row.value}" for row in headlines(folder.name).itertuples())
        states = [each.state for each in state.run_states(folder).values()]
        counts = [f"{states.count(state.DONE)} stages done"]
        counts += [f"{states.count(each)} {each}" for each in (state.CHANGED, state.STALE) if each in states]
        print(f"{folder.name}  (profile {profile}, {', '.join(counts)})  {figures}".rstrip())
        if warning := state.remark(folder):
            print(f"  {warning}")
    return 0


def _configure_atlas_make(parser: Parser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the new world")
    add("--scenes", type=int, default=6000, help="number of scenes (default: 6000)")
    add("--seed", type=int, default=0, help="another seed is another world (default: 0)")
    add("--size", type=int, default=144, help="side of the pictures in pixels (default: 144)")
    add("--force", action="store_true", help="replace a world that is there already")


def _atlas_make(arguments: Arguments) -> int:
    from geocbm.errors import ParameterError
    from geocbm_atlas.dataset import write_atlas

    for name, least in (("scenes", 1), ("seed", 0), ("size", 48)):
        if getattr(arguments, name) < least:
            raise ParameterError(f"--{name}={getattr(arguments, name)} is too small; give at least {least}")
    folder: Path = arguments.out
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        if not (folder / "atlas.json").is_file():
            raise ParameterError(f"--out={folder} holds something else than an atlas; give a new folder")
        if not arguments.force:
            raise ParameterError(
                f"--out={folder} holds an atlas already; give another folder, or --force to replace it"
            )
    print(write_atlas(folder, arguments.scenes, arguments.seed, size=arguments.size))
    return 0


def _configure_atlas_pretrain(parser: Parser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the new backbone")
    add("--seed", type=int, default=0, help="seed of the weights and of the order (default: 0)")
    add("--scenes", type=int, help="number of scenes to learn from")
    add("--epochs", type=float, help="passes over the scenes")
    add("--batch-size", type=int, help="scenes per step")
    add("--lr", type=float, help="learning rate at its peak")
    add("--minutes", type=float, help="stop training after this time")
    add("--start", type=Path, help="folder of an earlier backbone to go on from")


def _atlas_pretrain(arguments: Arguments) -> int:
    from geocbm_atlas.pretrain import pretrain

    chosen = {
        "n_scenes": arguments.scenes,
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "lr": arguments.lr,
        "minutes": arguments.minutes,
        "start": arguments.start,
    }
    pretrain(arguments.out, seed=arguments.seed, **{name: value for name, value in chosen.items() if value is not None})
    return 0


COMMANDS: tuple[Command, ...] = (
    Command("run", "execute the notebooks in order and render the pages", _configure_run, _run),
    Command("fit", "train one stage of a run outside a notebook", configure_fit, fit),
    Command("predict", "say where photographs were taken", configure_predict, predict),
    Command("render", "make the pages again from the executed notebooks", _configure_render, _render),
    Command("list", "name the runs and their headline figures", _no_arguments, _list),
    Command("sync", "make each .ipynb from its .py, or bring it back with --take", _configure_sync, _sync),
    Command("check", "look for problems in notebooks, chain and profiles", _no_arguments, _check),
    Command("data osv5m", "read OSV-5M into a table", data_commands.configure_osv5m, data_commands.osv5m),
    Command(
        "data im2gps3k",
        "read Im2GPS3k for evaluation",
        data_commands.configure_benchmark,
        data_commands.benchmark("im2gps3k"),
    ),
    Command(
        "data yfcc4k",
        "read YFCC4k for evaluation",
        data_commands.configure_benchmark,
        data_commands.benchmark("yfcc4k"),
    ),
    Command("data score", "score predictions against a table", data_commands.configure_score, data_commands.score),
    Command("atlas make", "draw a simulated world", _configure_atlas_make, _atlas_make),
    Command("atlas pretrain", "train the simulated world's small CLIP", _configure_atlas_pretrain, _atlas_pretrain),
)
"""All subcommands, in the order of the help text."""


def build_parser(commands: Sequence[Command] = COMMANDS) -> Parser:
    """Parser of the whole command line; a name of two words becomes a nested subcommand."""
    parser = Parser(prog="geocbm", description="Image geolocation that explains itself through concepts.")
    parser.add_argument("--version", action="version", version=f"geocbm {__version__}")
    top = parser.add_subparsers(required=True, metavar="COMMAND")
    groups: dict[str, argparse._SubParsersAction] = {}
    for command in commands:
        group, _, word = command.name.rpartition(" ")
        if group and group not in groups:
            groups[group] = top.add_parser(group, help=f"commands of the {group}").add_subparsers(
                required=True, metavar="COMMAND"
            )
        under = groups[group] if group else top
        own = under.add_parser(word, help=command.help, description=command.help.capitalize() + ".")
        command.configure(own)
        own.set_defaults(act=command.act)
    return parser


def _leave_processes(status: int) -> None:
    """End this process where a launcher started it as one of several; others go on to their ordinary end."""
    if "LOCAL_RANK" in os.environ:
        from geocbm.encoders.processes import leave_processes

        leave_processes(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        0 when all went well, 1 when a stage failed or problems were found, 2 for a request that cannot be carried
        out (with one sentence on the error stream), 130 after an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):
        # Places have letters that a console of another encoding lacks; they are written as escapes, not as an error.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parsed = build_parser().parse_args(arguments)

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # so that clean-up runs and no kernel is left behind

    before = signal.signal(signal.SIGTERM, leave)
    try:
        status = parsed.act(parsed)
        sys.stdout.flush()
        _leave_processes(status)
        return status
    except UserError as problem:
        print(f"geocbm: {problem}", file=sys.stderr)
        _leave_processes(2)
        return 2
    except KeyboardInterrupt:
        print("\ngeocbm: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        signal.signal(signal.SIGTERM, before)

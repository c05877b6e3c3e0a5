"""The command ``geocbm``: what can be asked on the command line, and how errors become one sentence and a status."""

import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NamedTuple

import typer

from geocbm import __version__
from geocbm.errors import ParameterError, UserError, did_you_mean, first_line, printable
from geocbm.files import atomic_folder, is_full, paths, said_when_unwritable
from geocbm.workbench import chain, data_commands, names

FIRST_STEPS = """geocbm: image geolocation that explains itself through concepts.

  make a run        geocbm run                                      the demonstration world
                    geocbm run --profile smoke                      the same in small, in a few minutes
  explore it        make lab (or jupyter lab, after geocbm init)    notebooks in JupyterLab, on a copy of the run
  change something  geocbm run --run wide --set geocells.min_samples_per_cell=60
                    geocbm run --grid stage2.ablation_mode=both,concept_only --dry-run
  look at results   geocbm list                                     runs, metrics and links to their pages
  ask it            geocbm predict holiday.jpg --html answer.html   also --json, --out answers.geojson

All commands: geocbm --help. One of them: geocbm run --help. Completion by the tab key: geocbm --install-completion."""
"""What one does with the command, said when it is called alone."""


_DEBUG = "--debug"
"""Stands before the subcommand."""
_LONGEST_LINE = 4000  # letters of a message; the middle of a longer one is left out


def _carry_out(result: Any, **_options: Any) -> int:
    """The status of a command; the requests that `geocbm run` and `geocbm predict` come to are carried out first."""
    if isinstance(result, PredictOptions):
        return result.carry_out()
    if not isinstance(result, chain.Request):
        return result or 0
    from geocbm.workbench.sync import unheard

    for sentence in unheard():
        print(f"geocbm: {sentence}", file=sys.stderr)
    return chain.run_chain(result)


app = typer.Typer(
    help="Image geolocation that explains itself through concepts.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    result_callback=_carry_out,
)
app.add_typer(data_commands.app, name="data")
app.add_typer(data_commands.atlas_app, name="atlas")
app.command("run")(chain.Request)  # its fields are the options, its text the help


@app.command("fit")
def fit_stage(
    stage: Annotated[Literal["stage0", "stage1", "stage2"], typer.Argument(help="Which stage to train.")],
    run: Annotated[str, typer.Option(help="Name of the run; its earlier files must exist.", autocompletion=names.runs)],
    profile: chain.Profile = "demo",
    recipe: chain.Recipe = None,
    settings: chain.Settings = [],  # noqa: B006 (typer copies it)
) -> int:
    """Train one stage of a run outside a notebook, on one process or on those of a launch.

    \b
    Examples:
      geocbm fit stage2 --run demo --set lr=0.0003
      accelerate launch --multi_gpu --num_processes 2 -m geocbm fit stage0 --run demo
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from geocbm.workbench.model_commands import fit

    return fit(stage, _known(run), profile, recipe, settings)


class PredictOptions(NamedTuple):
    """Say where photographs were taken, and through which concepts.

    \b
    Examples:
      geocbm predict holiday.jpg --html page.html
      geocbm predict photos/ --run demo --json answers.jsonl
      geocbm predict photos/ --parquet answers/ --engine loky:4
      geocbm predict holiday.jpg --clue "red-topped bollard" --not-clue "yellow plate"
    """  # noqa: D301 (the fields are the options of the command, this is its help: \b keeps lines as they are)

    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Pictures, folders, or - .")]
    run: Annotated[str, typer.Option(help="The trained run that answers.", autocompletion=names.runs)] = "demo"
    top: Annotated[int, typer.Option(help="How many places, countries and concepts to name.")] = 5
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answers too: .json, .jsonl (one a line), or - .")
    ] = None
    parquet: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the answers to this table too, or to those of a folder: FOLDER/."),
    ] = None
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with maps and pictures too.")] = None
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a table (.csv) or points for a map (.geojson) too.")
    ] = None
    attention: Annotated[bool, typer.Option("--attention", help="Keep attention and concept maps in files.")] = False
    clues: Annotated[
        list[str],
        typer.Option("--clue", metavar="NAME", help="A concept or parent that you see in them; may be repeated."),
    ] = []  # noqa: RUF012 (never changed)
    not_clues: Annotated[
        list[str], typer.Option("--not-clue", metavar="NAME", help="One that is not in them; may be repeated.")
    ] = []  # noqa: RUF012
    engine: Annotated[
        str,
        typer.Option(metavar="ENGINE", help="Workers that fill FOLDER/: loky:N processes here, or dask://HOST:PORT."),
    ] = ""

    def carry_out(self) -> int:
        """Answer, print and write."""
        from geocbm.predict.command import predict
        from geocbm.predict.inputs import PredictRequest
        from geocbm.workbench import state

        folder = paths.run_folder(_known(self.run))
        changed = state.remark(folder)
        text = self.parquet
        place: dict[str, Any] = {"parquet": None if text is None else Path(text)}
        if text is not None and (text.endswith(("/", os.sep)) or Path(text).is_dir()):
            place = {"parquet": None, "shards": Path(text)}
        asked = self._asdict() | place | {"remarks": (changed,) if changed else ()}
        return predict(PredictRequest(**asked), folder)


app.command("predict")(PredictOptions)


@app.command("export")
def export_model(
    run: Annotated[str, typer.Argument(help="A trained run.", autocompletion=names.runs)],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
) -> int:
    """Write a trained run as a model with its card, for GeoCBM.from_pretrained and the model hub.

    \b
    Example:
      geocbm export demo models/demo
    """  # noqa: D301 (click's mark for lines that stay as they are)
    paths.check_new_folder("FOLDER", folder)
    trained = paths.run_folder(_known(run))
    if not (trained / "stage2.safetensors").exists():  # before torch is imported
        from geocbm.run import Run

        Run(trained).need("stage2.safetensors")
    from geocbm.predict import GeoCBM

    with atomic_folder(folder) as temporary:
        GeoCBM.load(run).save_pretrained(temporary)
    print(f"{folder}: load it with geocbm.GeoCBM.from_pretrained({str(folder)!r})")
    return 0


@app.command("init")
def init_project(folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.")]) -> int:
    """Make a project of one's own: notebooks, profiles and settings, on the installed package.

    \b
    Example:
      geocbm init work && cd work && geocbm run --profile smoke
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from geocbm.workbench.project import make_project

    make_project(folder)
    print(f"{folder}: begin with cd {shlex.quote(str(folder))} && geocbm run --profile smoke, then jupyter lab")
    return 0


@app.command("render")
def render_pages(
    run: Annotated[
        str | None, typer.Option(help="Render this run only; by default all.", autocompletion=names.runs)
    ] = None,
) -> int:
    """Make the pages again from the executed notebooks."""
    from geocbm.workbench import report
    from geocbm.workbench.stages import NUMBER_GLOB

    for name in [run] if run else paths.runs_in(paths.reports_root(), f"{NUMBER_GLOB}_*.ipynb"):
        print(report.render_run(_known(paths.check_run_name(name))))
    print(report.render_site())
    return 0


@app.command("list")
def list_runs() -> int:
    """Show the runs: how far they are, their headline metrics and where their pages are."""
    from geocbm.workbench.overview import table_of_runs

    lines = table_of_runs()
    print("\n".join(lines) or "there is no run yet; make one with: geocbm run")
    return 0


@app.command("verify")
def verify_run(run: Annotated[str, typer.Argument(help="Name of the run.", autocompletion=names.runs)]) -> int:
    """Compare the files of a run with the digests in its manifest."""
    from geocbm.workbench.verify import verify

    looked, wrong = verify(_known(paths.check_run_name(run)))
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    print(f"{len(wrong)} of {looked} no longer match" if wrong else f"all {looked} match")
    return 1 if wrong else 0


@app.command("sync")
def sync_pairs(
    notebooks: Annotated[list[str], typer.Argument(metavar="NN...", help="Numbers or names; by default all.")] = [],  # noqa: B006
    take: Annotated[
        Literal["py", "ipynb"] | None, typer.Option(help="Keep this side, whatever the other one says.")
    ] = None,
) -> int:
    """Make each .ipynb from its .py, or bring it back with --take.

    \b
    Examples:
      geocbm sync
      geocbm sync --take ipynb 03
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from geocbm.workbench.sync import synchronise

    done = synchronise(notebooks, take)
    for file in done.changed:
        print(f"wrote {file.name}")
    for problem in done.refused:
        print(problem, file=sys.stderr)
    if not done.changed and not done.refused:
        print("all pairs are in sync")
    return 1 if done.refused else 0


@app.command("check")
def check_notebooks() -> int:
    """Look for problems in notebooks, chain and profiles."""
    from geocbm.workbench.check import check_all

    problems = check_all()
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} problems" if problems else "notebooks, chain and profiles are in order")
    return 1 if problems else 0


def _known(run: str) -> str:
    """Name of a run that should exist; a slip of the pen is answered with the nearest name.

    Raises:
        ParameterError: If there is none of this name, but one of a similar name.
    """
    runs = names.runs()
    if run not in runs and (hint := did_you_mean(run, runs)):
        raise ParameterError(f"there is no run {run!r}; {hint}The runs are: {', '.join(runs)}")
    return run


def _version(wanted: bool) -> None:
    if wanted:
        print(f"geocbm {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show where an error comes from.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(FIRST_STEPS)


_UsageError: Any = typer.BadParameter.__mro__[1]
"""What typer raises for a mistyped command line; it has no public name of its own."""


def _invoke(arguments: Sequence[str]) -> int:
    """Parse a command line and run its command; what typer would print or exit with becomes a status."""
    command = typer.main.get_command(app)
    if "_GEOCBM_COMPLETE" in os.environ:
        return command.main(list(arguments), prog_name="geocbm")
    try:
        with command.make_context("geocbm", list(arguments)) as context:
            return command.invoke(context) or 0
    except typer.Exit as left:
        return left.exit_code
    except _UsageError as problem:
        asked = problem.ctx.command_path if problem.ctx else "geocbm"
        message = problem.format_message().replace("Value error, ", "").rstrip(".")
        if message.startswith("Usage:"):  # a group without its command: the help is the answer
            print(message, file=sys.stderr)
            return 2
        raise ParameterError(f"{message}; see {asked} --help") from None


def _leave_processes(status: int) -> None:
    """End this process where a launcher started it as one of several; others go on to their ordinary end."""
    if "LOCAL_RANK" in os.environ:
        from geocbm.encoders.processes import leave_processes

        leave_processes(status)


def _say(problem: Exception, arguments: Sequence[str]) -> int:
    """Say in one sentence what went wrong, with `--debug` also where; the exit status."""
    if arguments[:1] == [_DEBUG]:
        traceback.print_exc()
    if isinstance(problem, OSError) and problem.filename and (problem.errno == errno.EROFS or is_full(problem)):
        try:  # met by something else than the writing of a file, such as its removal
            with said_when_unwritable(Path(problem.filename)):
                raise problem
        except UserError as sentence:
            problem = sentence
    for_user = isinstance(problem, UserError)
    told = str(problem) if for_user else f"{type(problem).__name__}: {first_line(problem)}"
    if not for_user and arguments[:1] != [_DEBUG]:
        told += f"; where this comes from is shown by: geocbm {_DEBUG} {' '.join(map(shlex.quote, arguments))}"
    for line in f"geocbm: {told}".split("\n"):
        print(printable(line, _LONGEST_LINE), file=sys.stderr)
    status = 2 if for_user else 3
    _leave_processes(status)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Returns:
        0 when all went well, 1 when a stage failed or problems were found, 2 for a request that cannot be carried
        out (with one sentence on the error stream), 130 after an interrupt, 3 for an error that
        nobody foresaw.
    """
    for stream in (sys.stdout, sys.stderr):
        # Places have letters that a console of another encoding lacks; they are written as escapes, not as an error.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)  # so that clean-up runs and no kernel is left behind

    ends = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What is ignored stays so: under nohup the end of the terminal is none of ours.
    before = {each: signal.signal(each, leave) for each in ends if signal.getsignal(each) is not signal.SIG_IGN}
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as `__main__` leaves it
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _invoke(arguments)
        sys.stdout.flush()
        _leave_processes(status)
        return status
    except (KeyboardInterrupt, typer.Abort):
        print("\ngeocbm: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as problem:  # what nobody foresaw: a sentence, and with --debug its traceback
        return _say(problem, arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

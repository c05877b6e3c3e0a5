"""`geocbm data ...` and `geocbm atlas ...`: public data sets and simulated worlds as tables, and predictions scored."""

import json
import sys
from collections import Counter
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from geocbm.errors import ParameterError, printable

if TYPE_CHECKING:
    from geocbm.data.public.reading import Conversion

app = typer.Typer(help="Public data sets, and scores of predictions.", rich_markup_mode=None, no_args_is_help=True)
atlas_app = typer.Typer(help="The simulated world.", rich_markup_mode=None, no_args_is_help=True)

Folder = Annotated[Path, typer.Option(help="The unpacked data set.")]
Table = Annotated[Path | None, typer.Option(metavar="CSV", help="The table to write; by default in the folder.")]
OnBad = Annotated[
    Literal["error", "drop"], typer.Option(help="Refuse bad rows and missing pictures, or leave them out.")
]
BenchmarkTable = Annotated[
    Path | None, typer.Option(help="The benchmark's CSV; by default NAME_places365.csv in the folder.")
]


@app.command("osv5m")
def read_osv5m(
    folder: Folder,
    out: Table = None,
    on_bad: OnBad = "error",
    split: Annotated[Literal["train", "test"], typer.Option(help="As published.")] = "train",
    parent: Annotated[
        Literal["land_cover", "climate", "soil", "drive_side", "road_index", "dist_sea", "all"],
        typer.Option(help="Whose values become concepts."),
    ] = "all",
    legend: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Names for codes and bands, see data/README.md.")
    ] = None,
) -> int:
    """Read OSV-5M into a table."""
    from geocbm.data.public.osv5m import convert_osv5m

    _say(convert_osv5m(folder, split, parent, out, on_bad, legend))
    return 0


@app.command("im2gps3k")
def read_im2gps3k(folder: Folder, out: Table = None, on_bad: OnBad = "error", csv: BenchmarkTable = None) -> int:
    """Read Im2GPS3k for evaluation."""
    return _read_benchmark("im2gps3k", folder, out, on_bad, csv)


@app.command("yfcc4k")
def read_yfcc4k(folder: Folder, out: Table = None, on_bad: OnBad = "error", csv: BenchmarkTable = None) -> int:
    """Read YFCC4k for evaluation."""
    return _read_benchmark("yfcc4k", folder, out, on_bad, csv)


def _read_benchmark(
    name: str, folder: Path, out: Path | None, on_bad: Literal["error", "drop"], csv: Path | None
) -> int:
    from geocbm.data.public.benchmarks import convert_benchmark

    _say(convert_benchmark(name, folder, out, on_bad, csv))
    print("for evaluation only, it has no concepts: geocbm predict PICTURES --json FILE, then geocbm data score")
    return 0


@app.command("folder")
def read_folder(folder: Annotated[Path, typer.Argument(help="Of photographs.")], out: Table = None) -> int:
    """Read a folder of photographs that carry their positions."""
    from geocbm.data.formats.photo_folder import convert_photographs

    _say(convert_photographs(folder, out))
    return 0


@app.command("import")
def import_data(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="A folder, or tar files.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder for pictures and table.")],
    on_bad: OnBad = "error",
) -> int:
    """Read shards of WebDataset, or a data set of Hugging Face, into a table and files.

    \b
    Examples:
      geocbm data import shards-{000..009}.tar --out data/mine
      geocbm data import saved_data_set --out data/mine
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from geocbm.data.formats.hub_datasets import read_dataset
    from geocbm.data.formats.records import write_records
    from geocbm.data.formats.shards import read_shards

    unread = Counter[str]()
    is_folder = len(sources) == 1 and sources[0].is_dir()
    shards = sorted(sources[0].glob("*.tar")) if is_folder else sources
    records = read_shards(shards, unread) if shards else read_dataset(sources[0], unread)
    _say(write_records(records, out, on_bad))
    if unread:
        print(f"not read: {', '.join(f'{n:,} {printable(what)}' for what, n in sorted(unread.items()))}")
    return 0


@app.command("export")
def export_data(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_TABLE", help="A run, with its splits, or a CSV.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    to: Annotated[Literal["datasets"], typer.Option(help="The library that reads it.")] = "datasets",
) -> int:
    """Write a table with its pictures as a data set of Hugging Face.

    \b
    Example:
      geocbm data export demo --to datasets published
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from geocbm.data import load_table
    from geocbm.data.concept_list import read_concept_list
    from geocbm.data.concepts import GUESSED, GUESSED_BANNER
    from geocbm.data.formats.hub_datasets import write_dataset
    from geocbm.files import paths

    paths.check_new_folder("FOLDER", folder)
    if source.lower().endswith(".csv"):
        table = load_table(source, check_images=False, concepts=read_concept_list())
    else:
        from geocbm.run import Run

        run = Run(paths.run_folder(source))
        table = run.table.assign(split="")
        for split in ("train", "val", "test"):
            table.loc[run.rows[split], "split"] = split
    write_dataset(table, folder)
    if GUESSED in table.attrs:
        print(GUESSED_BANNER)
    print(f"{folder}: {len(table):,} rows; read it with datasets.load_from_disk({str(folder)!r})")
    return 0


def _say(done: "Conversion") -> None:
    """Print what a reader wrote and left out."""
    dropped = f", {done.n_dropped:,} rows of the source left out" if done.n_dropped else ""
    print(*done.notices, f"{done.path}: {done.n_rows:,} rows, {done.n_images:,} pictures{dropped}", sep="\n")


@app.command("concepts")
def copy_concepts(file: Annotated[Path, typer.Argument(help="A new file, in YAML.")]) -> int:
    """Write the starter list of concepts to a file, to edit it; for tables without labels.

    \b
    Example:
      geocbm data concepts mine.yaml
      geocbm run --set csv=TABLE --set 01.guess_with=CLIP --set 01.concepts=mine.yaml
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from geocbm.data.concept_list import starter_text
    from geocbm.files import write_text

    if file.exists():
        raise ParameterError(f"FILE={file} is there already, and nothing is written over; give a new file")
    print(f"{write_text(file, starter_text())}: edit it, then name it with --set 01.concepts={file}")
    return 0


@app.command("score")
def score(
    csv: Annotated[Path, typer.Option(help="A table in the project's schema.")],
    predictions: Annotated[Path, typer.Option(metavar="FILE", help="File or folder from geocbm predict.")],
    resamples: Annotated[int, typer.Option(help="Of the bootstrap.")] = 1000,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the scores to this file too; - prints them.")
    ] = None,
) -> int:
    """Score predictions against a table.

    \b
    Example:
      geocbm data score --csv data/mine/table.csv --predictions answers.jsonl
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from geocbm.data import load_table
    from geocbm.data.concept_list import read_concept_list
    from geocbm.data.public.scoring import read_predictions, score_predictions, scores_in_words
    from geocbm.files import write_json
    from geocbm.metrics import recordable

    if resamples < 1:
        raise ParameterError(f"--resamples={resamples} gives no interval; give at least 1")
    answers = read_predictions(predictions)
    to_stdout = json_file == Path("-")
    with redirect_stdout(sys.stderr) if to_stdout else nullcontext():  # what the table's reader remarks is no JSON
        table = load_table(csv, check_images=False, concepts=read_concept_list())  # labels are not needed
        scores = score_predictions(table, answers, resamples)
    # Strict JSON: a metric without an interval is a number, one without a value null.
    written = {name: recordable(value) if isinstance(value, dict) else value for name, value in scores.items()}
    if to_stdout:
        print(json.dumps(written, indent=2, sort_keys=True, allow_nan=False))
        return 0
    print(scores_in_words(scores))
    if json_file:
        write_json(json_file, written)
    return 0


@atlas_app.callback()
def _atlas() -> None:
    """The simulated world."""


@atlas_app.command("make")
def make_atlas(
    out: Annotated[Path, typer.Option(help="Folder of the new world.")],
    scenes: Annotated[int, typer.Option(help="Number of scenes.")] = 6000,
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 144,
    force: Annotated[bool, typer.Option("--force", help="Replace a world that is there already.")] = False,
) -> int:
    """Draw a simulated world.

    \b
    Example:
      geocbm atlas make --out data/worlds/small --scenes 500
    """  # noqa: D301 (click's mark for lines that stay as they are)
    from geocbm.workbench import process
    from geocbm_atlas.dataset import write_atlas

    process.end_with_parent()
    for name, value, least in (("scenes", scenes, 1), ("seed", seed, 0), ("size", size, 48)):
        if value < least:
            raise ParameterError(f"--{name}={value} is too small; give at least {least}")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if not (out / "atlas.json").is_file():
            raise ParameterError(f"--out={out} holds something else than an atlas; give a new folder")
        if not force:
            raise ParameterError(f"--out={out} holds an atlas already; give another folder, or --force to replace it")
    print(write_atlas(out, scenes, seed, size=size))
    return 0

"""OSV-5M (OpenStreetView-5M), five million pictures of roads, read into the schema of this project.

The layout is that of the data set's card and loader (`osv5m/osv5m` on the Hugging Face hub): `train.csv` and
`test.csv`, and the pictures `<id>.jpg` in the zip files `images/train/00.zip` and so on. The publishers' training code
(GitHub, `gastruc/osv5m`) keeps them as `train/train.csv` and `train/train/<id>.jpg`. Both are understood, the pictures
at any depth. Paper: Astruc and others 2024, arXiv 2404.18873; the data are under CC-BY-SA-4.0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from geocbm.data.public.countries import named_countries
from geocbm.data.public.osv5m_concepts import COLUMNS, ConceptColumn, with_legend
from geocbm.data.public.reading import (
    BadRows,
    Conversion,
    check_choice,
    check_folder,
    good_rows,
    index_pictures,
    number,
    picture_paths,
    read_header,
    read_text,
)
from geocbm.data.table import SCHEMA
from geocbm.errors import BadTableError, MissingInputError, ParameterError
from geocbm.files import atomic_path

SPLITS = ("train", "test")
PARENTS = (*COLUMNS, "all")
# What the schema's own columns are made from; every other column of the source is kept under its name.
_CONSUMED = ("id", "latitude", "longitude", "country")


@dataclass
class _Counts:
    """What was met on the way through a source."""

    bad: BadRows = field(default_factory=BadRows)
    source_rows: int = 0
    good: int = 0
    written: int = 0
    images: int = 0
    unlabelled: dict[str, int] = field(default_factory=dict)
    geocoded: int = 0


def convert_osv5m(
    folder: str | Path,
    split: str = "train",
    parent: str = "all",
    out: str | Path | None = None,
    on_bad: str = "error",
    legend: str | Path | None = None,
) -> Conversion:
    """Write the CSV of this project for a split of OSV-5M.

    One row stands for one picture and one parent, so `parent="all"` gives up to six rows a picture under the same
    `pano_id`. A picture without a value for a parent has no row for it. `country` is the name of
    `metrics.country_names`, the code is kept in `country_code`; `data_set` and `split` say where a row comes from; the
    other columns are kept.

    Args:
        folder: the unpacked data set.
        split: "train" or "test", as published.
        parent: the column whose values become metas, or "all".
        out: the CSV to write; by default `osv5m_<split>_<parent>.csv` in `folder`.
        on_bad: "error" refuses a source with bad rows or missing pictures, "drop" leaves those rows out.
        legend: names for codes and bands, see `osv5m_concepts.with_legend`.

    Raises:
        MissingInputError: a folder or file is not there.
        BadTableError: a column is missing, rows are bad, or nothing is left.
        ParameterError: an argument has an impossible value, or `out` cannot be written.
    """
    check_choice("split", split, SPLITS)
    check_choice("parent", parent, PARENTS)
    check_choice("on_bad", on_bad, ("error", "drop"))
    folder = Path(folder)
    check_folder(folder, f"OSV-5M ({split}.csv and images/{split})")
    columns = with_legend(Path(legend) if legend is not None else None)
    chosen = {name: column for name, column in columns.items() if parent in (name, "all")}
    source = _table_file(folder, split)
    _check_columns(source, read_header(source), chosen)
    target = Path(out) if out is not None else folder / f"osv5m_{split}_{parent}.csv"
    if target.resolve() == source.resolve():
        raise ParameterError(f"out is {target}, the source itself; name another file.")
    pictures = _pictures(folder, split)
    counts = _Counts()
    try:
        with atomic_path(target) as temporary:
            for chunk in read_text(source):
                rows = _rows(chunk, split, chosen, pictures, target, counts)
                rows.to_csv(temporary, mode="a", header=counts.written == 0, index=False)
                counts.written += len(rows)
            if on_bad == "error":
                counts.bad.refuse(source)
            if not counts.written:
                raise BadTableError(_nothing(source, counts), counts.bad.sentences())
    except OSError as problem:
        raise ParameterError(f"out {target} cannot be written ({problem.strerror}): name another with --out.") from None
    notices = [f"{columns[name].parent}: {n} pictures have no value" for name, n in counts.unlabelled.items() if n]
    if counts.geocoded:
        notices.append(f"country: {counts.geocoded} rows without a known code were named by their coordinates")
    notices += [f"left out: {sentence}" for sentence in counts.bad.sentences()]
    dropped = counts.source_rows - counts.good
    return Conversion(target, counts.written, counts.images, dropped, tuple(notices))


def _table_file(folder: Path, split: str) -> Path:
    places = [folder / f"{split}.csv", folder / split / f"{split}.csv"]
    for place in places:
        if place.is_file():
            return place
    raise MissingInputError(
        f"There is no {split}.csv in {folder} (nor {split}/{split}.csv): OSV-5M has it beside the folder images."
    )


def _check_columns(source: Path, header: list[str], chosen: Iterable[str]) -> None:
    missing = [name for name in ("id", "latitude", "longitude", *chosen) if name not in header]
    if not {"country", "unique_country"} & set(header):
        missing.append("country")
    if missing:
        raise BadTableError(
            f"{source} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} of OSV-5M; it has "
            f"{', '.join(header)}. Choose with --parent a column that is there, or fetch the file again.",
            [f"column {name} is missing" for name in missing],
        )


def _pictures(folder: Path, split: str) -> dict[str, str]:
    roots = [root for root in (folder / "images" / split, folder / split) if root.is_dir()]
    if not roots:
        raise MissingInputError(
            f"There is no folder images/{split} in {folder}: OSV-5M has its pictures there, as NN/<id>.jpg."
        )
    found = index_pictures(roots)
    if not found:
        zipped = next((path for root in roots for path in sorted(root.rglob("*.zip"))), None)
        hint = f"unzip {zipped.name} and the others where they lie" if zipped else "expected are files NN/<id>.jpg"
        raise MissingInputError(f"There is no picture in {roots[0]}: {hint}.")
    return found


def _rows(
    chunk: pd.DataFrame,
    split: str,
    chosen: dict[str, ConceptColumn],
    pictures: dict[str, str],
    target: Path,
    counts: _Counts,
) -> pd.DataFrame:
    """Rows in the schema for some rows of the source, ordered by picture, then parent."""
    ids = chunk["id"].str.removesuffix(".0")
    ids.index = ids.index + counts.source_rows
    lat, lng = number(chunk["latitude"]), number(chunk["longitude"])
    good = good_rows(ids, lat, lng, ids.isin(pictures.keys()).to_numpy(), counts.bad)
    counts.source_rows += len(chunk)
    counts.good += int(good.sum())
    kept, lat, lng = chunk[good], lat[good], lng[good]
    ids = ids[good].set_axis(kept.index)
    codes = kept["country"] if "country" in kept else kept["unique_country"]
    if "unique_country" in kept:
        codes = codes.mask(codes == "", kept["unique_country"])
    countries, geocoded = named_countries(codes, lat, lng)
    counts.geocoded += geocoded
    base = pd.DataFrame(
        {
            "pano_id": ids,
            "image_path": picture_paths((pictures[name] for name in ids), target),
            "country": countries,
            "lat": kept["latitude"],
            "lng": kept["longitude"],
        },
        index=kept.index,
    )
    extra = kept.drop(columns=[name for name in (*_CONSUMED, *SCHEMA) if name in kept])
    extra = extra.assign(country_code=codes, data_set="osv5m", split=split)
    parts = []
    for name, column in chosen.items():
        metas = column.metas(kept[name])
        labelled = (metas != "").to_numpy()
        counts.unlabelled[name] = counts.unlabelled.get(name, 0) + int((~labelled).sum())
        note = f"{name} = " + kept[name]
        parts.append(
            base.assign(meta_name=metas, parent_concept=column.parent, note=note)[labelled].join(extra[labelled])
        )
    rows = pd.concat(parts).sort_index(kind="stable")
    counts.images += rows["image_path"].nunique()
    return rows[[*SCHEMA, *extra.columns]]


def _nothing(source: Path, counts: _Counts) -> str:
    if not counts.source_rows:
        return f"{source} has a header but no rows: fetch it again."
    reasons = counts.bad.sentences() or [f"no picture has a value for {', '.join(counts.unlabelled)}"]
    return f"Nothing is left of the {counts.source_rows} rows of {source}: {'; '.join(reasons)}."

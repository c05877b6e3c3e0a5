"""Data sets of Hugging Face: those saved to disk or as parquet are read, and tables become such data sets.

Reading takes pyarrow alone: nothing is unpickled, cached or fetched, and a path or address that stands in place of a
picture is not followed. Writing takes the library `datasets`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.data.formats.records import Record
from geocbm.data.images.photographs import ENDINGS, ending_of
from geocbm.data.table import image_files
from geocbm.errors import BadTableError, MissingInputError, ParameterError, first_line, printable
from geocbm.files import atomic_folder, read_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_AT_ONCE = 16  # rows, pictures among them


def read_dataset(folder: Path, unread: Counter[str]) -> Iterator[Record]:
    """Rows of a data set that `save_to_disk` or `to_parquet` wrote, with the names of its classes.

    The pictures are the column of `datasets.Image`, of several the one called `image`. Splits become a column `split`.
    `unread` counts the rows of further columns of bytes, which are left aside. A folder without a data set is a
    MissingInputError, one without a column of pictures, or with several, a BadTableError.
    """
    for split, file in _files(folder):
        where, row = file.relative_to(folder).as_posix(), 0
        try:
            for features, batch in _batches(file):
                image, aside = _columns_of_bytes(batch.schema, features, where)
                unread.update({f"column {name}": batch.num_rows for name in aside})
                for values in batch.drop_columns(aside).to_pylist():
                    picture = values.pop(image)
                    named = {name: _named(value, features.get(name)) for name, value in values.items()}
                    yield _record(f"{where}, row {row}", picture, {"split": split, **named} if split else named)
                    row += 1
        except BadTableError:
            raise
        except (OSError, ValueError) as error:  # pyarrow's are among them
            yield Record(where, problems=(f"the file is damaged behind row {row}: {first_line(error)}",))


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Files of a data set, each with its split."""
    found = []
    for state in sorted(folder.rglob("state.json")):  # of `save_to_disk`; other files may be left from another time
        try:
            content = read_json(state)
            own = state.parent.relative_to(folder).as_posix() if state.parent != folder else content.get("_split")
            found += [(str(own or ""), state.parent / Path(entry["filename"]).name) for entry in content["_data_files"]]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise BadTableError(f"{state} is damaged: save the data set again.") from None
    for file in [] if found else sorted(folder.rglob("*.parquet")):
        named = re.match(r"(.+?)-\d{5}-of-\d{5}", file.name)  # as the hub calls them
        found.append((named[1] if named else "", file))
    if not found:
        raise MissingInputError(
            f"There is no data set in {folder}: give a folder that Dataset.save_to_disk wrote, of parquet files, or of "
            "shards (.tar); for photographs alone there is geocbm data folder."
        )
    return found


def _batches(file: Path) -> Iterator[tuple[dict[str, Any], pa.RecordBatch]]:
    """A few rows at a time, checked, and what the library noted of the columns."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if file.suffix == ".parquet":
        with parquet.ParquetFile(file) as stored:
            for batch in stored.iter_batches(batch_size=_AT_ONCE):
                yield _features(stored.schema_arrow), batch
        return
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        for whole in stream:
            whole.validate(full=True)
            for start in range(0, whole.num_rows, _AT_ONCE):
                yield _features(stream.schema), whole.slice(start, _AT_ONCE)


def _features(schema: pa.Schema) -> dict[str, Any]:
    try:
        return dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
    except (LookupError, ValueError, TypeError):  # written by another library
        return {}


def _columns_of_bytes(schema: pa.Schema, features: dict[str, Any], where: str) -> tuple[str, list[str]]:
    """The column of pictures, and others of bytes."""
    import pyarrow as pa

    def holds_bytes(kind: pa.DataType) -> bool:
        inner = any(holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
        return inner or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    binary = [field.name for field in schema if holds_bytes(field.type)]
    images = [name for name in binary if dict(features.get(name) or {}).get("_type") == "Image"] or binary
    images = ["image"] if "image" in images else images
    if len(images) != 1:
        listed = printable(", ".join(schema.names), 1000)
        raise BadTableError(f"{where} has {len(images)} columns of pictures, of {listed}; call the one to read image")
    return images[0], [name for name in binary if name != images[0]]


def _named(value: Any, feature: Any) -> Any:
    """A value with the name of its class in place of the number."""
    if not isinstance(feature, dict):
        return value
    if isinstance(value, list):
        return [_named(part, feature.get("feature")) for part in value]
    names: Any = feature.get("names")
    is_class = isinstance(names, list) and isinstance(value, int) and value < len(names)
    return value if not is_class else names[value] if value >= 0 else None


def _record(where: str, picture: Any, columns: dict[str, Any]) -> Record:
    content, path = (picture.get("bytes"), picture.get("path")) if isinstance(picture, dict) else (picture, None)
    if not content and path:
        return Record(where, problems=("not the picture but a path is in the data set, which is not followed",))
    content, suffix = content if isinstance(content, bytes) else b"", Path(str(path)).suffix.lower()
    suffix = suffix if suffix in ENDINGS else ending_of(content)
    return Record(where, columns=columns, picture=content, suffix=suffix)


def write_dataset(table: pd.DataFrame, folder: Path) -> None:
    """Write a validated table as a data set of Hugging Face, row by row, into a new folder.

    Its column `image` holds the files as they are (`datasets.Image`), `lat` and `lng` are numbers, all else is text.
    Without the library, or a picture, that is said in one sentence.
    """
    try:
        import datasets
    except ImportError:
        raise ParameterError("this needs datasets; install it with: pip install 'geocbm[datasets]'") from None
    files = [str(file) for file in image_files(table)]
    if missing := [file for file in dict.fromkeys(files) if not Path(file).is_file()]:
        raise MissingInputError(f"{len(missing)} pictures of the table are missing, such as {missing[0]}; restore them")
    if "image" in table:
        raise ParameterError("a column of the table is called 'image', as its pictures will be; rename it")
    columns = table.drop(columns=["image_path", "image_sha256"])
    kinds = {str(name): datasets.Value("float64" if name in ("lat", "lng") else "string") for name in columns}
    content = {"image": files, **{name: columns[name].tolist() for name in columns}}
    with atomic_folder(folder) as temporary:
        datasets.Dataset.from_dict(content, datasets.Features(image=datasets.Image(), **kinds)).save_to_disk(temporary)

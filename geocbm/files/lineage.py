"""What each file of a run was made from, written into the file itself and read back when it is loaded.

A record maps parts of a run to digests: `table`, `splits`, `names`, `cells`, and stems of files such as `prototypes` or
`stage1`. `Run.need` holds it against the run as it is now.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.files import read_json, sha256_text
from geocbm.files.makers import ADOPTED
from geocbm.files.stored import own_metadata

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, str]

KEY = "made_from"
"""Where the record stands: in JSON, in an npz, in the metadata of safetensors, in the attributes of parquet."""

COLUMNS = ("pano_id", "image_sha256", "lat", "lng", "country", "meta_name", "parent_concept", "guessed", "known_absent")
"""What of a table can change a model; notes and paths cannot."""

_STAGE = ("table", "splits", "names", "prototypes")
_PARTS = {
    "geocells": ("table", "splits"),
    "prototypes": ("names",),
    "stage0": _STAGE,
    "features": ("table", "stage0"),
    "stage1": (*_STAGE, "stage0"),
    "concept_scores": ("table", "names", "stage1"),
    "stage2": ("table", "splits", "names", "cells", "stage0", "stage1"),
    "predictions": ("table", "splits", "cells", "stage2"),
    "cell_scores": ("table", "splits", "cells", "stage2"),
    "novelty": ("table", "splits", "stage0"),
    "stage1_floor": ("table", "splits", "stage1"),
}
LINEAR_PART = "_linear_part"
"""End of the stem of a checkpoint that holds the linear layers which a head of mode `hybrid` starts from."""
_AT_ONCE = 100_000  # texts that are put together to be hashed


def plain_stem(name: str) -> str:
    """Stem of a file, without the mark of one that was taken from another run."""
    return Path(name).stem.removesuffix(ADOPTED)


def parts_of(name: str) -> tuple[str, ...]:
    """Parts of a run that a file such as `stage2_image_only.json` is made from; none for one that is not checked."""
    stem = plain_stem(name)
    if stem in _PARTS:
        return _PARTS[stem]
    if stem.startswith("stage2_") or stem == "stage2":
        if stem.endswith("_neighbours"):
            return ("table", "splits", "cells", "stage0")
        if stem.endswith("_decoding"):
            return ("table", "splits", "cells", "stage0", stem.removesuffix("_decoding"))
        return _PARTS["stage2"]
    return ()


def is_checkpoint(name: str) -> bool:
    """Whether a file is a stage's checkpoint, which has its record in the JSON beside it."""
    stem = plain_stem(name)
    return stem.startswith(("stage0", "stage1", "stage2")) and not stem.endswith(("_neighbours", "_decoding", "_floor"))


def spoken(part: str) -> str:
    """A part that differs, in words."""
    words = {
        "table": "another table",
        "splits": "other splits",
        "names": "other names of concepts or parents",
        "cells": "other geocells",
        "prototypes": "other text prototypes",
    }
    return words.get(part, f"another {part}.safetensors")


def table_digest(table: pd.DataFrame) -> str:
    """Hash of all in a table that can change a model, in the order of its rows."""
    digest = hashlib.sha256()
    for name in COLUMNS:
        if name not in table:
            continue
        digest.update(f"\0{name}\0".encode())
        if name in ("lat", "lng"):
            digest.update(table[name].to_numpy(dtype="<f8").tobytes())
        else:
            for start in range(0, len(table), _AT_ONCE):
                part = "\0".join(map(str, table[name].iloc[start : start + _AT_ONCE]))
                digest.update(("\0" * (start > 0) + part).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def splits_digest(splits: Mapping[str, Sequence[str]]) -> str:
    """Hash of which panorama lies in which split, whatever the order or layout of the file."""
    digest = hashlib.sha256()
    ordered = {name: sorted(splits[name]) for name in sorted(splits)}
    for part in json.JSONEncoder(ensure_ascii=False).iterencode(ordered):  # the text of millions would take a GB
        digest.update(part.encode())
    return digest.hexdigest()


def names_digest(metas: Sequence[str], parents: Sequence[str], meta_to_parent: Mapping[str, str]) -> str:
    """Hash of the names of concepts and parents, their order and who lies under whom."""
    return sha256_text(json.dumps([list(metas), list(parents), sorted(meta_to_parent.items())], ensure_ascii=False))


def as_text(record: Mapping[str, str]) -> str:
    """A record as one line, for files that hold texts only."""
    return json.dumps(dict(record), sort_keys=True)


_DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


def read_record(path: Path) -> Record | None:
    """The record of a JSON, npz, safetensors or parquet file, None where it has none; a checkpoint's is in its JSON."""
    try:
        found = _stored(path)
        content = json.loads(found) if isinstance(found, str) else found
    except _DAMAGE:
        return None
    return {str(name): str(value) for name, value in content.items()} if isinstance(content, dict) else None


def _stored(path: Path) -> Any:
    """What a file holds as its record, text or object, if anything."""
    if path.suffix == ".json":
        content = read_json(path)
        return content.get("labels", content).get(KEY)
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path, allow_pickle=False) as stored:
            return str(stored[KEY]) if KEY in stored else None
    if path.suffix == ".safetensors":
        with path.open("rb") as stream:  # the header alone, which needs no torch
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
            return own_metadata(header.get("__metadata__", {})).get(KEY)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            metadata = parquet.read_schema(path).metadata or {}
        except pa.ArrowException as problem:
            raise ValueError(str(problem)) from problem
        return json.loads(metadata.get(b"PANDAS_ATTRS", b"{}")).get(KEY)
    raise KeyError(path.suffix)

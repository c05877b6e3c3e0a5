"""Answers in shards: a folder of tables, each with the answers for a range of the photographs.

A shard is written at once and whole, by this process or by a worker of an engine, under a name that follows from the
photographs in it: what is answered twice is the same file. The same command answers what no shard holds.
"""

from __future__ import annotations

import functools
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import MismatchError, MissingInputError, ParameterError, first_line
from geocbm.files import atomic_path, engine, sha256_text
from geocbm.predict.inputs import PredictRequest
from geocbm.predict.journal import KEY, check_made_by, entry_of, table_of

if TYPE_CHECKING:
    from geocbm.predict.model import GeoCBM

RANGE = 512
"""Photographs of a range, a multiple of those that are answered side by side; fewer where some were answered before."""
_HELD = (KEY, "path", "run", "model", "top", "given_clues")
_one_at_a_time = threading.Lock()  # a worker may have several threads, and the model has threads of its own

Photo = tuple[str, str]
"""Path of a photograph as it was given, and its key."""


@dataclass(frozen=True)
class ShardJob:
    """What a worker must know to answer any range of photographs."""

    request: PredictRequest
    run: Path  # folder of the run, absolute
    cwd: Path  # from which the paths of photographs start
    made_by: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the shards, absolute."""
        assert self.request.shards is not None
        return self.cwd / self.request.shards


@dataclass(frozen=True)
class Shard:
    """What became of a range of photographs."""

    place: Path
    answered: int
    failed: list[tuple[str, str]]  # path and sentence of those without an answer


def answered_before(folder: Path, made_by: Mapping[str, Any], keys: Mapping[str, str | None]) -> set[str]:
    """Keys that the shards of a folder hold; answers for photographs that have another key by now are removed.

    Raises:
        ParameterError: a table in it is none of answers, or its answers are those of another model or question.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    found: set[str] = set()
    for file in sorted(folder.glob("*.parquet")):
        try:
            names = [name for name in parquet.read_schema(file).names if name in _HELD]
            rows = parquet.read_table(file, columns=names).to_pylist()
            own = {row[KEY]: row["path"] for row in rows}
        except (pa.ArrowException, OSError, KeyError) as problem:
            raise ParameterError(f"{file} is no table of answers ({first_line(problem)}); remove it") from None
        for row in rows[:1]:
            check_made_by(row, made_by, file)
        current = [keys.get(path) in (None, key) for key, path in own.items()]
        if not all(current):
            table = parquet.read_table(file).filter(pa.array(current))
            with atomic_path(file) as temporary:
                parquet.write_table(table, temporary, write_page_checksum=True)
        found |= {key for key, is_current in zip(own, current, strict=True) if is_current}
    return found


def answer_missing(job: ShardJob, model: GeoCBM, photos: Sequence[Photo], before: set[str]) -> Iterator[Shard]:
    """Answer for the photographs whose keys are not among those answered `before`, by the workers of the engine.

    Without an engine it is the `model` that answers, in this process.

    Yields:
        Each shard as it is done, in any order.
    """
    ranges = [photos[start : start + RANGE] for start in range(0, len(photos), RANGE)]
    missing = ([photo for photo in part if photo[1] not in before] for part in ranges)
    pieces = [(job, number, part) for number, part in enumerate(missing) if part]
    with engine.engine(job.request.engine):
        if engine.is_chosen():
            yield from engine.in_any_order(answer_range, pieces)
        else:
            for _, number, part in pieces:
                yield _answer(job, model, number, part)


def answer_range(job: ShardJob, number: int, photos: Sequence[Photo]) -> Shard:
    """Answer for photographs in this process, and write the shard of the range with this number.

    Raises:
        MissingInputError: this process does not see the run or the folder of the shards.
        MismatchError: it loads another model.
    """
    for folder in (job.run, job.folder):
        if not folder.is_dir():
            raise MissingInputError(
                f"a worker on {platform.node()} does not see {folder}; put it on a disk that all workers share"
            )
    with _one_at_a_time:
        model = _model(str(job.run))
        job.request.prepare(model)
        if model.digest() != job.made_by["model"]:
            raise MismatchError(
                f"a worker on {platform.node()} loads another model from {job.run}; give it the same files and versions"
            )
        return _answer(job, model, number, photos)


@functools.lru_cache(maxsize=1)
def _model(run: str) -> GeoCBM:
    from geocbm.predict.model import GeoCBM

    return GeoCBM.load(run)


def _answer(job: ShardJob, model: GeoCBM, number: int, photos: Sequence[Photo]) -> Shard:
    import pyarrow.parquet as parquet

    name = sha256_text(" ".join(key for _, key in photos))[:16]
    shard = Shard(job.folder / f"{number:06d}-{name}.parquet", 0, [])
    entries: list[dict[str, Any]] = []
    replies = model.predict_each([job.cwd / path for path, _ in photos], job.request.top)
    for (path, key), reply in zip(photos, replies, strict=True):
        if reply.answer is None:
            shard.failed.append((path, str(reply.problem)))
        else:
            entries.append(entry_of(path, reply.answer, job.request.attention) | {KEY: key, **job.made_by})
    if entries:
        with atomic_path(shard.place) as temporary:
            parquet.write_table(table_of(entries), temporary, write_page_checksum=True)
    return Shard(shard.place, len(entries), shard.failed)

"""The predict command: answers for photographs from outside the table, printed and written as they come."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import UserError
from geocbm.files import sha256_text, write_json
from geocbm.metrics.borders import read_rings
from geocbm.metrics.places import read_towns
from geocbm.predict.answers import answer_text
from geocbm.predict.inputs import PhotoFolder, PredictRequest, path_of, photo_key, photographs
from geocbm.predict.journal import AnswerFileError, Journal, entry_of, journal_place, write_answers, write_points

if TYPE_CHECKING:
    from geocbm.predict.model import GeoCBM
    from geocbm.predict.page import PhotoPage

ROUND = 32
"""Answers of each of several processes after which they are put together and written."""
Answered = tuple[int, str, dict[str, Any], str]
"""Position of a photograph, its key, and its answer as an entry and as text."""
_SECONDS_TO_BE_ENDED = 10


def predict(request: PredictRequest, folder: Path) -> int:
    """Answer for pictures and give the exit status: 1 where a picture got no answer, which stops none of the others.

    What is answered is on disk at once, and the same command goes on after an interruption. Under
    `accelerate launch -m geocbm predict` each process answers a share of the photographs; the main one prints and
    writes for all.
    """
    # Torch's own messages about processes that come and go say nothing that a sentence of ours does not.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    index = None
    if "LOCAL_RANK" in os.environ:  # only then: a single process has no need of torch yet
        from geocbm.encoders.processes import launched_index

        index = launched_index()
    try:
        with redirect_stdout(StringIO()) if index else nullcontext():
            return _Prediction(request, folder, index).run()
    except UserError as problem:
        if not index or isinstance(problem, AnswerFileError):
            raise
        # The main process says it, and the launcher ends all when one has failed.
        time.sleep(_SECONDS_TO_BE_ENDED)
        raise SystemExit(2) from None


class _Prediction:
    """One call of the command in one process, of which `index` is the number; None where there is one only."""

    def __init__(self, request: PredictRequest, folder: Path, index: int | None) -> None:
        self.request, self.folder, self.index = request, folder, index
        self.failed: list[tuple[str, str]] = []  # path and sentence of what could not be answered
        self.folders: list[PhotoFolder] = []
        self.photos: list[Any] = []
        self.keys: list[str | None] = []  # of each photograph, see `photo_key`
        self.kept: set[str] = set()  # keys that were answered before
        self.answered: set[int] = set()  # positions of photographs that were, and need no other answer
        self.page: PhotoPage | None = None

    def run(self) -> int:
        """Answer, print and write."""
        self.request.check(is_launched=self.index is not None)
        # Before torch is imported: whoever has no trained run should not wait for that.
        if not (self.folder / "stage2.safetensors").exists():
            from geocbm.run import Run

            Run(self.folder).need("stage2.safetensors")
        self._find_photographs()
        if not self.photos:
            return 1
        warnings.filterwarnings("ignore", module="PIL")  # what matters in an odd file is said in a note
        # Unpacked (by zlib, which leaves Python to others) while torch is imported: an answer names its place. The end
        # of the block waits for both, so that neither list is read twice.
        with ThreadPoolExecutor() as pool:
            for read in (read_towns, read_rings):
                pool.submit(read)
            from geocbm.predict.model import GeoCBM

        model = GeoCBM.load(self.folder)
        self.request.prepare(model)
        if model.context.simulated and not self.index:
            from geocbm.data.simulated import TRAINED_ON

            _warn(f"beware: {TRAINED_ON}")
        if self.request.html and not self.index:
            from geocbm.predict.page import PhotoPage

            self.page = PhotoPage(model)
        if self.request.shards is not None:
            self._in_shards(model)
        else:
            self._answer_all(model)
        return 1 if self.failed else 0

    def _find_photographs(self) -> None:
        if self.index is None:
            self.photos = list(photographs(self.request.photos, self.folders, self._fail))
        else:
            from geocbm.encoders.processes import broadcast_object, is_main_process

            found = photographs(self.request.photos, self.folders, self._fail) if is_main_process() else []
            self.photos = broadcast_object([str(photo) for photo in found])
        for folder in self.folders:
            if folder.left_out:
                _warn(folder.remark())

    def _fail(self, name: str, sentence: str) -> None:
        self.failed.append((path_of(name), sentence))
        _warn(sentence)

    def _open(self, model: GeoCBM) -> Journal | None:
        """The journal, if a file was asked for; fills `keys` and `kept`."""
        self.keys = [photo_key(photo) for photo in self.photos]
        place = journal_place(self.request.json_file, self.request.parquet or self.request.out)
        if place is None:
            return None
        journal = Journal(place, self.request.made_by(model.digest()))
        journal.forget_changed({path_of(photo): key for photo, key in zip(self.photos, self.keys, strict=True)})
        self._keep({key for key in self.keys if key is not None and key in journal})
        return journal

    def _keep(self, kept: set[str]) -> None:
        """Say how many photographs were answered before, by their keys."""
        self.kept = kept
        if before := sum(key in kept for key in self.keys):
            _warn(f"{before:,} of {len(self.photos):,} photographs were answered before; these answers are kept")

    def _in_shards(self, model: GeoCBM) -> None:
        """Answer for ranges of photographs, in this process or by the workers of an engine."""
        from geocbm.predict import shards

        photos = [(path_of(photo), photo_key(photo) or sha256_text(path_of(photo))[:16]) for photo in self.photos]
        self.keys = [key for _, key in photos]
        photos = list(dict.fromkeys(photos))
        made_by = self.request.made_by(model.digest())
        job = shards.ShardJob(self.request, self.folder.absolute(), Path.cwd(), made_by)
        self._keep(shards.answered_before(job.folder, made_by, dict(photos)))
        for shard in shards.answer_missing(job, model, photos, self.kept):
            for path, sentence in shard.failed:
                self._fail(path, sentence)
            if shard.answered:
                print(f"{shard.place}: {shard.answered} answers", flush=True)
        write_json(job.folder / "summary.json", self._summary())

    def _answer_all(self, model: GeoCBM) -> None:
        """Answer for all photographs; of several processes the main one prints and writes what all of them got."""
        from geocbm.encoders import processes
        from geocbm.predict.page import MOST_PHOTOS

        journal: Journal | None = None

        def prepare() -> tuple[list[str | None], set[str]]:
            nonlocal journal
            journal = self._open(model)
            return self.keys, self.kept

        self.keys, self.kept = processes.broadcast_object(processes.on_main(prepare))
        # Those that the page shows are answered for once more, and by the process that makes it.
        shown = min(len(self.photos), MOST_PHOTOS) if self.request.html else 0
        others = range(shown, len(self.photos))
        self.answered = {position for position in others if self.keys[position] in self.kept}
        try:
            with nullcontext(lambda entry, text: None) if self.index else _printer(self.request.in_text) as show:
                first = () if self.index else self._answers(model, range(shown))
                for _, key, entry, text in chain(first, self._of_all(model, others)):
                    if journal is not None and key not in self.kept:
                        journal.add(key, entry)
                    show(entry, text)
            self.failed = [failure for failures in processes.all_gather_object(self.failed) for failure in failures]
            if not self.index:
                self._finish(journal)
        except (KeyboardInterrupt, SystemExit):
            if journal:
                _warn(f"{len(journal):,} answers are kept in {journal.path}; the same command goes on with them")
            raise
        finally:
            if journal is not None:
                journal.close()
        processes.all_gather_object(None)  # a process that died is reported, as a barrier would not

    def _of_all(self, model: GeoCBM, positions: Sequence[int]) -> Iterator[Answered]:
        """Answers for photographs, in their order in the main process; each process answers for every n-th."""
        from geocbm.encoders import processes

        shares = [positions[number :: processes.process_count()] for number in range(processes.process_count())]
        own = self._answers(model, shares[self.index or 0])
        if self.index is None:
            yield from own
            return
        most = max(sum(position not in self.answered for position in share) for share in shares)
        for _ in range(0, most, ROUND):
            parts = processes.all_gather_object(list(islice(own, ROUND)))
            yield from sorted(chain.from_iterable([] if self.index else parts), key=lambda each: each[0])

    def _answers(self, model: GeoCBM, positions: Sequence[int]) -> Iterator[Answered]:
        """Answers of this process for some of the photographs; those without an answer are named."""
        from tqdm import tqdm

        wanted = [position for position in positions if position not in self.answered]
        replies = model.predict_each(
            (self.photos[position] for position in positions),
            self.request.top,
            keep_seen=self.page is not None,
            keep_output=self.page is not None,
            answered={number for number, position in enumerate(positions) if position in self.answered},
        )
        hidden = not sys.stderr.isatty() or sys.stdout.isatty() or bool(self.index)
        bar = tqdm(replies, total=len(wanted), unit="photo", disable=hidden)
        for position, reply in zip(wanted, bar, strict=True):
            path, is_piped = path_of(reply.source), isinstance(reply.source, bytes)
            problem = str(reply.problem or "").replace("the picture", "standard input", int(is_piped))
            if self.page is not None:
                self.page.add(path, reply, problem)
            if reply.answer is None:
                self._fail(path, problem)
                continue
            # Of a file that came into being meanwhile, the key it has now.
            key = self.keys[position] or photo_key(reply.source) or sha256_text(path)[:16]
            entry = entry_of(path, reply.answer, self.request.attention)
            yield position, key, entry, answer_text(path, reply.answer)

    def _finish(self, journal: Journal | None) -> None:
        """Write the page, the files that were asked for, and beside them what became of everything that was named."""
        page, html = self.page, self.request.html
        if page is not None and html is not None:
            page.write(html, len(self.photos) - page.shown)
            if page.shown < len(self.photos):
                _warn(f"{html} shows the first {page.shown} of {len(self.photos)}")
        if journal is None:
            return
        if self.request.out is not None:
            write_points(self.request.out, journal.entries(key for key in self.keys if key))
        write_answers(journal, self.request.json_file, self.request.parquet, self.keys, self._summary())

    def _summary(self) -> dict[str, Any]:
        """What became of everything that was named."""
        # What was named but is no photograph, such as an empty folder, is no photograph that has no answer.
        without = {path for path, _ in self.failed}
        return {
            "clues": list(self.request.clues),
            "not_clues": list(self.request.not_clues),
            "run": self.request.run,
            "top": self.request.top,
            "photographs": len(self.photos),
            "answered": sum(path_of(photo) not in without for photo in self.photos),
            "answered_before": sum(key in self.kept for key in self.keys),
            "failed": [{"path": path, "problem": sentence} for path, sentence in self.failed],
            "left_out": [
                {
                    "folder": path_of(folder.folder),
                    "counts": {kind: len(names) for kind, names in folder.by_kind().items()},
                    "names": list(folder.left_out),
                }
                for folder in self.folders
                if folder.left_out
            ],
        }


def _warn(sentence: str) -> None:
    print(f"geocbm: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def _printer(in_text: bool) -> Iterator[Callable[[dict[str, Any], str], None]]:
    """Gives what prints an entry or its text: lines, or a JSON list that is closed whatever happens."""
    if in_text:
        yield lambda entry, text: print(text, flush=True)
        return
    separator = "["

    def add(entry: dict[str, Any], text: str) -> None:
        nonlocal separator
        # ASCII only: whatever the encoding of the console, what arrives is the answer.
        print(f"{separator}\n{json.dumps(entry, sort_keys=True)}", end="", flush=True)
        separator = ","

    try:
        yield add
    finally:
        print("[\n]" if separator == "[" else "\n]", flush=True)

"""The predict command: answers for photographs from outside the table, printed and written as they come."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import ParameterError, UserError
from geocbm.files import sha256_text
from geocbm.predict.answers import Reply, answer_text
from geocbm.predict.inputs import STANDARD, check_output, names_of, photographs
from geocbm.predict.journal import AnswerFileError, Journal, photo_key
from geocbm.predict.outputs import TEXT, AnswerFiles, ListOnStandardOutput, share_place

if TYPE_CHECKING:
    from geocbm.data.images.folders import PhotoFolder
    from geocbm.predict.model import GeoCBM
    from geocbm.predict.page import PhotoPage

_SECONDS_TO_BE_ENDED = 10


@dataclass(frozen=True)
class PredictRequest:
    """What the command is asked for.

    Attributes:
        photos: pictures, folders of pictures, or "-" for one from standard input.
        run: the trained run that answers.
        top: how many places, countries and concepts to name.
        json: file that takes the answers: a list, or one a line where it ends with `.jsonl`; "-" writes the list to
            standard output instead of text.
        parquet: table that takes them.
        html: page with maps and pictures, complete in itself.
        remarks: sentences on the run that go with every answer.
    """

    photos: Sequence[str]
    run: str = "demo"
    top: int = 5
    json: Path | None = None
    parquet: Path | None = None
    html: Path | None = None
    remarks: tuple[str, ...] = ()


def predict(request: PredictRequest, folder: Path) -> int:
    """Answer for pictures; a picture that cannot be read gets one sentence, the others are still answered.

    What is answered is on disk at once, and the same command goes on after an interruption. Under
    `accelerate launch -m geocbm predict` each process answers a share of the photographs; the main one prints and
    writes for all.

    Args:
        request: what to do.
        folder: of the run.

    Returns:
        The exit status: 1 where a picture got no answer.
    """
    # Torch's own messages about processes that come and go say nothing that a sentence of ours does not.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    index = _launched_index()
    try:
        with redirect_stdout(StringIO()) if index else nullcontext():
            return _Prediction(request, folder).run()
    except UserError as problem:
        if not index or isinstance(problem, AnswerFileError):
            raise
        # The main process says it, and the launcher ends all when one has failed.
        time.sleep(_SECONDS_TO_BE_ENDED)
        raise SystemExit(2) from None


def _launched_index() -> int | None:
    """As `processes.launched_index`, without the import of torch that a single process has no need of yet."""
    if "LOCAL_RANK" not in os.environ:
        return None
    from geocbm.encoders.processes import launched_index

    return launched_index()


class _Prediction:
    """One call of the command in one process."""

    def __init__(self, request: PredictRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._index = _launched_index()
        self._failed: list[tuple[str, str]] = []
        self._folders: list[PhotoFolder] = []
        self._in_text = request.json != Path(STANDARD)

    def run(self) -> int:
        """Answer, print and write."""
        self._check()
        # Before torch is imported: whoever has no trained run should not wait for that.
        if not (self._folder / "stage2.safetensors").exists():
            from geocbm.run import Run

            Run(self._folder).need("stage2.safetensors")
        photos = self._photographs()
        if not photos:
            return 1
        warnings.filterwarnings("ignore", module="PIL")  # what matters in an odd file is said in a note
        from geocbm.predict.model import GeoCBM

        model = GeoCBM.load(self._request.run)
        model.remarks = tuple(dict.fromkeys((*model.remarks, *self._request.remarks)))
        if model.context.simulated and not self._index:
            from geocbm.data.simulated import TRAINED_ON

            print(f"geocbm: beware: {TRAINED_ON}", file=sys.stderr)
        if self._index is None:
            self._alone(model, photos)
        else:
            self._together(model, photos)
        return 1 if self._failed else 0

    def _check(self) -> None:
        request = self._request
        if request.top < 1:
            raise ParameterError(f"--top={request.top} names nothing; give at least 1")
        if request.json is not None and request.json.suffix.lower() == ".parquet":
            raise ParameterError(f"--json={request.json} is the name of a table; give it as --parquet")
        if self._index is not None and STANDARD in request.photos:
            raise ParameterError("- is a picture for one process; give files or folders to several")
        for option in ("json", "parquet", "html"):
            place = getattr(request, option)
            if option != "json" and place == Path(STANDARD):
                raise ParameterError(f"--{option}=- would be a file of that name; standard output takes --json only")
            if not (option == "json" and place == Path(STANDARD)):
                check_output(option, place)

    def _photographs(self) -> list[str | Path | bytes]:
        if self._index is None:
            photos = list(photographs(list(self._request.photos), self._folders, self._say))
        else:
            from geocbm.encoders.processes import broadcast_object, is_main_process

            found = photographs(list(self._request.photos), self._folders, self._say) if is_main_process() else []
            photos = broadcast_object([str(photo) for photo in found])
        for folder in self._folders:
            if folder.left_out:
                print(f"geocbm: {folder.remark()}", file=sys.stderr, flush=True)
        return photos

    def _say(self, path: str, sentence: str) -> None:
        """A sentence about what could not be answered, on the error stream."""
        self._failed.append((names_of(path)[1], sentence))
        print(f"geocbm: {sentence}", file=sys.stderr, flush=True)

    def _files(self, model: GeoCBM) -> AnswerFiles:
        to_json = self._request.json if self._in_text else None
        made_by = {"run": self._request.run, "top": self._request.top, "model": ""}
        if to_json is not None or self._request.parquet is not None:
            made_by["model"] = model.digest()
        return AnswerFiles(to_json, self._request.parquet, made_by)

    def _page(self, model: GeoCBM) -> PhotoPage | None:
        if not self._request.html or self._index:
            return None
        from geocbm.predict.page import PhotoPage

        return PhotoPage(model)

    def _alone(self, model: GeoCBM, photos: list[Any]) -> None:
        """Answer for all photographs in this process."""
        files, page = self._files(model), self._page(model)
        keys = _keys(photos)
        kept = files.kept(_by_path(photos, keys))
        self._say_kept(photos, keys, kept)
        todo = sorted({*_page_positions(photos, page), *_unanswered(keys, kept)})
        try:
            with nullcontext() if self._in_text else ListOnStandardOutput() as listed:
                for position, reply in self._replies(model, photos, todo, page):
                    if reply.answer is None:
                        continue
                    entry = _entry(reply)
                    if keys[position] not in kept:
                        files.add(_key(keys[position], reply), entry)
                    if listed is None:
                        print(answer_text(entry["path"], reply.answer), flush=True)
                    else:
                        listed.add(entry)
            self._write_page(page, photos)
            files.finish(keys, self._summary(photos, keys, kept))
        except (KeyboardInterrupt, SystemExit):
            files.say_what_is_kept()
            raise
        finally:
            files.close()

    def _together(self, model: GeoCBM, photos: list[Any]) -> None:
        """Answer for a share of the photographs; the main process puts together what all of them got."""
        from geocbm.encoders.processes import (
            all_gather_object,
            broadcast_object,
            on_main,
            process_count,
            process_index,
            wait_for_everyone,
        )

        page, count, index = self._page(model), process_count(), process_index()
        keys, kept = broadcast_object(_keys(photos)), set[str]()
        files: AnswerFiles | None = None
        plan: dict[str, Any] = {}

        def prepare() -> None:
            nonlocal files, kept
            files = self._files(model)
            kept = files.kept(_by_path(photos, keys))
            self._say_kept(photos, keys, kept)
            shown = _page_positions(photos, page)  # the page is made by this process
            others = [position for position in _unanswered(keys, kept) if position not in set(shown)]
            shares = [others[number::count] for number in range(count)]
            shares[0] = sorted([*shown, *shares[0]])
            place = files.place or Path(tempfile.mkdtemp(prefix="geocbm_")) / "answers"
            plan.update(place=str(place), shares=shares, made_by=files.made_by)

        on_main(prepare)
        plan = broadcast_object(plan)
        places = [share_place(Path(plan["place"]), number) for number in range(count)]
        share = Journal(places[index], plan["made_by"])
        try:
            for position, reply in self._replies(model, photos, plan["shares"][index], page):
                if reply.answer is not None:
                    entry = _entry(reply)
                    words = answer_text(entry["path"], reply.answer) if self._in_text else ""
                    share.add(_key(keys[position], reply), entry | {TEXT: words})
        finally:
            share.close()
        self._failed = [(path, sentence) for failed in all_gather_object(self._failed) for path, sentence in failed]
        if files is not None:
            self._put_together(files, plan, places, keys, kept)
            self._write_page(page, photos)
            files.finish(keys, self._summary(photos, keys, kept))
            files.close()
        wait_for_everyone()

    def _put_together(
        self, files: AnswerFiles, plan: dict[str, Any], places: list[Path], keys: list[str | None], kept: set[str]
    ) -> None:
        """Print the answers of all processes in the order of the photographs, and take them into the journal."""
        process_of = {position: number for number, share in enumerate(plan["shares"]) for position in share}
        shares = [Journal(place, plan["made_by"]) for place in places]
        with nullcontext() if self._in_text else ListOnStandardOutput() as listed:
            for position in sorted(process_of):
                key, share = keys[position], shares[process_of[position]]
                if key is None or key not in share:
                    continue
                entry = share.entry(key)
                words = entry.pop(TEXT)
                if key not in kept:
                    files.add(key, entry)
                if listed is None:
                    print(words, flush=True)
                else:
                    listed.add(entry)
        for share in shares:
            share.remove()
        if files.place is None:
            places[0].parent.rmdir()

    def _replies(
        self, model: GeoCBM, photos: list[Any], positions: list[int], page: PhotoPage | None
    ) -> Iterator[tuple[int, Reply]]:
        """Replies for some of the photographs, each with its position; those without an answer are named."""
        from tqdm import tqdm

        hidden = not sys.stderr.isatty() or sys.stdout.isatty() or bool(self._index)
        replies = model.predict_each(
            (photos[position] for position in positions),
            self._request.top,
            keep_seen=page is not None,
            keep_output=page is not None,
        )
        bar = tqdm(replies, total=len(positions), unit="photo", disable=hidden)
        for number, reply in enumerate(bar):
            path = names_of(reply.source)[1]
            if reply.answer is None:
                self._say(path, _about(reply))
            if page:
                page.add(path, reply, "" if reply.answer else _about(reply))
            yield positions[number], reply

    def _write_page(self, page: PhotoPage | None, photos: list[Any]) -> None:
        if page is None or self._request.html is None:
            return
        page.left_out = len(photos) - page.shown
        page.write(self._request.html)
        if page.left_out:
            print(f"geocbm: {self._request.html} shows the first {page.shown} of {len(photos)}", file=sys.stderr)

    def _say_kept(self, photos: list[Any], keys: list[str | None], kept: set[str]) -> None:
        count = sum(key in kept for key in keys)
        if count:
            print(f"geocbm: {count:,} of {len(photos):,} photographs were answered before; these answers are kept",
                  file=sys.stderr, flush=True)  # fmt: skip

    def _summary(self, photos: list[Any], keys: list[str | None], kept: set[str]) -> dict[str, Any]:
        """What became of everything that was named, for the file beside the answers."""
        before = sum(key in kept for key in keys)
        failed = [{"path": path, "problem": sentence} for path, sentence in self._failed]
        # What was named but is no photograph, such as an empty folder, is no photograph that has no answer.
        unanswered = sum(1 for photo in photos if names_of(photo)[1] in {path for path, _ in self._failed})
        return {
            "run": self._request.run,
            "top": self._request.top,
            "photographs": len(photos),
            "answered": len(photos) - unanswered,
            "answered_before": before,
            "failed": failed,
            "left_out": [
                {"folder": names_of(folder.folder)[1], "counts": folder.counts(), "names": list(folder.left_out)}
                for folder in self._folders
                if folder.left_out
            ],
        }


def _entry(reply: Reply) -> dict[str, Any]:
    """An answer as it is written."""
    name, path = names_of(reply.source)
    assert reply.answer is not None
    return {"photo": name, "path": path} | reply.answer.as_json()


def _about(reply: Reply) -> str:
    """Why a photograph has no answer; content from standard input is called by that name."""
    return str(reply.problem).replace("the picture", "standard input", 1 if isinstance(reply.source, bytes) else 0)


def _keys(photos: list[Any]) -> list[str | None]:
    return [photo_key(photo, names_of(photo)[1]) for photo in photos]


def _key(planned: str | None, reply: Reply) -> str:
    """The key of a photograph that was answered; of a file that came into being meanwhile, the one it has now."""
    path = names_of(reply.source)[1]
    return planned or photo_key(reply.source, path) or sha256_text(path)[:16]


def _by_path(photos: list[Any], keys: list[str | None]) -> dict[str, str | None]:
    return {names_of(photo)[1]: key for photo, key in zip(photos, keys, strict=True)}


def _unanswered(keys: list[str | None], kept: set[str]) -> list[int]:
    return [position for position, key in enumerate(keys) if key is None or key not in kept]


def _page_positions(photos: list[Any], page: PhotoPage | None) -> list[int]:
    """Photographs that the page shows, answered before or not: it needs the pictures too."""
    from geocbm.predict.page import MOST_PHOTOS

    return [] if page is None else list(range(min(len(photos), MOST_PHOTOS)))

"""A stranger's text stays text: no page, figure or terminal gets an element, attribute, link, script or escape from it.

Hostile texts (scripts, event handlers, links, SVG, ends of scripts and comments, templates, formats, Markdown, LaTeX,
control characters, directions of writing) stand in every column of a table, the names of files, EXIF and XMP, the names
of runs, profiles and encoders. Every figure function is called as its tests call it, again and again, each time with
one of its texts made hostile; tables, sheets and galleries likewise; a run of hostile names is trained, and its
explorers, the tables of its audit, `geocbm predict` and the page of that are looked at. What was made is parsed: the
mark of the text may stand in text and in attributes that only describe, never in a tag, an address or a script.
"""

from __future__ import annotations

import copy
import csv
import importlib
import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from html.parser import HTMLParser
from inspect import isfunction
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from geocbm import cli, open_run, plots
from geocbm.data.quality import audit_concepts, quality_report
from geocbm.workbench import explorers, html
from tests import tiny_run
from tests.soak.trial import Trial
from tests.tiny_models import save_model

MARK = "q9z"
PAYLOADS = (
    *("<script>q9z()</script>", "<img src=q9z onerror=q9z()>", "<a href='javascript:q9z()'>x</a>", "<q9z>"),
    *("<svg onload=q9z()>", "</script><script>q9z()</script>", "--><q9z>", "</style><style>*{color:q9z}</style>"),
    *('"><b id=q9z>', "' onmouseover='q9z()", '" style="background:url(q9z)', "{{q9z}}", "{% include 'q9z' %}"),
    *("${q9z}", "%(q9z)s %s %n", "{q9z}", "%{q9z}", "[q9z](javascript:q9z)", "![q9z](http://q9z/)", "<!--q9z"),
    *("$\\href{javascript:q9z}{x}$", "\\u003cscript\\u003eq9z", "&lt;q9z&gt;", "&#60;q9z&#62;", "`q9z`", "]]><q9z/>"),
    *("<math><q9z>", "<iframe srcdoc='<script>q9z</script>'>", "<a href=//q9z>", "<base href=//q9z/>", "=q9z|'/c'!A0"),
    *("<b><i>q9z", "<span style='color:q9z'>", "<sub>q9z</sub>", "<br q9z>", "javascript:q9z", "</title><q9z>"),
)
"""Texts that would do something if they were taken for more than a text."""
NOT_DRAWN = ("ids", "parents", "legendgroup", "uid", "alt")  # alt: written into an attribute, see the pages
STEERING = (
    "\x1b[31mq9z",
    "\x1b]8;;http://q9z\x07",
    "\u202eq9z\u2066",
    "q9z\rx",
    "\x9b31mq9z",
    "q9z\x00",
    "\x08\x08q9z",
)
"""Texts that would steer a terminal."""
NO_FIGURES = ("template", "base_map", "finish", "cell_picture", "contact_sheet", "locator", "blend_heat")
FIGURES = sorted(name for name, own in vars(plots).items() if isfunction(own) and name not in NO_FIGURES)
FEW = 60  # trials, of which fewer are a taste: no run is trained for them
DESCRIBING = ("alt", "title", "content", "value", "name", "download", "label", "summary")


class _Reader(HTMLParser):
    """Collects what of a page holds the mark and is not text."""

    def __init__(self) -> None:
        super().__init__()
        self.guilty: list[str] = []
        self.raw = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.raw = tag if tag in self.CDATA_CONTENT_ELEMENTS else ""
        if MARK in tag:
            self.guilty.append(f"<{tag}>")
        for name, value in attrs:
            describes = name in DESCRIBING or name.startswith(("data-", "aria-"))
            describes = describes or bool(re.fullmatch(r"data:image/\w+;base64,[\w+/=]*", value or ""))
            inside = name in ("href", "id", "for") and re.fullmatch(r"#?[\w-]*", value or "")
            if MARK in name or (MARK in (value or "") and not describes and not inside):
                self.guilty.append(f"<{tag} {name}={value!r}>")

    def handle_endtag(self, tag: str) -> None:
        self.raw = ""

    def handle_data(self, text: str) -> None:
        if self.raw and re.search(rf"<[^<>]*{MARK}|{MARK}[^<>\"]*>|on\w+={MARK}", text):
            self.guilty.append(f"in <{self.raw}>")

    def handle_comment(self, text: str) -> None:
        if MARK in text:
            self.guilty.append("in a comment")

    def handle_decl(self, text: str) -> None:
        self.handle_comment(text)

    def unknown_decl(self, text: str) -> None:
        self.handle_comment(text)

    def handle_pi(self, text: str) -> None:
        self.handle_comment(text)


def guilty(page: str) -> list[str]:
    """What of a page, or of the little HTML in a plotly label, a stranger's text has become."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.guilty


def harmless(page: str) -> str:
    """What elements, attributes and addresses a page has, for comparison."""
    found: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.add(tag)
            for name, value in attrs:
                found.add(f"{tag} {name}")
                if name in ("href", "src", "action") and not (value or "").startswith(("data:", "#")):
                    found.add(f"{tag} {name}={value}")

    Reader().feed(page)
    return "\n".join(sorted(found))


def texts_in(figure: Any) -> Iterator[tuple[str, str]]:
    """All texts of a figure, with the name under which each stands."""

    def walk(name: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            if not value.startswith("data:image/") and name not in NOT_DRAWN:
                yield name, value
        elif isinstance(value, dict):
            for key, each in value.items():
                yield from walk(str(key), each)
        elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype.kind in "OU"):
            for each in value:
                yield from walk(name, each)

    yield from walk("", figure.to_plotly_json())


def wrong_in_figure(figure: Any) -> str:
    """What a hostile text has become in a figure, if anything."""
    for name, text in texts_in(figure):
        if found := guilty(text):
            return f"{name}: {found[0]}"
        if name in ("hovertemplate", "texttemplate") and re.search(rf"%{{{MARK}", text):
            return f"{name}: a template of a stranger"
    return ""


def _parts_of(value: Any) -> list[Any]:
    """What arguments are made of, one level down."""
    if isinstance(value, pd.DataFrame):
        return [*value.columns, *value.index, *(value[name] for name in value.columns)]
    if isinstance(value, pd.Series):
        return [*value.tolist(), *value.index] if value.dtype == "O" or value.dtype == "str" else list(value.index)
    if isinstance(value, np.ndarray):
        return value.ravel().tolist() if value.dtype.kind in "OU" else []
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list | tuple | set):
        return list(value)
    return list(vars(value).values()) if _is_record(value) else []


def _is_record(value: Any) -> bool:
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, Image.Image)


def _texts_of(value: Any, depth: int = 0) -> set[str]:
    """Texts in the arguments of a call."""
    if isinstance(value, str):
        return {value}
    return set().union(*(_texts_of(each, depth + 1) for each in _parts_of(value))) if depth < 7 else set()


def swapped(value: Any, old: str, new: str) -> Any:
    """The same arguments with one text in the place of another."""

    def again(each: Any) -> Any:
        return swapped(each, old, new)

    if isinstance(value, str):
        return new if value == old else value
    if old not in _texts_of(value):
        return value
    if isinstance(value, pd.DataFrame):
        columns = {again(name): again(value[name]).to_numpy() for name in value.columns}
        return pd.DataFrame(columns, index=list(map(again, value.index)))
    if isinstance(value, pd.Series):
        return pd.Series(list(map(again, value)), list(map(again, value.index)), name=value.name)
    if isinstance(value, np.ndarray):
        return np.array(list(map(again, value.ravel().tolist())), dtype=object).reshape(value.shape)
    if isinstance(value, dict):
        return type(value)({again(key): again(each) for key, each in value.items()})
    if isinstance(value, list | tuple | set):
        return type(value)(*map(again, value)) if hasattr(value, "_fields") else type(value)(map(again, value))
    twin = copy.copy(value)
    for name, each in vars(value).items():
        object.__setattr__(twin, name, again(each))
    return twin


Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


@contextmanager
def recording(calls: dict[str, list[Call]]) -> Iterator[None]:
    """Keep the arguments of every call of a figure function, by its name."""

    def noting(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **more: Any) -> Any:
            with suppress(Exception):  # what cannot be copied
                calls.setdefault(name, []).append((whole, *copy.deepcopy((args, more))))
            return whole(*args, **more)

        return noted

    with ExitStack() as stack:
        for name in FIGURES:
            noted = noting(name, whole := getattr(plots, name))
            for module in [each for key, each in sys.modules.items() if key.startswith(("geocbm.", "tests."))]:
                if getattr(module, name, None) is whole:
                    stack.enter_context(patch.object(module, name, noted))
        yield


def calls_of_tests(calls: dict[str, list[Call]]) -> None:
    """Let the tests of the figure functions that need no fixture call them."""
    folder = Path(tiny_run.__file__).parent
    modules = [importlib.import_module(f"tests.plots.{file.stem}") for file in sorted(folder.glob("plots/test_*.py"))]
    with recording(calls):
        for module in modules:
            for test in [each for name, each in vars(module).items() if name.startswith("test_")]:
                _run_test(test)


CALLS = "GEOCBM_SOAK_CALLS"
"""Environment variable with the file into which a pytest that has this module as a plugin writes the calls."""
_plugin = ExitStack()
_seen: dict[str, list[Call]] = {}


def pytest_collection_finish() -> None:
    _plugin.enter_context(recording(_seen))


def pytest_unconfigure() -> None:
    _plugin.close()
    kept = []
    for name, calls in _seen.items():
        for _, args, more in calls[:6]:
            with suppress(Exception):  # what cannot be stored
                kept.append(pickle.dumps((name, args, more)))
    Path(os.environ[CALLS]).write_bytes(pickle.dumps(kept))


def calls_of_other_tests(calls: dict[str, list[Call]], folder: Path) -> None:
    """Run the tests, with their fixtures, of the figure functions that nothing has called yet."""
    wanted = re.compile(rf"\b({'|'.join(name for name in FIGURES if name not in calls)})\(")
    root = Path(tiny_run.__file__).parent
    files = [str(file) for file in root.rglob("test_*.py") if wanted.search(file.read_text(encoding="utf-8"))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.soak.injections", "-p", "no:cacheprovider", *files]
    environment = os.environ | {CALLS: str(folder / "calls"), "PYTHONPATH": str(root.parent)}
    subprocess.run(command, cwd=root.parent, env=environment, capture_output=True, timeout=900)
    for content in pickle.loads((folder / "calls").read_bytes()) if (folder / "calls").exists() else []:
        with suppress(Exception):  # what cannot be taken along is no call
            name, args, more = pickle.loads(content)
            calls.setdefault(name, []).append((getattr(plots, name), args, more))


def _run_test(test: Callable[..., Any]) -> None:
    """Run a test, with its parameters, for the calls that it makes."""
    sets: list[dict[str, Any]] = [{}]
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = (
                [name.strip() for name in mark.args[0].split(",")] if isinstance(mark.args[0], str) else mark.args[0]
            )
            given = [getattr(each, "values", each) for each in mark.args[1]]
            rows = [dict(zip(names, [each] if len(names) == 1 else each, strict=True)) for each in given]
            sets = [{**before, **row} for before in sets for row in rows]
    for arguments in sets:
        with suppress(Exception):  # what it checks is not the matter here
            test(**arguments)


def in_figures(rng: random.Random, calls: dict[str, list[Call]], all_of_them: bool) -> Iterator[Trial]:
    """Each text of each call of each figure function, once as a hostile one."""
    for name in FIGURES:
        seen: set[str] = set()
        for function, args, more in calls.get(name, [])[:6]:
            for text in sorted(_texts_of((args, more)) - seen):
                seen.add(text)
                payload = rng.choice(PAYLOADS)
                hostile = swapped((args, more), text, f"{payload} {text}")
                if (wrong := _drawn(function, *hostile)) is None:
                    continue  # a text of the program, which must be one of a few
                yield Trial(f"figure {name}: {payload}", not wrong, wrong or f"text in the place of {text[:60]!r}")
        if name not in calls and all_of_them:
            yield Trial(f"figure {name}: no call of it is known", False, "neither its tests nor a run call it")


def _drawn(function: Callable[..., Any], args: tuple[Any, ...], more: dict[str, Any]) -> str | None:
    """What is wrong with what a function draws of hostile arguments; None where it refuses them."""
    try:
        drawn = function(*args, **more)
    except Exception:  # whatever it is, nothing was drawn
        return None
    return wrong_in_figure(drawn) if isinstance(drawn, go.Figure) else ""


def in_tables(rng: random.Random) -> Iterator[Trial]:
    """Functions that write HTML of texts."""
    picture = Image.new("RGB", (8, 8))
    for payload in PAYLOADS:
        frame = pd.DataFrame({payload: [payload, 1.5], "n": [1, 2]}, index=pd.Index([payload, "b"], name=payload))
        pages = {
            "table": html.table_html(frame, payload),
            "rows": html.rows_html([payload, "b"], [[payload, "1"], ["a", payload]], payload),
            "empty table": html.table_html(frame.head(0), payload),
            "gallery": html.gallery_html([picture], [payload], [payload], 80),
            "cleaned": html.clean_html(f"<p>{payload}</p>"),
            "plain": f"<p>{html.html.escape(html.clean_text(payload))}</p>",
        }
        kind = rng.choice(sorted(pages))
        strict = {name: page for name, page in pages.items() if name != "cleaned"}  # that keeps harmless links
        found = [f"{name}: {each}" for name, page in strict.items() for each in guilty(page)]
        found += [
            f"cleaned: {each}" for each in guilty(pages["cleaned"]) if re.search(r"script|on\w+=|url|iframe", each)
        ]
        yield Trial(f"HTML of a table: {payload}", not found, found[0] if found else f"text in {kind} and all others")


@contextmanager
def hostile_tables(suffix: dict[str, str]) -> Iterator[None]:
    """Let the tiny run have names, notes and files with a text behind each."""
    before = tiny_run.write_pictures

    def write(folder: Path, seed: int = 0, several: bool = False) -> Path:
        table = before(folder, seed, several)
        with table.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            place = Path(row["image_path"])
            renamed = place.with_name(f"{place.stem}{suffix['file'].replace('/', '∕')}.jpg")
            (folder / place).rename(folder / renamed)
            row["image_path"] = str(renamed)
            row |= {name: row[name] + suffix[name] for name in row if name in suffix}
        with table.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return table

    with patch.object(tiny_run, "write_pictures", write):
        yield


COLUMNS = ("pano_id", "meta_name", "parent_concept", "country", "note", "file")


def surfaces(folder: Path, model: Path, suffix: dict[str, str]) -> dict[str, str]:
    """Pages and figures of a run whose names end so, and what `geocbm predict` said; each as HTML or text."""
    said = io.StringIO()
    os.environ |= {"GEOCBM_DATA": str(folder / "data"), "GEOCBM_REPORTS": str(folder / "reports")}
    with redirect_stdout(said), redirect_stderr(said), hostile_tables(suffix):
        tiny_run.train_tiny_run(folder / "data" / "runs", model)
    found = {"terminal: making the run": said.getvalue()}
    run = open_run("tiny")
    stages = [("batch", {"stage": stage}) for stage in ("stage1", "stage2")]
    for name, more in [*((name, {}) for name in explorers._FILES if name != "batch"), *stages]:
        found |= _explored(name, run, more)
    for name, frame in {"audit": audit_concepts(run.table), "quality": quality_report(run.table)}.items():
        found[f"page: table of the {name}"] = html.table_html(frame, name)
    picture = folder / f"holiday{suffix['file'].replace('/', '∕')}.jpg"
    exif = Image.Exif()
    for tag in (0x010E, 0x010F, 0x0110, 0x013B, 0x8298):
        exif[tag] = suffix["note"].replace("\0", "")
    Image.new("RGB", (64, 48), (200, 30, 30)).save(picture, exif=exif, comment=suffix["note"].encode())
    page = folder / "page.html"
    outputs = ["--html", str(page), "--json", str(folder / "a.json"), "--out", str(folder / "a.csv")]
    concept = run.concepts.metas[0]
    for name, more in {"answers": [str(picture), *outputs], "clues": [str(picture), "--clue", concept]}.items():
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = cli.main(["predict", "--run", "tiny", *more])
        found[f"terminal: {name}"] = f"exit {code}\n{said.getvalue()}"
    found["page: geocbm predict"] = page.read_text(encoding="utf-8") if page.exists() else "no page"
    return found


def _explored(name: str, run: Any, more: dict[str, Any]) -> dict[str, str]:
    """What an explorer leaves on a page, and the HTML and the figures of its live form."""
    left: list[str] = []

    def figure(fig: Any, *_: Any, **__: Any) -> None:
        left.extend(text for _, text in texts_in(fig))

    said = io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(said))
        stack.enter_context(redirect_stderr(said))
        stack.enter_context(patch.object(html, "put", lambda page, *_: left.append(page)))
        stack.enter_context(patch.object(html, "put_figure", figure))
        getattr(explorers, name)(run, **more)
        module = importlib.import_module(f"geocbm.workbench.explorers.{explorers._FILES[name]}")
        stack.enter_context(patch.object(module, "is_live", lambda: True))
        stack.enter_context(patch.object(module, "show", lambda box: left.extend(_of_widgets(box))))
        getattr(explorers, name)(run, **more)
    called = " ".join((name, *more.values()))
    return {f"page: explorer of {called}": "\n".join(left), f"terminal: explorer of {called}": said.getvalue()}


def _of_widgets(box: Any) -> Iterator[str]:
    """HTML and labels of figures in a box of controls."""
    for child in getattr(box, "children", ()):
        yield from _of_widgets(child)
    if type(box).__name__ in ("HTML", "HTMLMath"):
        yield box.value
    if isinstance(box, go.FigureWidget):
        yield from (text for _, text in texts_in(box))


def in_runs(rng: random.Random, folder: Path, calls: dict[str, list[Call]]) -> Iterator[Trial]:
    """A run with an innocent text behind all names, and runs with hostile ones."""
    model = save_model(folder / "model", "clip")
    (folder / "plain").mkdir()
    with recording(calls):
        plain = surfaces(folder / "plain", model, dict.fromkeys(COLUMNS, " (innocent)"))
    for number in range(3):
        (place := folder / f"hostile{number}").mkdir()
        payloads = [*PAYLOADS, *STEERING]
        suffix = {name: f" {rng.choice(payloads[number::3])}" for name in COLUMNS}
        for surface, page in surfaces(place, model, suffix).items():
            yield Trial(f"{surface}: {json.dumps(suffix, ensure_ascii=False)}", *_judged(surface, page, plain[surface]))


def _judged(surface: str, page: str, plain: str) -> tuple[bool, str]:
    if surface.startswith("terminal"):
        odd = {letter for letter in page if not letter.isprintable() and letter not in "\n\t"}
        held = not odd and page[:6] == plain[:6] and not {"Traceback", "Error:"} & set(page.split())
        return held, f"it holds {sorted(odd)}: {page[:300]!r}" if odd else page[-200:]
    if found := guilty(page):
        return False, found[0]
    more = sorted(set(harmless(page).split("\n")) - set(harmless(plain).split("\n")))
    return not more, f"more than the innocent page: {more[:3]}" if more else f"{len(page):,} letters"


def in_commands(folder: Path) -> Iterator[Trial]:
    """Names of runs, profiles, settings, photographs, clues and encoders at the command line."""
    os.environ |= {"GEOCBM_DATA": str(folder / "plain" / "data"), "GEOCBM_REPORTS": str(folder / "plain" / "reports")}
    texts = [*STEERING[:5], "<script>q9z()</script>", "../../q9z", "$(touch q9z)", "q9z" * 2000, "%s%n{0}{{q9z}}"]
    for text in texts:
        commands = {
            "run": ["run", "--run", text],
            "profile": ["run", "--profile", text],
            "recipe": ["run", "--profile", "smoke", "--recipe", text],
            "setting": ["run", "--profile", "smoke", "--dry-run", "--set", f"01.{text}=1"],
            "value": ["run", "--profile", "smoke", "--dry-run", "--set", f"01.split={text}"],
            "photograph": ["predict", "--run", "tiny", f"{text}.jpg"],
            "clue": ["predict", "--run", "tiny", "--clue", text, str(next((folder / "plain").glob("*.jpg")))],
            "verified run": ["verify", text],
            "exported run": ["export", text, str(folder / "x")],
            "command": [text],
        }
        for name, arguments in commands.items():
            said = io.StringIO()
            with redirect_stdout(said), redirect_stderr(said):
                code = cli.main(arguments)
            odd = sorted({letter for letter in said.getvalue() if not letter.isprintable() and letter != "\n"})
            held = not odd and code in (1, 2) and len(said.getvalue()) < 5000
            yield Trial(f"command line, {name}: {text[:60]!r}", held, f"exit {code}, {odd}: {said.getvalue()[:300]!r}")


def campaign(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Try so many hostile texts at least: in figures and tables, then, if more are wanted, in runs and commands."""
    rng = random.Random(seed)
    environment = dict(os.environ)
    calls: dict[str, list[Call]] = {}
    whole = count >= FEW
    try:
        yield from islice(in_tables(rng), None if whole else count // 2)
        if whole:
            yield from in_runs(rng, folder, calls)
            yield from in_commands(folder)
        calls_of_tests(calls)
        if whole:
            calls_of_other_tests(calls, folder)
        yield from islice(in_figures(rng, calls, whole), None if whole else count - count // 2)
    finally:
        os.environ.clear()
        os.environ.update(environment)

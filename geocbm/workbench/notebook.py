"""What a notebook needs to be a page of the workbench: checked parameters, named files, figures with words.

Every notebook calls `start` right behind its parameters cell and `Notebook.finish` at its end. The same code works in
JupyterLab, under papermill, under nbval, in the chain and in plain Python, where everything is printed.
"""

import ast
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import MissingInputError, ParameterError, UserError
from geocbm.files import atomic_path, paths, sha256_file, write_json
from geocbm.workbench import html, keys, lab, profiles, records, rerun_command, settings, state
from geocbm.workbench.parameters import Parameter, read_parameters, unknown
from geocbm.workbench.stages import Chain, Stage, number_of, read_chain

if TYPE_CHECKING:
    import pandas as pd

_INJECTED = "# Parameters"

IN_CHAIN = "GEOCBM_IN_CHAIN"
"""Environment variable that the chain sets for the notebooks it executes; elsewhere they are run by hand."""


def start(name: str, variables: dict[str, Any]) -> "Notebook":
    """Check the parameters of a notebook and show what it reads and writes.

    Values are brought to the annotated types and written back to ``variables``. A text that names a file (it begins
    with ``data/``, or it holds a slash and the file exists seen from the project's root) becomes an absolute path, so
    that it means the same wherever the kernel was started.

    Args:
        name: the notebook's own name without suffix.
        variables: ``globals()`` of the notebook.

    Raises:
        ParameterError: If a value does not fit, or a name was passed that the notebook does not declare.
        MissingInputError: If the notebook's ``.py`` is not in the project's ``notebooks`` folder.
    """
    _read_errors_as_sentences()
    declared = read_parameters(paths.notebooks_folder() / f"{name}.py")
    number = number_of(name)
    for given in _injected_names():
        if given in settings.settings_of(number, declared) and given not in declared:
            raise ParameterError(
                f"{given!r} is a setting of {settings.CONFIGS[number]} and no parameter of {name}; pass it with "
                f"-p options '{{{given}: value}}', or start the notebook with: geocbm run --set {number}.{given}=value"
            )
        if given not in declared:
            raise unknown(given, declared, name)
    values = settings.complete(number, declared, {key: variables[key] for key in declared if key in variables}, name)
    values, remark = _choose_run(name, values, declared)
    for value in values.values():
        _need_world(value)
    variables.update({key: _located(value) for key, value in values.items()})
    notebook = Notebook(name, values, declared)
    if remark:
        notebook.note(remark)
        lab.picker()
    notebook.introduce()
    notebook.warn_of_other_parameters()
    return notebook


def _choose_run(name: str, values: dict[str, Any], declared: Mapping[str, Parameter]) -> tuple[dict[str, Any], str]:
    """Fill in the run of a notebook that was opened without one, with what must be said of it."""
    if values.get("run"):
        paths.check_run_name(values["run"])
        return values, ""
    if given := os.environ.get(lab.RUN):
        return values | {"run": paths.check_run_name(given)}, ""
    run = lab.chosen_run()
    copy = lab.open_copy(run)
    used = lab.parameters_to_use(name, run, values, declared) | {"run": copy}
    changed = state.difference(state.recorded_parameters(paths.run_folder(run), number_of(name)), used)
    remark = (
        f"This page looks at run {run!r} through {copy!r}, a copy made of links: nothing done here changes {run!r}. "
    )
    return used, remark + (
        f"Changed in the parameters cell: {changed}." if changed else f"Parameters are those of {run!r}."
    )


class Notebook:
    """One running notebook of one run.

    Attributes:
        name: name without suffix.
        number: what its name begins with.
        run: name of the run.
        parameters: the resolved parameters as they were given, paths not yet located.
        writes: files that were written with `output`.
    """

    def __init__(self, name: str, values: Mapping[str, Any], declared: Mapping[str, Parameter]) -> None:
        self.name, self.number = name, number_of(name)
        self.parameters, self.declared = dict(values), dict(declared)
        self.run: str = values["run"]
        self.writes: list[Path] = []
        self._chain: Chain = read_chain()
        self._records: dict[str, Any] = {}
        self._remarks: list[str] = []
        self._began = time.monotonic()
        self._inputs: dict[str, str] = {}
        if self.stage and not os.environ.get(IN_CHAIN):
            self._inputs = keys.own_inputs(self.stage, paths.run_folder(self.run))

    @property
    def stage(self) -> Stage | None:
        """This notebook's entry in ``chain.toml``, or None for a notebook outside the chain."""
        return next((stage for stage in self._chain.stages if stage.notebook == self.name), None)

    @property
    def run_folder(self) -> Path:
        """Folder of the run's files; created on first use."""
        folder = paths.run_folder(self.run)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def path(self, name: str) -> Path:
        """Path of a file of the run, whether it exists or not."""
        return self.run_folder / name

    def input(self, name: str) -> Path:
        """Path of a file of the run that an earlier stage wrote.

        Raises:
            MissingInputError: If it is not there; the message is the command that makes it.
        """
        path = self.path(name)
        if not path.exists():
            command = rerun_command.remedy(self.run_folder, self._chain.writer(name, self.number))
            raise MissingInputError(f"{name!r} of run {self.run!r} is not there yet; make it with: {command}")
        return path

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """Temporary path that becomes a file of the run when the block ends well, and vanishes when it does not."""
        with atomic_path(self.path(name)) as temporary:
            yield temporary
        if self.path(name) not in self.writes:
            self.writes.append(self.path(name))

    def record(self, key: str, value: float | Mapping[str, float]) -> None:
        """Keep a figure for the index page and for comparisons.

        Args:
            key: dotted name such as ``stage2.median_km``.
            value: a finite number, or a mapping with ``value``, ``low`` and ``high`` where there is an interval.

        Raises:
            ParameterError: If the key has no dot or the value is not finite.
        """
        self._records[records.check_key(key)] = records.check_value(key, value)

    def remark(self, sentence: str) -> None:
        """Print what a user must know of the result; the terminal of the chain says it too. An empty text is nothing.

        Args:
            sentence: without an end of line.
        """
        if sentence:
            print(sentence)
            self._remarks.append(sentence)

    def record_all(self, prefix: str, values: Mapping[str, float | Mapping[str, float]]) -> None:
        """Record every entry of a mapping under ``<prefix>.<name>``."""
        for name, value in values.items():
            self.record(f"{prefix}.{name}", value)

    def answer(self, sentence: str) -> None:
        """Say in one sentence what the notebook has found; its page begins with it and with the preview figure.

        Args:
            sentence: plain text.
        """
        html.put(f"<p><strong>{escape(sentence)}</strong></p>", sentence, html.ANSWER_MIME)

    def show(self, fig: Any, alt: str | None = None, preview: bool = False) -> None:
        """Show a plotly figure, with the sentence that says what is to be seen for those who do not see it.

        Args:
            fig: the figure; its ``layout.meta`` gets the sentence.
            alt: the sentence; may be left out when the figure's ``layout.meta`` has an ``alt`` already.
            preview: the figure stands for the notebook on the index page.
        """
        meta = dict(fig.layout.meta) if isinstance(fig.layout.meta, Mapping) else {}
        text = html.needed_alt(alt or meta.get("alt"))
        fig.layout.meta = meta | {"alt": text} | ({"preview": True} if preview else {})
        if html.interactive():
            from IPython.display import display

            display(fig)
        else:
            print(f"[figure] {text}")

    def show_image(self, image: Any, alt: str, width: int | None = None) -> None:
        """Show a picture (PIL image, or array of shape (H, W) or (H, W, 3)) as a JPEG inside the page.

        Args:
            image: the picture; float arrays lie between 0 and 1.
            alt: what is to be seen.
            width: width on the page in CSS pixels; the picture's own when left out.
        """
        html.put(html.image_html(image, html.needed_alt(alt), width), f"[image] {alt}")

    def show_images(
        self, images: Sequence[Any], alts: Sequence[str], captions: Sequence[str] | None = None, width: int = 160
    ) -> None:
        """Show pictures side by side, each with its own alt text and, if given, a caption."""
        page = html.gallery_html(images, [html.needed_alt(alt) for alt in alts], captions, width)
        html.put(page, "\n".join(f"[image] {alt}" for alt in alts))

    def html(self, page: str, plain: str) -> None:
        """Show HTML that was escaped where it holds strangers' texts; the page keeps its harmless part only.

        Args:
            page: the HTML; every picture in it has an alt text.
            plain: what is printed where there is no page.
        """
        html.put(page, plain)

    def table(self, frame: "pd.DataFrame", caption: str, max_rows: int = 200, index: bool | None = None) -> None:
        """Show a table; every text in it is escaped, long tables are cut and say so.

        Args:
            frame: the table.
            caption: what it is.
            max_rows: rows shown at most.
            index: show the index; by default only when it has a name or holds texts.
        """
        html.put(html.table_html(frame, caption, max_rows, index), f"{caption}\n{frame.head(max_rows).to_string()}")

    @staticmethod
    def clean_text(text: str) -> str:
        """Plain text of a stranger's HTML: no tags, no scripts, entities resolved."""
        return html.clean_text(text)

    def contract(self, **checks: Any) -> None:
        """State what must hold, one printed line each; the lines are what nbval compares.

        Raises:
            AssertionError: If any does not hold; all of them are named.
            ParameterError: If nothing is stated, or a statement is not a truth value.
        """
        if not checks:
            raise ParameterError("contract() without a statement proves nothing; name at least one, as name=truth")
        for name, truth in checks.items():
            # A NaN or a non-empty array would pass for true.
            if type(truth).__name__ not in {"bool", "bool_"}:
                raise ParameterError(f"contract {name}={truth!r} is not a truth value; compare it with something")
        broken = [name for name, truth in checks.items() if not truth]
        for name in checks:
            print(f"{name}: {'does not hold' if name in broken else 'holds'}")
        if broken:
            raise AssertionError(f"{self.name}: does not hold: {', '.join(broken)}")

    def introduce(self) -> None:
        """Show the parameters, and what the notebook reads and writes."""
        rows = [
            (name, repr(value), self.declared[name].comment if name in self.declared else "")
            for name, value in self.parameters.items()
        ]
        page = html.rows_html(("parameter", "value", "meaning"), rows, "Parameters of this page")
        if stage := self.stage:
            flow = [("reads", _plain(stage.reads)), ("writes", _plain(stage.writes))]
            page += html.rows_html(("", "files of the run"), flow, "What this page reads and writes")
        page = f"<details><summary>Parameters and files</summary>{page}</details>"
        html.put(page, "\n".join(f"{name} = {value}" for name, value, _ in rows))

    def finish(self) -> None:
        """Write the recorded figures, and show how long the notebook took and what it wrote.

        Raises:
            MissingInputError: If a file that ``chain.toml`` promises was not written.
        """
        declared = [self.path(name) for name in self.stage.promised] if self.stage else []
        if missing := [path.name for path in declared if not path.exists()]:
            raise MissingInputError(f"{self.name} ends without {', '.join(missing)}, which chain.toml says it writes")
        write_json(self.path(f"records/{self.number}.json"), self._records)
        records.write_remarks(self.run, self.number, self._remarks)
        records.merge(self.run)
        self._say_if_by_hand()
        took = f"{time.monotonic() - self._began:.1f} s"
        rows = [
            (path.name, f"{path.stat().st_size:,} bytes", sha256_file(path)[:12])
            for path in dict.fromkeys([*declared, *self.writes])
            if path.is_file()
        ]
        page = html.rows_html(("file", "size", "digest"), rows, f"Took {took} and wrote") if rows else ""
        html.put(page or f"<p>Took {took}.</p>", f"took {took}, wrote {', '.join(row[0] for row in rows) or 'nothing'}")

    def warn_of_other_parameters(self) -> None:
        """Say so when a notebook that is run by hand is about to replace what other parameters have made."""
        if os.environ.get(IN_CHAIN) or not self.stage:
            return
        recorded = state.recorded_parameters(paths.run_folder(self.run), self.number)
        if how := state.difference(recorded, self.parameters):
            self.note(f"Run {self.run!r} was made with other parameters; this notebook has {how}.")

    def _say_if_by_hand(self) -> None:
        """Mark a run that was changed outside of the chain, and say how it is made right."""
        if os.environ.get(IN_CHAIN) or not self.stage or not self.stage.promised:
            return
        folder = paths.run_folder(self.run)
        how = state.note_by_hand(self.stage, folder, self.parameters, self._inputs)
        rerun_command.record(folder)
        if how:
            changes = {f"{self.number}.{name}": value for name, value in self.parameters.items() if name != "run"}
            anew = rerun_command.command_like(folder, self.run, changes) + f" --from {self.number}"
            self.note(
                f"Run {self.run!r} was changed by hand ({how}), and what was made from it is stale. "
                f"As it was: {rerun_command.remedy(folder, self.number)} . All of it like this page: {anew}"
            )

    def note(self, text: str) -> None:
        """Show one sentence that a user must see."""
        html.put(f"<p><strong>{escape(text)}</strong></p>", text)


def _plain(names: Sequence[str]) -> str:
    """Names of inputs or outputs as a reader understands them."""
    spoken = [
        f"what {name.removeprefix('parameter:')!r} names" if name.startswith("parameter:") else name for name in names
    ]
    return ", ".join(spoken) or "nothing"


def _need_world(value: Any) -> None:
    """Refuse the table of a simulated world that is not drawn yet, with the command that draws it."""
    parts = Path(value).parts if isinstance(value, str) else ()
    if parts[:2] == ("data", "atlas") and parts[3:] == ("atlas.csv",) and not paths.locate(value).exists():
        own = f"geocbm atlas make --out {'/'.join(parts[:3])}"
        command = f"geocbm run --profile {parts[2]} --only 01" if parts[2] in profiles.profile_names() else own
        raise MissingInputError(f"{value} does not exist yet; draw this world with: {command}")


def _located(value: Any) -> Any:
    """Absolute path when a text names a file of the project, else the value itself."""
    if isinstance(value, str) and "/" in value and "://" not in value:
        path = paths.locate(value)
        if value.startswith("data/") or path.exists():
            return str(path)
    return value


def _injected_names() -> list[str]:
    """Names that papermill assigned in the cell it puts behind the parameters cell."""
    shell = html.shell()
    names: list[str] = []
    for source in shell.user_ns.get("In", []) if shell else []:
        if not source.startswith(_INJECTED):
            continue
        try:
            statements = ast.parse(source).body
        except SyntaxError:
            continue
        for statement in statements:
            if isinstance(statement, ast.Assign):
                names += [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return names


def _read_errors_as_sentences() -> None:
    """Let a `UserError` show its sentence instead of a traceback; every other error keeps its own."""
    shell = html.shell()
    if shell is None:
        return

    def explain(
        shell: Any, kind: type[BaseException], value: BaseException, _trace: Any, tb_offset: Any = None
    ) -> list:
        lines = [f"{kind.__name__}: {value}"]
        shell._showtraceback(kind, value, lines)
        return lines

    shell.set_custom_exc((UserError,), explain)

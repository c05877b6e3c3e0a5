"""What a notebook needs to be a page of the workbench: checked parameters, named files, figures with words.

Every notebook calls `start` right behind its parameters cell and `Notebook.finish` at its end. The same code works in
JupyterLab, under papermill, under nbval, in the chain and in plain Python, where everything is printed.
"""

import ast
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import MissingInputError, ParameterError, UserError
from geocbm.files import atomic_path, owners, paths, progress, sha256_file, write_json
from geocbm.files.stored import recorded
from geocbm.workbench import html, lab, profiles, records, rerun_command, settings, state
from geocbm.workbench.parameters import Parameter, read_parameters, unknown
from geocbm.workbench.stages import number_of, read_chain

if TYPE_CHECKING:
    import pandas as pd

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
    if os.environ.get(IN_CHAIN):
        owners.die_with_parent()
    _read_errors_as_sentences()
    if progress.is_watched():
        from geocbm.workbench.live import LiveDisplay

        progress.show_in(LiveDisplay())
    if progress.is_live():  # figures follow the theme
        html.put(f"<style>{html.explorers_css()}</style>", "")
    declared = read_parameters(paths.notebooks_folder() / f"{name}.py")
    number = number_of(name)
    for given in [each for each in _injected_names() if each not in declared]:
        if given in settings.settings_of(number, declared):
            raise ParameterError(
                f"{given!r} is a setting of {settings.CONFIGS[number]} and no parameter of {name}; pass it with "
                f"-p options '{{{given}: value}}', or start the notebook with: geocbm run --set {number}.{given}=value"
            )
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
    return notebook


def _choose_run(name: str, values: dict[str, Any], declared: Mapping[str, Parameter]) -> tuple[dict[str, Any], str]:
    """Fill in the run of a notebook that was opened without one, with what must be said of it."""
    if given := values.get("run") or os.environ.get(lab.RUN):
        return values | {"run": paths.check_run_name(given)}, ""
    run = lab.chosen_run()
    copy = lab.open_copy(run)
    used = lab.parameters_to_use(name, run, values, declared) | {"run": copy}
    changed = state.difference(state.recorded_parameters(paths.run_folder(run), number_of(name)), used)
    return used, (
        f"This page looks at run {run!r} through {copy!r}, a copy made of links: nothing done here changes {run!r}. "
    ) + (f"Changed in the parameters cell: {changed}." if changed else f"Parameters are those of {run!r}.")


class Notebook:
    """One running notebook of one run.

    Attributes:
        name: name without suffix.
        number: what its name begins with.
        run: name of the run.
        run_folder: folder of the run's files.
        parameters: the resolved parameters as they were given, paths not yet located.
        stage: its entry in ``chain.toml``, or None for a notebook outside the chain.
    """

    def __init__(self, name: str, values: Mapping[str, Any], declared: Mapping[str, Parameter]) -> None:
        self.name, self.number = name, number_of(name)
        self.parameters, self.declared = dict(values), dict(declared)
        self.run: str = values["run"]
        self.run_folder = paths.run_folder(self.run)
        self.run_folder.mkdir(parents=True, exist_ok=True)
        self._chain = read_chain()
        self.stage = next((stage for stage in self._chain.stages if stage.notebook == name), None)
        self._writes: list[Path] = []
        self._records: dict[str, Any] = {}
        self._remarks: list[str] = []
        self._began = time.monotonic()
        self._by_hand = self.stage is not None and not os.environ.get(IN_CHAIN)
        self._inputs = state.own_inputs(self.stage, self.run_folder) if self.stage and self._by_hand else {}

    def path(self, name: str) -> Path:
        """Path of a file of the run, whether it exists or not."""
        return self.run_folder / name

    def input(self, name: str) -> Path:
        """Path of a file of the run that an earlier stage wrote.

        Raises:
            MissingInputError: If it is not there; the message is the command that makes it.
        """
        if not self.path(name).exists():
            raise rerun_command.not_there(self.run_folder, name, self._chain.writer(name, self.number))
        return self.path(name)

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """Temporary path that becomes a file of the run when the block ends well, and vanishes when it does not."""
        with atomic_path(self.path(name)) as temporary:
            yield temporary
        self._writes.append(self.path(name))

    def record(self, key: str, value: float | Mapping[str, float]) -> None:
        """Keep a figure for the index page and for comparisons.

        Args:
            key: dotted name such as ``stage2.median_km``.
            value: a finite number, or a mapping with ``value``, ``low`` and ``high`` where there is an interval.

        Raises:
            ParameterError: If the key has no dot or the value is not finite.
        """
        self._records[records.check_key(key)] = records.check_value(key, value)

    def record_all(self, prefix: str, values: Mapping[str, float | Mapping[str, float]]) -> None:
        """Record every entry of a mapping under ``<prefix>.<name>``, or under its own dotted name without a prefix."""
        for name, value in values.items():
            self.record(f"{prefix}.{name}" if prefix else name, value)

    def answer(self, sentence: str) -> None:
        """Say in one sentence what the notebook has found; its page begins with it and with the preview figure.

        Args:
            sentence: plain text; `{stage2.median_km}` stands for that metric of the run, which is written with its
                unit and its interval, or as "not measured".
        """
        from geocbm.metrics.table import metric

        known = recorded(self.run_folder) | self._records
        said = re.sub(
            r"\{([\w-]+(?:\.[\w-]+)+)\}",
            lambda key: metric(key[1]).entry(known[key[1]]) if key[1] in known else "(not measured)",
            sentence,
        )
        html.put(f"<p><strong>{escape(said)}</strong></p>", said, html.ANSWER_MIME)

    def remark(self, sentence: str) -> None:
        """Print what a user must know of the result, if anything; the terminal of the chain says it too."""
        if sentence:
            print(sentence)
            self._remarks.append(sentence)

    def show(self, fig: Any, alt: str | None = None, preview: bool = False) -> None:
        """Show a plotly figure, with the sentence that says what is to be seen for those who do not see it.

        Args:
            fig: the figure; its ``layout.meta`` gets the sentence.
            alt: the sentence; may be left out when the figure's ``layout.meta`` has an ``alt`` already.
            preview: the figure stands for the notebook on the index page.
        """
        html.put_figure(fig, alt, preview)

    def show_image(self, image: Any, alt: str) -> None:
        """Show a picture: a PIL image, or an array `(H, W)` or `(H, W, 3)`, in which floats lie between 0 and 1."""
        html.put(html.image_html(image, html.needed_alt(alt)), f"[image] {alt}")

    def show_images(self, images: Sequence[Any], alts: Sequence[str], captions: Sequence[str] | None = None) -> None:
        """Show pictures side by side, each with its own alt text and, if given, a caption."""
        page = html.gallery_html(images, [html.needed_alt(alt) for alt in alts], captions, 160)
        html.put(page, "\n".join(f"[image] {alt}" for alt in alts))

    def html(self, page: str, plain: str = "") -> None:
        """Show HTML that was escaped where it holds strangers' texts, or print `plain`, else its own text.

        The page keeps its harmless part only; every picture in it has an alt text.
        """
        html.put(page, plain or html.clean_text(page))

    def table(self, frame: "pd.DataFrame", caption: str, max_rows: int = 200, index: bool | None = None) -> None:
        """Show a table; every text in it is escaped, long tables are cut and say so.

        Args:
            frame: the table.
            caption: what it is.
            max_rows: rows shown at most.
            index: show the index; by default only when it has a name or holds texts.
        """
        html.put(html.table_html(frame, caption, max_rows, index), f"{caption}\n{frame.head(max_rows).to_string()}")

    def note(self, text: str) -> None:
        """Show one sentence that a user must see."""
        html.put(f"<p><strong>{escape(text)}</strong></p>", text)

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
        for name, truth in checks.items():
            print(f"{name}: {'holds' if truth else 'does not hold'}")
        if broken := [name for name, truth in checks.items() if not truth]:
            raise AssertionError(f"{self.name}: does not hold: {', '.join(broken)}")

    def introduce(self) -> None:
        """Show the parameters, what the notebook reads and writes, and whether it is about to replace other results."""
        rows = [
            (name, repr(value), self.declared[name].comment if name in self.declared else "")
            for name, value in self.parameters.items()
        ]
        page = html.rows_html(("parameter", "value", "meaning"), rows, "Parameters of this page")
        if self.stage:
            flow = [("reads", _plain(self.stage.reads)), ("writes", _plain(self.stage.writes))]
            page += html.rows_html(("", "files of the run"), flow, "What this page reads and writes")
        page = f"<details><summary>Parameters and files</summary>{page}</details>"
        html.put(page, "\n".join(f"{name} = {value}" for name, value, _ in rows))
        recorded = state.recorded_parameters(self.run_folder, self.number)
        if self._by_hand and (how := state.difference(recorded, self.parameters)):
            self.note(f"Run {self.run!r} was made with other parameters; this notebook has {how}.")

    def finish(self) -> None:
        """Write the recorded figures, and show how long the notebook took and what it wrote.

        Raises:
            MissingInputError: If a file that ``chain.toml`` promises was not written.
        """
        promised = [self.path(name) for name in self.stage.promised] if self.stage else []
        if missing := [path.name for path in promised if not path.exists()]:
            raise MissingInputError(f"{self.name} ends without {', '.join(missing)}, which chain.toml says it writes")
        write_json(self.path(f"records/{self.number}.json"), self._records)
        records.write_remarks(self.run, self.number, self._remarks)
        records.merge(self.run)
        if promised and self._by_hand:
            self._note_by_hand()
        took = f"{time.monotonic() - self._began:.1f} s"
        rows = [
            (path.name, f"{path.stat().st_size:,} bytes", sha256_file(path)[:12])
            for path in dict.fromkeys([*promised, *self._writes])
            if path.is_file()
        ]
        page = html.rows_html(("file", "size", "digest"), rows, f"Took {took} and wrote") if rows else ""
        html.put(page or f"<p>Took {took}.</p>", f"took {took}, wrote {', '.join(row[0] for row in rows) or 'nothing'}")

    def _note_by_hand(self) -> None:
        """Mark a run that was changed outside of the chain, and say how it is made right."""
        assert self.stage is not None
        how = state.note_by_hand(self.stage, self.run_folder, self.parameters, self._inputs)
        rerun_command.record(self.run_folder)
        if how:
            changes = {f"{self.number}.{name}": value for name, value in self.parameters.items() if name != "run"}
            anew = rerun_command.command_like(self.run_folder, self.run, changes) + f" --from {self.number}"
            self.note(
                f"Run {self.run!r} was changed by hand ({how}), and what was made from it is stale. "
                f"As it was: {rerun_command.remedy(self.run_folder, self.number)} . All of it like this page: {anew}"
            )


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
    shell = progress.shell()
    statements: list[ast.stmt] = []
    for source in shell.user_ns.get("In", []) if shell else []:
        if source.startswith("# Parameters"):
            with suppress(SyntaxError):
                statements += ast.parse(source).body
    targets = [target for each in statements if isinstance(each, ast.Assign) for target in each.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _read_errors_as_sentences() -> None:
    """Let a `UserError` show its sentence instead of a traceback; every other error keeps its own."""
    shell = progress.shell()
    if shell is None:
        return

    def explain(
        shell: Any, kind: type[BaseException], value: BaseException, _trace: Any, tb_offset: Any = None
    ) -> list:
        lines = [f"{kind.__name__}: {value}"]
        shell._showtraceback(kind, value, lines)
        return lines

    shell.set_custom_exc((UserError,), explain)

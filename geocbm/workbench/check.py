"""Hygiene of the notebooks: what must hold of them before anything is executed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from geocbm.errors import UserError
from geocbm.files import paths
from geocbm.workbench import profiles, settings, sync
from geocbm.workbench.pairs import Pair, PairError
from geocbm.workbench.parameters import Cell, read_cells, read_parameters
from geocbm.workbench.stages import Chain, number_of, read_chain

MAX_BYTES = 200_000
_ABSOLUTE = re.compile(r"(?<![\w.:/<])/(?:home|root|Users|mnt|tmp|work|opt|var|srv|usr|content)/|\b[A-Za-z]:\\\\?\w")


def check_all() -> list[str]:
    """Look at every notebook, the chain file and the profiles.

    Returns:
        One sentence per problem, each with the file and the remedy; empty when all is well.
    """
    problems: list[str] = []
    found = sync.sources()
    for source in found:
        problems += check_notebook(source)
    names = {source.stem for source in found}
    for pair in sorted(paths.notebooks_folder().glob("*.ipynb")):
        if pair.stem not in names:
            number = number_of(pair.stem)
            problems.append(
                f"{pair.name} has no script {pair.stem}.py; make it with: geocbm sync --take ipynb {number}"
            )
    return problems + list(_chain_problems(names))


def check_notebook(source: Path) -> list[str]:
    """Problems of one notebook and its pair."""
    try:
        cells = read_cells(source)
        code = [cell for cell in cells if cell.kind == "code"]
        trees = [ast.parse(cell.source) for cell in code]
    except SyntaxError as problem:
        return [f"{source.name}: {problem.msg} in a code cell; only pure Python can be checked and hashed"]
    return [
        f"{source.name}: {problem}"
        for look in (_pair_problems, _parameter_problems, _structure_problems, _content_problems)
        for problem in look(source, cells, code, trees)
    ]


def _pair_problems(source: Path, cells: list[Cell], code: list[Cell], trees: list[ast.Module]) -> Iterator[str]:
    pair = Pair(source)
    name, number = pair.ipynb.name, number_of(source.stem)
    if not pair.ipynb.is_file():
        yield f"{name} is missing; make it with: geocbm sync"
        return
    text = pair.ipynb.read_text(encoding="utf-8")
    if len(text.encode()) > MAX_BYTES:
        yield f"{name} has {len(text.encode())} bytes, more than {MAX_BYTES}; outputs belong into reports"
    if text == sync.pair_text(source):
        return
    try:
        state = sync.state(pair)
    except PairError as problem:
        yield f"{problem} If nothing in it is needed, make it from the script: geocbm sync --take py {number}"
        return
    if state in ("ipynb", "both"):
        # Whatever else is wrong with it, advice to make it again would throw the changes away.
        other = source.name if state == "ipynb" else f"{source.name}, which may have changed too,"
        yield f"{name} has changes that {other} lacks; to see them: geocbm sync {number}; {sync.ways(pair)}"
        return
    for position, cell in enumerate(pair.ipynb_notebook.cells, start=1):
        if cell.get("outputs") and sync.CONTRACT_TAG not in cell.metadata.get("tags", []):
            yield f"{name}, cell {position} has stored outputs; remove them with: geocbm sync"
        if cell.get("execution_count") is not None or set(cell.metadata) & {"execution", "papermill"}:
            yield f"{name}, cell {position} has traces of an execution; remove them with: geocbm sync"
    if state == "py":
        yield f"{name} lacks the last changes of {source.name}; make it again with: geocbm sync"
    else:
        yield f"{name} says what the script says, but is not as sync writes it; tidy it with: geocbm sync"


def _parameter_problems(source: Path, cells: list[Cell], code: list[Cell], trees: list[ast.Module]) -> Iterator[str]:
    tagged = [cell for cell in code if "parameters" in cell.tags]
    if len(tagged) != 1:
        yield f"it has {len(tagged)} cells tagged `parameters`, it needs one"
        return
    try:
        declared = read_parameters(source)
    except UserError as problem:
        yield str(problem)
        return
    used = {
        node.id
        for cell, tree in zip(code, trees, strict=True)
        if cell is not tagged[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    used |= _config_fields(trees)
    if "run" not in declared:
        yield "it has no parameter `run`, which names the folder its files go to"
    lines = [parameter.line for parameter in declared.values()]
    for name, parameter in declared.items():
        if not parameter.comment:
            yield f"parameter {name!r} has no comment that says what it means"
        if lines.count(parameter.line) > 1:
            yield f"parameter {name!r} shares its line with another; write one a line"
        if name not in used and name != "run":
            yield f"parameter {name!r} is never read; use it or remove it"


def _config_fields(trees: list[ast.Module]) -> set[str]:
    """Fields of the dataclasses that a notebook fills from ``globals()``: these parameters are read by name.

    A call such as ``config_fields(Stage1Config, globals())`` is recognised; the fields are read from the package's
    source.
    """
    fields: set[str] = set()
    for call in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if "globals()" not in {ast.unparse(each) for each in call.args}:
            continue
        for node in ast.walk(call):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if name in settings.CONFIGS.values():
                fields |= {settings.OPTIONS, *settings.read_config(name)}
    return fields


def _structure_problems(source: Path, cells: list[Cell], code: list[Cell], trees: list[ast.Module]) -> Iterator[str]:
    if not cells or cells[0].kind != "markdown" or not cells[0].source.startswith("# # "):
        yield "its first cell must be prose that begins with its question as a title"
    calls = [
        (node, cell)
        for cell, tree in zip(code, trees, strict=True)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    named = {node.func.attr for node, _ in calls if isinstance(node.func, ast.Attribute)}
    for wanted in ("start", "finish", "contract"):
        if wanted not in named:
            yield f"it never calls {wanted}()"
    for node, cell in calls:
        attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if attribute == "start" and ast.unparse(node.func) == "notebook.start":
            first = node.args[0] if node.args else None
            if not (isinstance(first, ast.Constant) and first.value == source.stem):
                yield f"notebook.start must be given the notebook's own name {source.stem!r}"
        if attribute == "contract" and sync.CONTRACT_TAG not in cell.tags:
            yield f"the cell that calls contract() needs the tag {sync.CONTRACT_TAG}"
    for cell in code:
        if sync.CONTRACT_TAG in cell.tags and not sync.contract_names(cell.source):
            yield f"line {cell.line}: a cell tagged {sync.CONTRACT_TAG} must call nb.contract(name=truth, ...)"


def _content_problems(source: Path, cells: list[Cell], code: list[Cell], trees: list[ast.Module]) -> Iterator[str]:
    for cell in cells:
        for offset, line in enumerate(cell.source.splitlines()):
            if _ABSOLUTE.search(line):
                yield f"line {cell.line + offset} names a folder of one machine; use a path below the project"
    known = set(profiles.profile_names())
    for cell, tree in zip(code, trees, strict=True):
        for node in ast.walk(tree):
            if not isinstance(node, ast.If | ast.IfExp | ast.While | ast.Match):
                continue
            test = node.subject if isinstance(node, ast.Match) else node.test
            for part in ast.walk(test):
                names = isinstance(part, ast.Name) and part.id in {"profile", "run"}
                texts = isinstance(part, ast.Constant) and part.value in known
                if names or texts:
                    at = cell.line + node.lineno - 1
                    yield f"line {at} decides by the profile; the path must be the same with less data"
                    break


def _chain_problems(names: set[str]) -> Iterator[str]:
    try:
        chain = read_chain()
        listed = {stage.notebook for stage in chain.stages}
        for missing in sorted(listed - names):
            yield f"chain.toml lists {missing}, whose script is missing"
        for missing in sorted(names - listed):
            yield f"{missing}.py is not in chain.toml; add a [[stage]] for it"
        if listed - names:
            return  # nothing more can be said of scripts that are not there
        declared = settings.read_declared(chain)
        yield from _flow_problems(chain, declared)
        for profile in profiles.profile_names():
            settings.resolve_all(chain, declared, profiles.read_profile(profile), [], "check")
        for recipe in profiles.recipe_names():
            settings.resolve_all(chain, declared, profiles.Profile("check", recipe=recipe), [], "check")
    except UserError as problem:
        yield str(problem)


def _flow_problems(chain: Chain, declared: settings.Declared) -> Iterator[str]:
    """What stages read that nobody writes, or write twice."""
    written: set[str] = set()
    for stage in chain.stages:
        for name in stage.reads:
            if name.startswith("parameter:"):
                if name.removeprefix("parameter:") not in declared[stage.number]:
                    yield f"chain.toml: {stage.notebook} reads {name}, but has no such parameter"
            elif not {"*", "["} & set(name) and name not in written:
                yield f"chain.toml: {stage.notebook} reads {name}, which no earlier stage writes"
        for name in stage.writes:
            if name in written:
                yield f"chain.toml: {name} is written by two stages, the second is {stage.notebook}"
        written.update(stage.writes)

"""Hygiene of the notebooks: what must hold of them before anything is executed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from geocbm.errors import UserError
from geocbm.files import paths
from geocbm.workbench import profiles, settings, sync
from geocbm.workbench.parameters import Cell, read_cells, read_config, read_parameters
from geocbm.workbench.stages import Chain, number_of, read_chain

MAX_BYTES = 200_000
_ABSOLUTE = re.compile(r"(?<![\w.:/<])/(?:home|root|Users|mnt|tmp|work|opt|var|srv|usr|content)/|\b[A-Za-z]:\\\\?\w")
Nodes = list[tuple[Cell, ast.AST]]
"""Every node of the syntax of each code cell, beside its cell."""


def check_all() -> list[str]:
    """Problems of all notebooks, of the chain file and of the profiles, a sentence each with file and remedy."""
    found = sync.sources()
    problems = [problem for source in found for problem in check_notebook(source)]
    names = {source.stem for source in found}
    alone = [pair for pair in sorted(paths.notebooks_folder().glob("*.ipynb")) if pair.stem not in names]
    problems += [
        f"{pair.name} has no script {pair.stem}.py; make it with: geocbm sync --take ipynb {number_of(pair.stem)}"
        for pair in alone
    ]
    return problems + list(_chain_problems(names))


def check_notebook(source: Path) -> list[str]:
    """Problems of one notebook and its pair."""
    cells = read_cells(source)
    try:
        nodes: Nodes = [
            (cell, node) for cell in cells if cell.kind == "code" for node in ast.walk(ast.parse(cell.source))
        ]
    except SyntaxError as problem:
        return [f"{source.name}: {problem.msg} in a code cell; only pure Python can be checked and hashed"]
    problems = [
        *_pair_problems(sync.Pair(source)),
        *_parameter_problems(source, nodes),
        *_structure_problems(source, cells, nodes),
        *_content_problems(cells, nodes),
    ]
    return [f"{source.name}: {problem}" for problem in problems]


def _pair_problems(pair: sync.Pair) -> Iterator[str]:
    name, source = pair.ipynb.name, pair.script.name
    if not pair.ipynb.is_file():
        yield f"{name} is missing; make it with: geocbm sync"
        return
    text = pair.ipynb.read_text(encoding="utf-8")
    if len(text.encode()) > MAX_BYTES:
        yield f"{name} has {len(text.encode())} bytes, more than {MAX_BYTES}; outputs belong into reports"
    if text == sync.pair_text(pair.script):
        return
    try:
        unique = pair.unique()
    except sync.PairError as problem:
        yield str(problem)
        return
    if unique:  # Whatever else is wrong with it, advice to make it again would throw the changes away.
        yield f"{unique}; to see them: geocbm sync {pair.number}; {pair.ways}"
        return
    for position, cell in enumerate(pair.ipynb_notebook.cells, start=1):
        if cell.get("outputs") and sync.CONTRACT_TAG not in cell.metadata.get("tags", []):
            yield f"{name}, cell {position} has stored outputs; remove them with: geocbm sync"
        if cell.get("execution_count") is not None or set(cell.metadata) & {"execution", "papermill"}:
            yield f"{name}, cell {position} has traces of an execution; remove them with: geocbm sync"
    if pair.state() == "py":
        yield f"{name} lacks the last changes of {source}; make it again with: geocbm sync"
    else:
        yield f"{name} says what the script says, but is not as sync writes it; tidy it with: geocbm sync"


def _parameter_problems(source: Path, nodes: Nodes) -> Iterator[str]:
    tagged = {cell for cell, _ in nodes if "parameters" in cell.tags}
    if len(tagged) != 1:
        yield f"it has {len(tagged)} cells tagged `parameters`, it needs one"
        return
    try:
        declared = read_parameters(source)
    except UserError as problem:
        yield str(problem)
        return
    used = _names_read([node for cell, node in nodes if cell not in tagged])
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


def _names_read(nodes: list[ast.AST]) -> set[str]:
    """Names that code reads; a call like `config_fields(Stage1Config, globals())` reads the dataclass's fields."""
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    for call in nodes:
        if isinstance(call, ast.Call) and "globals()" in {ast.unparse(each) for each in call.args}:
            for name in set(settings.CONFIGS.values()) & set(re.findall(r"\w+", ast.unparse(call))):
                used |= {settings.OPTIONS, *read_config(name)}
    return used


def _structure_problems(source: Path, cells: list[Cell], nodes: Nodes) -> Iterator[str]:
    if not cells or cells[0].kind != "markdown" or not cells[0].source.startswith("# # "):
        yield "its first cell must be prose that begins with its question as a title"
    calls = [
        (cell, node, node.func)
        for cell, node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    named = {function.attr for _, _, function in calls}
    for wanted in ("start", "finish", "contract"):
        if wanted not in named:
            yield f"it never calls {wanted}()"
    for cell, node, function in calls:
        if ast.unparse(function) == "notebook.start":
            first = node.args[0] if node.args else None
            if not (isinstance(first, ast.Constant) and first.value == source.stem):
                yield f"notebook.start must be given the notebook's own name {source.stem!r}"
        if function.attr == "contract" and sync.CONTRACT_TAG not in cell.tags:
            yield f"the cell that calls contract() needs the tag {sync.CONTRACT_TAG}"
    for cell in cells:
        if cell.kind == "code" and sync.CONTRACT_TAG in cell.tags and not sync.contract_names(cell.source):
            yield f"line {cell.line}: a cell tagged {sync.CONTRACT_TAG} must call nb.contract(name=truth, ...)"


def _content_problems(cells: list[Cell], nodes: Nodes) -> Iterator[str]:
    for cell in cells:
        for offset, line in enumerate(cell.source.splitlines()):
            if _ABSOLUTE.search(line):
                yield f"line {cell.line + offset} names a folder of one machine; use a path below the project"
    known = set(profiles.profile_names())
    for cell, node in nodes:
        if not isinstance(node, ast.If | ast.IfExp | ast.While | ast.Match):
            continue
        parts = list(ast.walk(node.subject if isinstance(node, ast.Match) else node.test))
        names = any(isinstance(part, ast.Name) and part.id in {"profile", "run"} for part in parts)
        if names or any(isinstance(part, ast.Constant) and part.value in known for part in parts):
            yield f"line {cell.line + node.lineno - 1} decides by the profile; the path must be the same with less data"


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
        tried = [profiles.read_profile(name) for name in profiles.profile_names()]
        tried += [profiles.Profile("check", recipe=recipe) for recipe in profiles.recipe_names()]
        for profile in tried:
            settings.resolve_all(chain, declared, profile, [], "check")
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

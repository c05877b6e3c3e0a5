"""The repository as a whole: dependencies told once, nothing of one machine in a file, small files, pairs in sync."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")
GENERATED = {".git", ".venv", "data", "reports", "wandb", "__pycache__"}
MEBIBYTE = 2**20


def normal(requirement: str) -> str:
    """The normalised name of a requirement."""
    match = NAME.match(requirement)
    assert match, f"not a requirement: {requirement!r}"
    return re.sub(r"[-_.]+", "-", match.group(0)).lower()


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> list[str]:
    return project()["project"]["dependencies"] + project()["project"]["optional-dependencies"]["test"]


@cache
def lock() -> dict[str, list[str]]:
    """Locked versions of each package; a package may have one per platform or Python version."""
    versions: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if line.strip():
            versions.setdefault(normal(line), []).append(line)
    return versions


@cache
def repository() -> list[Path]:
    """Files that are in git or would be added to it; without git, everything that is not generated."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        names = [ROOT / name for name in listed if name]
    else:
        names = [p for p in ROOT.rglob("*") if not GENERATED & set(p.relative_to(ROOT).parts)]
    return sorted({path for path in names if path.is_file()})


def texts() -> list[tuple[str, str]]:
    """Relative names and contents of the repository's text files."""
    result = []
    for path in repository():
        if path.suffix in (".safetensors", ".png", ".jpg", ".jpeg", ".npz", ".gz", ".parquet"):
            continue
        try:
            result.append((path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    assert len(result) > 20, "the repository's files were not found"
    return result


def places(pattern: str, only: str = "") -> list[str]:
    """Where a pattern occurs, as file:line."""
    expression = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts()
        if name.startswith(only)
        for number, line in enumerate(text.splitlines(), start=1)
        if expression.search(line)
    ]


def test_the_lock_pins_versions_and_names_no_place() -> None:
    for lines in lock().values():
        for line in lines:
            assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[\w,.-]+\])?==[0-9][^\s;@]*( ; [^@/]+)?", line), line


def test_the_lock_holds_every_dependency_within_its_bounds() -> None:
    from packaging.requirements import Requirement

    for text in requirements():
        required = Requirement(text)
        assert normal(text) in lock(), f"{text} is not in requirements.lock; run: make lock"
        for line in lock()[normal(text)]:
            version = line.split(";")[0].split("==")[1].strip()
            assert required.specifier.contains(version, prereleases=True), f"{line} breaks {text}; run: make lock"


def test_the_lock_holds_one_matching_pair_of_torch_and_torchvision() -> None:
    for name in ("torch", "torchvision"):
        (declared,) = [text for text in requirements() if normal(text) == name]
        assert [line.split(";")[0].strip() for line in lock()[name]] == [declared]


def test_the_lock_holds_the_build_backend() -> None:
    # The project itself is installed without build isolation, so that installing needs the lock and nothing else.
    for text in project()["build-system"]["requires"]:
        assert all(";" not in line for line in lock()[normal(text)])


def test_the_conda_environment_is_python_pip_and_the_project() -> None:
    import yaml

    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    plain = [item for item in content["dependencies"] if isinstance(item, str)]
    nested = [item for item in content["dependencies"] if not isinstance(item, str)]
    assert plain == [f"python{project()['project']['requires-python']}", "pip"]
    assert nested == [{"pip": ["-e .[test]"]}]


def test_the_readme_gives_a_reason_for_every_dependency() -> None:
    rows = re.findall(r"^\|(.+?)\|(.+)\|\s*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    reasons = {normal(name): reason for names, reason in rows for name in re.findall(r"`([A-Za-z][\w.-]*)`", names)}
    missing = [text for text in requirements() if len(reasons.get(normal(text), "").strip()) < 10]
    assert not missing, f"README's table of dependencies lacks a row with a reason for: {', '.join(missing)}"


def test_every_import_of_the_package_is_declared() -> None:
    declared = {normal(text) for text in requirements()}
    owners = packages_distributions()
    missing = []
    for path in sorted((ROOT / "geocbm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for top in {name.split(".")[0] for name in names} - {"geocbm", "geocbm_atlas"}:
                # What a declared package cannot work without comes with it.
                if top not in sys.stdlib_module_names and not {normal(o) for o in owners.get(top, [top])} & (
                    declared | carried(frozenset(declared))
                ):
                    missing.append(f"{path.relative_to(ROOT)} imports {top}")
    assert not missing, missing


@cache
def carried(declared: frozenset[str]) -> set[str]:
    """Direct requirements of the declared packages: present wherever those are."""
    from importlib.metadata import PackageNotFoundError, requires

    found: set[str] = set()
    for name in declared:
        try:
            found |= {normal(text) for text in requires(name) or [] if "extra ==" not in text}
        except PackageNotFoundError:
            continue
    return found


# The patterns are spelled with brackets, so that this file does not match itself.
@pytest.mark.parametrize(
    "pattern",
    [
        r"(^|[\s\"'=(:])/([r]oot|[h]ome/\w+|[U]sers/\w+|[w]ork/\w+)(/|\b)",
        r"[A-Z]:\\\\?[U]sers",
        r"/[t]mp/[\w.]+",
        r"https?://[^\s/\"']*([p]ypi\.|[p]ythonhosted|[a]rtifactory|[n]exus|[r]egistry\.|[m]irror)",
        r"(--|_)([e]xtra_|[e]xtra-)?[i]ndex[-_]url[= ]+['\"]?http",
        r"[t]rusted[-_]host",
    ],
)
def test_no_file_knows_this_machine_or_a_registry(pattern: str) -> None:
    assert not places(pattern)


def test_no_file_names_the_index_that_pip_uses_here() -> None:
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    hosts = {host for host in re.findall(r"https?://(?:[^@/\s']*@)?([^/\s:']+)", configured) if "." in host}
    for host in hosts:
        assert not places(re.escape(host)), f"{host} is this machine's package index"


@pytest.mark.parametrize(
    "pattern",
    [
        r"\b[T]ODO\b|\b[F]IXME\b",
        r"[N]otImplementedError",
        r"sys\.[p]ath\.(insert|append)",
        r"pytest\.mark\.[s]kip\b",
    ],
)
def test_no_stub_and_no_detour(pattern: str) -> None:
    assert not places(pattern, "geocbm/") + places(pattern, "tests/") + places(pattern, "notebooks/")


def test_whoever_catches_everything_says_why_on_the_line() -> None:
    broad = re.compile(r"except\s*:|except\s+\(?(Base)?Exception\b|suppress\((Base)?Exception\b")
    silent = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in repository()
        if path.suffix == ".py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if broad.search(line.partition("#")[0]) and "re.compile" not in line and not line.partition("#")[2].strip()
    ]
    assert silent == []


def test_nothing_is_unpickled() -> None:
    # GeoCLIP bundles its weights as a torch archive: read with weights_only=True, which runs no code.
    pattern = r"\b[p]ickle\.loads?\(|\btorch\.[l]oad\((?!.*weights_only=True)|allow_[p]ickle=True|joblib\.[l]oad\("
    assert not places(pattern, "geocbm/") + places(pattern, "notebooks/")


def test_files_are_small() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in repository()}
    assert not {name: size for name, size in sizes.items() if size > 8 * MEBIBYTE}
    assert sum(sizes.values()) < 40 * MEBIBYTE
    long = {
        name: text.count("\n")
        for name, text in texts()
        if name.startswith(("geocbm/", "notebooks/")) and name.endswith(".py") and text.count("\n") > 400
    }
    assert not long, f"over 400 lines; divide by subject: {long}"


def test_the_package_carries_its_templates_and_data() -> None:
    from importlib.resources import files

    patterns = project()["tool"]["setuptools"]["package-data"]
    for package, globs in patterns.items():
        folder = ROOT / package.replace(".", "/")
        for pattern in globs:
            assert [path for path in folder.glob(pattern) if path.is_file()], f"{package}: nothing matches {pattern}"
    for name in ("layout.html.j2", "notebook.html.j2", "run.html.j2", "site.html.j2", "site.css", "site.js"):
        assert files("geocbm.workbench").joinpath("templates", name).is_file()
    folders = {path.parent for path in (ROOT / "geocbm").rglob("*.py")}
    packages = {path.parent for path in (ROOT / "geocbm").rglob("__init__.py")}
    assert folders == packages, "every folder with modules is a package, so that the build finds it"
    assert project()["tool"]["setuptools"]["packages"]["find"]["include"] == ["geocbm", "geocbm.*", "geocbm_atlas"]


def test_make_and_continuous_integration_agree() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("run", "test", "lab", "lock"):
        assert re.search(rf"^{target}: \$\(STAMP\)$", makefile, re.MULTILINE), f"make {target}"
    script = ROOT / ".ci" / "run"
    assert "make ci" in script.read_text(encoding="utf-8") and script.stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ('#!/bin/sh\ncase "$2" in *version_info*) exit 1;; *) echo 3.9.18;; esac\n', "needs Python 3.11 or later"),
        ('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; *) exit 0;; esac\n', "without its venv module"),
        (None, "install Python 3.11 or later"),
    ],
)
def test_make_says_in_one_sentence_what_python_lacks(tmp_path: Path, python: str | None, words: str) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    fake = tmp_path / "fake-python"
    if python is not None:
        fake.write_text(python)
        fake.chmod(0o755)
    result = subprocess.run(
        ["make", "run", f"PYTHON={fake}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    sentences = [line for line in result.stderr.splitlines() if words in line]
    assert len(sentences) == 1, result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / ".venv").exists()


def test_pairs_are_in_sync_and_parameters_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    from geocbm.cli import main

    status = main(["check"])
    captured = capsys.readouterr()
    assert status == 0, captured.out + captured.err


def test_nbval_compares_contracts_and_nothing_that_varies() -> None:
    from importlib.util import module_from_spec, spec_from_file_location
    from types import SimpleNamespace

    spec = spec_from_file_location("notebooks_conftest", ROOT / "notebooks" / "conftest.py")
    assert spec and spec.loader
    conftest = module_from_spec(spec)
    spec.loader.exec_module(conftest)
    collector = SimpleNamespace(skip_compare=("metadata",))
    conftest.pytest_collectstart(collector)
    assert {"metadata", "application/vnd.plotly.v1+json", "stderr"} <= set(collector.skip_compare)
    assert "stdout" not in collector.skip_compare, "a contract is printed to the standard output"
    contract = {"outputs": [{"text": "loss_fell: holds"}], "execution_count": None}
    plain: dict = {"outputs": [], "execution_count": None}
    conftest.pytest_collection_modifyitems([SimpleNamespace(cell=contract), SimpleNamespace(cell=plain), object()])
    assert (contract["execution_count"], plain["execution_count"]) == (1, None)


def test_sanitising_patterns_are_regular_expressions() -> None:
    from configparser import RawConfigParser

    parser = RawConfigParser()
    parser.read(ROOT / "notebooks" / "sanitize.cfg")
    assert parser.sections()
    for section in parser.sections():
        assert re.compile(parser[section]["regex"]) and parser[section]["replace"]
    assert re.sub(parser["durations"]["regex"], "DURATION", "took 1.25 s") == "took DURATION"

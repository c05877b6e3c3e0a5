"""The stages of the chain as ``notebooks/chain.toml`` declares them: which notebook, what it reads, what it writes."""

import fnmatch
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geocbm.errors import MissingInputError, ParameterError, did_you_mean
from geocbm.files import paths

NUMBER = r"\d\d[a-z]?"
"""Pattern of a notebook's number: two digits, and a letter where one page became two (06, 06b)."""
NUMBER_GLOB = "[0-9][0-9]*"
"""The same for names of files, a little wider."""
_KEYS = {"notebook", "reads", "writes", "timeout", "beside"}


def number_of(notebook: str) -> str:
    """Number that a notebook's name begins with, such as ``06b``; the name itself where it has none."""
    match = re.match(rf"({NUMBER})_", notebook)
    return match[1] if match else notebook


@dataclass(frozen=True)
class Stage:
    """One notebook of the chain.

    A plain name among those that it reads is a file of the run and must exist; ``parameter:NAME`` is the file or folder
    that a parameter names. A name with ``*`` stands for all files of the run that match, perhaps none; the same behind
    ``runs/`` looks at all runs.
    """

    notebook: str  # name without suffix, such as ``05_stage2_geolocation``
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()  # files of the run that exist when the notebook has run
    timeout: float | None = None  # limit in seconds; None for the command's own
    beside: bool = False  # takes a share of the processors, and may run beside stages that it does not read

    @property
    def promised(self) -> tuple[str, ...]:
        """Files that must exist when the notebook has run."""
        return tuple(name for name in self.writes if "*" not in name)

    @property
    def own_reads(self) -> tuple[str, ...]:
        """Names and patterns of the files of its own run that it reads."""
        return tuple(name for name in self.reads if not name.startswith(("parameter:", "runs/")))

    @property
    def number(self) -> str:
        """What the notebook's name begins with."""
        return number_of(self.notebook)

    @property
    def title(self) -> str:
        """The name behind the number."""
        return self.notebook.removeprefix(f"{self.number}_")

    @property
    def source(self) -> Path:
        """The percent script, which is the source of truth."""
        return paths.notebooks_folder() / f"{self.notebook}.py"

    @property
    def record(self) -> str:
        """File of the run with what the notebook has measured."""
        return f"records/{self.number}.json"

    def writes_file(self, name: str) -> bool:
        """Whether a file of the run is among those it writes."""
        return any(fnmatch.fnmatch(name, each) for each in self.writes)

    def feeds(self, read: str) -> bool:
        """Whether it writes what another stage reads under this name or pattern."""
        pattern = read.removeprefix("runs/*/")
        return self.writes_file(read) or (
            bool({"*", "["} & set(read)) and bool(fnmatch.filter([*self.writes, self.record], pattern))
        )


@dataclass(frozen=True)
class Chain:
    """All stages in the order of their execution."""

    stages: tuple[Stage, ...]  # those that summarise a run come last whatever their number
    atlas: dict[str, Any] = field(default_factory=dict)  # `scenes`, `seed`, `size` of a world if no profile says others

    def stage(self, name: str) -> Stage:
        """Stage of a number, a notebook's name, or a part of its title that no other has, such as ``geocells``."""
        found = [stage for stage in self.stages if name in (stage.number, stage.notebook, stage.title)]
        found = found or [
            stage for stage in self.stages if name and (stage.title.startswith(name) or name in stage.title.split("_"))
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise ParameterError(f"stage {name!r} may be {' or '.join(stage.notebook for stage in found)}; say which")
        parts = [part for stage in self.stages for part in (stage.title, *stage.title.split("_"))]
        listed = ", ".join(sorted(f"{stage.number} {stage.title}" for stage in self.stages))
        raise ParameterError(f"there is no stage {name!r}; {did_you_mean(name, parts)}the stages are: {listed}")

    def writer(self, name: str, otherwise: str) -> str:
        """Number of the stage that writes a file of the run, or the given one."""
        return next((stage.number for stage in self.stages if stage.writes_file(name)), otherwise)

    def feeders(self, reader: Stage) -> list[Stage]:
        """Stages on whose files another depends directly."""
        return [stage for stage in self.stages if any(stage.feeds(name) for name in reader.reads)]

    def downstream(self, number: str) -> set[str]:
        """Numbers of a stage and of those that read, directly or through others, what it writes."""
        found = {number}
        for stage in self.stages:  # in order of execution, so one pass is enough
            if any(feeder.number in found for feeder in self.feeders(stage)):
                found.add(stage.number)
        return found


def read_chain() -> Chain:
    """Read ``chain.toml``; what is not as the chain understands it is refused with where it stands."""
    file = paths.notebooks_folder() / "chain.toml"
    if not file.is_file():
        raise MissingInputError(
            f"there is no notebooks/chain.toml in {file.parent.parent.name}/; start the command in the project's "
            "folder or set GEOCBM_ROOT to it"
        )
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as problem:
        raise ParameterError(f"notebooks/chain.toml cannot be read: {problem}") from None
    stages: list[Stage] = []
    for entry in content.get("stage", []):
        name = entry.get("notebook", "")
        if strange := set(entry) - _KEYS:
            raise ParameterError(
                f"chain.toml, stage {name!r}: unknown key {min(strange)!r}; known: {', '.join(sorted(_KEYS))}"
            )
        if not re.fullmatch(rf"{NUMBER}_.+", name):
            raise ParameterError(
                f"chain.toml: notebook={name!r} must be a number such as 06 or 06b, an underscore and a title"
            )
        flow = tuple(entry.get("reads", ())), tuple(entry.get("writes", ()))
        stages.append(Stage(name, *flow, entry.get("timeout"), bool(entry.get("beside", False))))
    numbers = [stage.number for stage in stages]
    if len(set(numbers)) < len(numbers) or not numbers:
        raise ParameterError(f"chain.toml needs stages with different numbers, it has: {', '.join(numbers) or 'none'}")
    return Chain(tuple(stages), dict(content.get("atlas", {})))

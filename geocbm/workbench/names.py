"""Names that a shell completes; the shell's own part, to offer those that begin as typed, is typer's.

Whoever types a command where there are no notebooks or runs is offered nothing, and no error.
"""

from contextlib import suppress

from geocbm.errors import UserError
from geocbm.files import paths
from geocbm.workbench import settings
from geocbm.workbench.stages import read_chain


def runs() -> list[str]:
    """All runs that have files or pages."""
    return sorted({*paths.runs_in(paths.data_root() / "runs"), *paths.runs_in(paths.reports_root())})


def stages(incomplete: str) -> list[str]:
    """Titles and numbers of stages, behind the whole ones of a list with commas."""
    before, comma, _ = incomplete.rpartition(",")
    with suppress(UserError):
        return [f"{before}{comma}{name}" for stage in read_chain().stages for name in (stage.title, stage.number)]
    return []


def assignments(incomplete: str) -> list[str]:
    """The beginnings ``stage.name=`` of settings: stages first, and behind the dot the parameters of one."""
    stage, dot, _ = incomplete.partition(".")
    with suppress(UserError):
        chain = read_chain()
        if not dot:
            return [f"{each.title}." for each in chain.stages]
        number = chain.stage(stage).number
        declared = settings.read_declared(chain)[number]
        known = dict.fromkeys([*declared, *settings.settings_of(number, declared)])
        return [f"{stage}.{name}=" for name in known if name not in ("run", settings.OPTIONS)]
    return []

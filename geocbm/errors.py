"""Errors meant for a person: one clear sentence with the offending value and the remedy.

The command line prints the message of a `UserError` and exits with a non-zero status; anything else is a bug and keeps
its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A problem the user can mend; its message is complete without a traceback."""


class BadTableError(UserError, ValueError):
    """A table breaks the schema.

    Attributes:
        problems: one sentence per problem, each with its row numbers and a remedy.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class MissingInputError(UserError, FileNotFoundError):
    """A file that an earlier step writes is not there; the message names the command that makes it."""


class ParameterError(UserError, ValueError):
    """A parameter is unknown, has the wrong type or an impossible value."""


class MismatchError(UserError, ValueError):
    """A file was made from another table, other weights or other labels than the ones in use."""


class DamagedError(MismatchError):
    """A file is not whole, or is not what was written."""


class NoSpaceError(UserError, OSError):
    """The disk cannot hold what is about to be written."""


class UnwritableError(UserError, OSError):
    """A folder cannot be written, whatever is to be written there."""


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise `ParameterError` unless `value` is one of `choices`."""
    if value not in choices:
        listed = ", ".join(map(repr, choices[:-1]))
        raise ParameterError(f"{name}={value!r} is unknown; use {listed} or {choices[-1]!r}")


def cut_middle(text: str, most: int = 200) -> str:
    """A text of any length for people: the middle of a longer one is left out."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) + 1 - (most - most // 2) :]}"


def printable(name: object, most: int = 200) -> str:
    """A name from outside for people: cut, and with a question mark for all that is no printable character."""
    return "".join(letter if letter.isprintable() else "?" for letter in cut_middle(str(name), most))


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300].rstrip(".:;")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question after the nearest known name, with a space behind it; empty when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""

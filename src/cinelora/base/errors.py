"""Owns every error that is meant for the person at the keyboard, and how such a message is laid out.

    CineloraError
    |-- RecipeError   exit 2   the recipe or the command line asks for something that cannot be
    |-- DataError     exit 3   clips, captions, tables: missing, broken, too short, outside their folder
    |-- WeightsError  exit 4   a checkpoint or an adapter does not fit
    |-- RunError      exit 1   the run itself: folder in use, disk full, loss not finite, file not as saved
    `-- Stopped       exit 130 a signal ended the run in good order; nothing is wrong

An error carries a list of `Problem`s, so that everything wrong is told at once (`Problems.raise_if_any`).
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what, what was found, what would do, where it stands, and what to do about it."""

    what: str
    found: str = ""
    allowed: str = ""
    nearest: str = ""
    where: str = ""
    do: str = ""

    def __str__(self) -> str:
        lines = [self.what]
        named = (("found", self.found), ("allowed", self.allowed), ("nearest", self.nearest), ("where", self.where))
        lines += [f"  {name}: {text}" for name, text in (*named, ("do", self.do)) if text]
        return printable("\n".join(lines))


class CineloraError(Exception):
    """Base of all errors with a message for the user; `exit_code` is what the command line returns."""

    exit_code = 1
    prefix = "error: "
    noun = "problems"

    def __init__(self, *problems: Problem | str):
        self.problems = [p if isinstance(p, Problem) else Problem(p) for p in problems]
        super().__init__(*self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        numbered = [f"{k}. " + str(p).replace("\n", "\n   ") for k, p in enumerate(self.problems, 1)]
        return "\n".join([f"{len(self.problems)} {self.noun}:", *numbered])


class RecipeError(CineloraError):
    """The recipe or the command line cannot be followed."""

    exit_code = 2
    noun = "problems in the recipe, all of them"


class DataError(CineloraError):
    """Clips, captions or tables cannot be used as they are."""

    exit_code = 3
    noun = "problems in the data, all of them"


class WeightsError(CineloraError):
    """A checkpoint or an adapter does not fit the network it is meant for."""

    exit_code = 4
    noun = "problems in the weights, all of them"


class RunError(CineloraError):
    """The run cannot start or go on."""

    exit_code = 1
    noun = "problems of the run, all of them"


class Stopped(CineloraError):  # noqa: N818 (nothing went wrong)
    """A signal asked the run to end, and it did, with everything saved."""

    exit_code = 130
    prefix = ""


class Problems:
    """Gathers problems over a whole pass and raises them as one error."""

    def __init__(self, error: type[CineloraError]):
        self.error = error
        self.found: list[Problem] = []

    def add(self, what: str, **parts: str) -> None:
        """Note one problem; keyword arguments are the fields of `Problem`."""
        self.found.append(Problem(what, **parts))

    def raise_if_any(self) -> None:
        """Raise one error with all problems noted so far, or return."""
        if self.found:
            raise self.error(*self.found)


def printable(text: str) -> str:
    """Text with control characters but line breaks, and halves of surrogate pairs, as escapes: names of files may hold
    what a terminal would obey, or cannot show."""
    odd = {letter for letter in text if letter != "\n" and unicodedata.category(letter) in ("Cc", "Cs")}
    return text.translate({ord(letter): ascii(letter)[1:-1] for letter in odd})


def nearest(word: str, allowed: Iterable[str], *, count: int = 3) -> str:
    """The allowed words most like `word`, comma-separated; empty where none is near."""
    return ", ".join(get_close_matches(word, list(allowed), n=count, cutoff=0.5))

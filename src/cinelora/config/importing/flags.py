"""Owns reading the words of a command as the old program's own parser does: its flags, by the dialect's table.

In: words with their lines, the dialect. Out: a list of `Said` and the problems, all of them. Rules: Python's argparse
(--name value, --name=value, switches, several values, the beginning of a name where only one begins so, -s), and
OmegaConf's a.b=c.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cinelora.base.errors import Problem, nearest
from cinelora.config.importing.dialect import Dialect, Old
from cinelora.config.importing.said import Said
from cinelora.config.importing.shell import Word, problems_of

AND_SO_ON = ("...", "…")
"""A word of pages that show a part of a command; it stands for whatever else there is."""
_DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.\w+)+)=(.*)", re.S)
_NUMBER = re.compile(r"-(\d|\.\d)[\d.eE+-]*")
_TRUTHS = ("true", "false")


@dataclass
class Flags:
    """What a command says: settings in order, problems, and what is worth knowing."""

    dialect: Dialect
    file: str
    said: list[Said] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def read(self, words: Sequence[Word]) -> "Flags":
        """Go through the words once."""
        queue = [word for word in words if word.text not in AND_SO_ON]
        if len(queue) < len(words):
            self.notes.append(f"{self.file}:{words[0].line}: the command goes on behind '...', which says nothing here")
        self.problems += problems_of(tuple(queue))
        while queue:
            word = queue.pop(0)
            if word.problems and not word.text.startswith("-"):
                continue  # told above
            if _is_flag(word):
                self._flag(word, queue)
            elif found := _DOTTED.fullmatch(word.text):
                self.said.append(Said(found[1], found[2], self._at(word), found[1]))
            else:
                what, do = "a word that belongs to no flag", "put it into quotes with the words before it, or remove it"
                self._tell(what, word, found=word.text, do=do)
        return self

    def _at(self, word: Word) -> str:
        return f"{self.file}:{word.line}"

    def _tell(self, what: str, word: Word, **parts: str) -> None:
        self.problems.append(Problem(what, where=self._at(word), **parts))

    def _flag(self, word: Word, queue: list[Word]) -> None:
        """One flag with its values."""
        spelt, equals, value = word.text.partition("=")
        name = self._name(spelt, word)
        if not name:
            while queue and not _is_flag(queue[0]) and not equals:
                queue.pop(0)  # its values, which are as unknown as itself
            return
        old = self.dialect.settings[name]
        if old.switch:
            self._switch(name, word, queue)
            return
        values = [Word(value, word.line)] if equals else self._values(old, queue, reads=name in self.dialect.reads)
        if not values:
            found = f"{word.text} {queue[0].text}" if queue else word.text
            self._tell(f"{spelt} has no value", word, found=found, do="write one behind it, or remove the flag")
            return
        if any(one.problems for one in values):
            return
        self._say(name, [one.text for one in values] if old.many else values[0].text, word, spelt)

    def _values(self, old: Old, queue: list[Word], *, reads: bool) -> list[Word]:
        values: list[Word] = []
        while queue and not _is_flag(queue[0]) and (old.many or not values):
            if old.many and values and reads and _DOTTED.fullmatch(queue[0].text):
                break
            values.append(queue.pop(0))
        return values

    def _switch(self, name: str, word: Word, queue: list[Word]) -> None:
        spelt, equals, value = word.text.partition("=")
        if not equals and queue and queue[0].text.lower() in _TRUTHS:
            equals, value = "=", queue.pop(0).text
        if equals and value.lower() not in _TRUTHS:
            self._tell(f"{spelt} takes no value", word, found=word.text, do=f"write {spelt} alone")
            return
        self._say(name, value.lower() != "false", word, spelt)

    def _say(self, name: str, value: object, word: Word, spelt: str) -> None:
        earlier = next((one for one in self.said if one.name == name), None)
        if earlier is not None and name not in self.dialect.pairs:
            self.said.remove(earlier)
            self.notes.append(f"{self._at(word)}: {spelt} is said twice; the last one counts, as it did")
        self.said.append(Said(name, value, self._at(word), spelt))

    def _name(self, spelt: str, word: Word) -> str:
        """The setting of a flag; empty where there is none, which is noted with the nearest."""
        if spelt in self.dialect.short:
            return self.dialect.short[spelt]
        known = [name for name in self.dialect.settings if "." not in name and "*" not in name]
        name = spelt[2:] if spelt.startswith("--") else ""
        if name in known:
            return name
        longer = [one for one in known if name and one.startswith(name)]
        if len(longer) == 1:
            return longer[0]
        shown = [f"--{one}" for one in known] + list(self.dialect.short)
        what = f"{spelt} is the beginning of several flags" if longer else f"{self.dialect.title} has no such flag"
        allowed = ", ".join(f"--{one}" for one in longer)
        near = "" if longer else nearest(spelt.replace("-", "_").replace("__", "--", 1), shown) or nearest(spelt, shown)
        self._tell(what, word, found=spelt, allowed=allowed, nearest=near, do="correct or remove it")
        return ""


def _is_flag(word: Word) -> bool:
    return len(word.text) > 1 and word.text.startswith("-") and not _NUMBER.fullmatch(word.text)

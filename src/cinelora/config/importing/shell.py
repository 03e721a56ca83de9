"""Owns what a shell text says without running it: commands as words with their lines, variables with theirs.

In: the text of a script, or of a Markdown page with fenced blocks. Out: a `Script`. What only running could tell (the
output of another command, a variable that nothing sets, what an if decides) travels as a problem with the word that
needs it, and is raised only where that word is used.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from cinelora.base.errors import Problem, nearest
from cinelora.config.importing.shell_words import Lexer, Part, Token

_OPENS = {"if": "fi", "for": "done", "while": "done", "until": "done", "select": "done", "case": "esac", "{": "}"}
_CLOSES = {*_OPENS.values(), ")"}
_BETWEEN = {"then", "else", "elif", "do", "!", "time"}
_DECLARES = {"export", "declare", "typeset", "readonly", "local"}
_KNOWN = ("HOME", "PWD", "USER")
"""Variables that every shell has, and that are the same here."""
_ASSIGNS = re.compile(r"([A-Za-z_]\w*)(\+?)=")
_FENCE = re.compile(r"\s*(```|~~~)")
_REDIRECTS = {"<", ">", ">>", "&>", ">&", "<&", "<<", "<<-", "<<<"}


@dataclass(frozen=True)
class Word:
    """A word as the command gets it; `names` are the variables in it, `problems` what running would be needed for."""

    text: str
    line: int
    names: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Command:
    """A simple command; `sets` are assignments before it, `inside` the loop, condition or function around it."""

    words: tuple[Word, ...]
    line: int
    sets: dict[str, Word] = field(default_factory=dict)
    inside: str = ""


@dataclass(frozen=True)
class Variable:
    """What a name stands for at the end of the text; several words where it is a list."""

    words: tuple[Word, ...]
    line: int
    exported: bool = False
    inside: str = ""

    @property
    def text(self) -> str:
        """Its value; of a list the first item, as in a shell."""
        return self.words[0].text if self.words else ""


@dataclass
class Script:
    """Commands in order, variables as they are at the end, and what is odd about the text, each with FILE:LINE.

    `starts` are the first lines of its fenced blocks, of a script 1.
    """

    file: str
    commands: list[Command] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    starts: tuple[int, ...] = (1,)


def read_shell(text: str, file: str) -> Script:
    """Take a text apart. Raises nothing: what cannot be known is told where it is used."""
    reader = _Reader(file)
    late = "a shell does not go on after a backslash that is not the last letter of its line; here it is read so"
    blocks = blocks_of(text.replace("\r\n", "\n"))
    reader.script.starts = tuple(line for line, _ in blocks)
    for line, block in blocks:
        lexer = Lexer(block, line=line)
        reader.run(lexer.run())
        reader.script.notes += [f"{file}:{line}: {late}" for line in lexer.late]
    return reader.script


def blocks_of(text: str) -> list[tuple[int, str]]:
    """The blocks within Markdown fences, each with its first line's number; the whole where there are no fences.

    A quote or a loop that one of them leaves open, as tables and Python do, ends with it.
    """
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if _FENCE.match(line)]
    if not fences:
        return [(1, text)]
    ends = [*fences[1::2], len(lines)]
    return [(first + 2, "\n".join(lines[first + 1 : last])) for first, last in zip(fences[::2], ends, strict=False)]


class _Reader:
    """Goes through the tokens of each block in order, as a shell would, and keeps what is set."""

    def __init__(self, file: str):
        self.script, self.tokens = Script(file), list[Token]()
        self.position = 0
        self.around: list[tuple[str, str, int]] = []
        """What is open: the word that closes it, what it is, its line."""

    def run(self, tokens: list[Token]) -> None:
        self.tokens, self.position = tokens, 0
        self.around.clear()
        while self.position < len(self.tokens):
            self._command()

    @property
    def inside(self) -> str:
        """The innermost construct that decides whether a command runs."""
        return next((f"{what} (line {line})" for _, what, line in reversed(self.around) if what != "group"), "")

    def _peek(self, ahead: int = 0) -> Token | None:
        at = self.position + ahead
        return self.tokens[at] if at < len(self.tokens) else None

    def _command(self) -> None:
        """One simple command up to its separator, with the reserved words before it."""
        words: list[Word] = []
        sets: dict[str, Word] = {}
        line = 0
        while (token := self._peek()) is not None:
            if token.operator in _REDIRECTS:
                self._redirect()
                continue
            if token.operator:
                self.position += 1
                self._operator(token, words)
                break
            line = line or token.line
            if not words and not sets and self._reserved(token):
                continue
            self._word(token, words, sets)
        self._finish(words, sets, line)

    def _operator(self, token: Token, words: list[Word]) -> None:
        following = self._peek()
        if token.operator == "(" and words and following and following.operator == ")":
            self.position += 1
            self._open_function(words)
        elif token.operator == "(":
            self.around.append((")", "group", token.line))
        elif token.operator == ")" and self.around and self.around[-1][0] == ")":
            self.around.pop()

    def _open_function(self, words: list[Word]) -> None:
        name = words.pop().text
        while (token := self._peek()) is not None and token.operator == "\n":
            self.position += 1
        if token is not None and _plain(token) == "{":
            self.position += 1
            self.around.append(("}", f"function {name}", token.line))

    def _redirect(self) -> None:
        """Skip a redirection and where it goes."""
        self.position += 1
        if (target := self._peek()) is not None and not target.operator:
            self.position += 1

    def _reserved(self, token: Token) -> bool:
        """Take a reserved word of the shell; False where it is none."""
        word = _plain(token)
        if word in _OPENS:
            what = "group" if word == "{" else word if word == "if" else f"{word} loop" if word != "case" else "case"
            self.around.append((_OPENS[word], what, token.line))
            self.position += 1
            if word in ("for", "select", "case"):
                self._header(word)
            return True
        if word in _CLOSES or word in _BETWEEN:
            if self.around and self.around[-1][0] == word:
                self.around.pop()
            self.position += 1
            return True
        if word == "function" and (name := self._peek(1)) is not None:
            self.position += 2
            self._open_function([Word(_plain(name), name.line)])
            return True
        return False

    def _header(self, word: str) -> None:
        """Skip what a for or case goes over; the variable of a loop is not known within."""
        if word != "case" and (token := self._peek()) is not None and not token.operator:
            name = _plain(token)
            problem = self._unknown(f"${name} is what the loop goes over", token.line)
            self.script.variables[name] = Variable((Word("", token.line, problems=(problem,)),), token.line)
        while (token := self._peek()) is not None and token.operator not in (";", "\n") and _plain(token) != "in":
            self.position += 1
        while word != "case" and (token := self._peek()) is not None and token.operator not in (";", "\n"):
            self.position += 1

    def _word(self, token: Token, words: list[Word], sets: dict[str, Word]) -> None:
        self.position += 1
        declares = bool(words) and words[0].text in _DECLARES
        assigned = self._assignment(token) if not words or declares else None
        if assigned is None:
            if not (token.parts[0].kind == "plain" and re.fullmatch(r"\d", token.parts[0].text) and self._is_number()):
                words += self._expand(token)
            return
        name, adds, value = assigned
        following = self._peek()
        if following is not None and following.operator == "(" and following.glued and not value:
            self.position += 1
            self._set(name, self._items(), token.line, adds=adds, exported=declares)
            sets.setdefault("", Word("", token.line))
            return
        word = self._join(value, token.line)
        if declares:
            self._set(name, (word,), token.line, adds=adds, exported=words[0].text == "export")
            words.append(Word(f"{name}={word.text}", token.line))
        else:
            sets[f"{name}+" if adds else name] = word

    def _is_number(self) -> bool:
        """True where the digit just read is the number of what a redirection glued to it takes."""
        following = self._peek()
        return following is not None and following.glued and following.operator in _REDIRECTS

    def _items(self) -> tuple[Word, ...]:
        """The words of a list up to its bracket."""
        items: list[Word] = []
        while (token := self._peek()) is not None and token.operator != ")":
            self.position += 1
            items += [] if token.operator else self._expand(token)
        self.position += 1
        return tuple(items)

    def _assignment(self, token: Token) -> tuple[str, bool, tuple[Part, ...]] | None:
        """Name, whether it adds to what is there, and the parts of the value; None where a word is no assignment."""
        first = token.parts[0]
        found = _ASSIGNS.match(first.text) if first.kind == "plain" else None
        if not found:
            return None
        rest = first.text[found.end() :]
        return found[1], bool(found[2]), ((replace(first, text=rest),) if rest else ()) + token.parts[1:]

    def _finish(self, words: list[Word], sets: dict[str, Word], line: int) -> None:
        if not words:
            for name, word in sets.items():
                if name:
                    self._set(name.rstrip("+"), (word,), word.line, adds=name.endswith("+"))
            return
        if words[0].text == "export":
            for word in words[1:]:
                known = self.script.variables.get(word.text)
                if known:
                    self.script.variables[word.text] = replace(known, exported=True)
        if words[0].text == "unset":
            for word in words[1:]:
                self.script.variables.pop(word.text, None)
        kept = {name: word for name, word in sets.items() if name}
        self.script.commands.append(Command(tuple(words), line, kept, self.inside))

    def _set(
        self, name: str, value: tuple[Word, ...], line: int, *, adds: bool = False, exported: bool = False
    ) -> None:
        old = self.script.variables.get(name)
        if adds and old is not None:
            joined = len(old.words) == len(value) == 1
            problems = (*old.words[0].problems, *value[0].problems) if joined else ()
            text = old.text + value[0].text if joined else ""
            value = (Word(text, line, problems=problems),) if joined else (*old.words, *value)
        if self.inside and not self.inside.startswith("function"):
            what = f"${name} is set inside a loop or condition: {self.inside}"
            value = (Word(value[0].text if value else "", line, problems=(self._unknown(what, line),)),)
        exported = exported or (old is not None and old.exported)
        self.script.variables[name] = Variable(value, line, exported, self.inside)

    def _unknown(self, what: str, line: int, *, found: str = "", near: str = "") -> Problem:
        do = "write the value itself in its place: nothing is run to find it out"
        return Problem(what, found=found, nearest=near, where=f"{self.script.file}:{line}", do=do)

    def _join(self, parts: tuple[Part, ...], line: int) -> Word:
        """The parts as one word, nothing split: what an assignment takes."""
        found = [piece for part in parts for piece in self._values(part, line)]
        text = " ".join(w.text for w in found) if any(part.list for part in parts) else "".join(w.text for w in found)
        return _merged(text, line, found)

    def _expand(self, token: Token) -> list[Word]:
        """The words that a word becomes: none, one, or several where a variable without quotes holds blanks."""
        done: list[Word] = []
        text, found, there = "", [], False
        kept = self._kept_whole(token)
        for part in token.parts:
            values = self._values(part, token.line)
            splits = part.kind == "variable" and not part.whole and not part.list and not kept
            pieces = [replace(v, text=t) for v in values for t in v.text.split()] if splits else values
            problems = [replace(v, text="") for v in values if splits and v.problems and not v.text.split()]
            for number, piece in enumerate([*pieces, *problems]):
                if number and (splits or part.list):
                    done.append(_merged(text, token.line, found))
                    text, found = "", []
                text, there = text + piece.text, True
                found.append(piece)
        if not text and not _says(found) and any(part.list for part in token.parts):
            return done  # "$@" without arguments is no word
        return [*done, _merged(text, token.line, found)] if there else done

    def _kept_whole(self, token: Token) -> bool:
        """True for --name=$VALUE whose value has blanks, which is told: a shell would make several words of it."""
        first = token.parts[0]
        if not (first.kind == "plain" and re.fullmatch(r"--?[\w.-]+=", first.text)):
            return False
        loose = [part for part in token.parts[1:] if part.kind == "variable" and not part.whole and not part.list]
        values = [word.text for part in loose for word in self._values(part, token.line)]
        if any(len(value.split()) > 1 for value in values):
            told = f"{first.text}... has blanks and no quotes: a shell makes several words of it, here it is one"
            self.script.notes.append(f"{self.script.file}:{token.line}: {told}")
            return True
        return False

    def _values(self, part: Part, line: int) -> list[Word]:
        if part.kind in ("plain", "quoted"):
            return [Word(part.text, line)]
        if part.kind == "unknown":
            what = part.text if part.text.startswith("a quote") else "this is known only when it is run"
            return [Word("", line, problems=(self._unknown(what, line, found=part.text),))]
        variable = self.script.variables.get(part.text)
        names = frozenset({part.text})
        if variable is None and part.text in _KNOWN and part.text in os.environ:
            return [Word(os.environ[part.text], line, names)]
        if part.fallback is not None and (variable is None or not (variable.text or variable.words[0].problems)):
            return [replace(w, names=w.names | names) for p in part.fallback for w in self._values(p, line)]
        if variable is None:
            near = nearest(part.text, self.script.variables, count=1)
            problem = self._unknown(f"${part.text} is not set in this text", line, near=near)
            return [Word("", line, names, (problem,))]
        chosen = variable.words if part.list else variable.words[:1]
        return [replace(word, line=line, names=word.names | names) for word in chosen]


def _says(words: list[Word]) -> bool:
    """True where words say anything, if only that it cannot be known."""
    return any(word.text or word.problems for word in words)


def _merged(text: str, line: int, found: list[Word]) -> Word:
    names = frozenset().union(*(word.names for word in found)) if found else frozenset()
    return Word(text, line, names, tuple(problem for word in found for problem in word.problems))


def _plain(token: Token) -> str:
    """The text of a word without quotes and variables; empty for others."""
    return token.parts[0].text if len(token.parts) == 1 and token.parts[0].kind == "plain" else ""


def problems_of(words: tuple[Word, ...]) -> Iterator[Problem]:
    """What running would be needed for, each once."""
    yield from dict.fromkeys(problem for word in words for problem in word.problems)

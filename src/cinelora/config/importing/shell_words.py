"""Owns taking shell text apart into words and operators, each with its line. Nothing is expanded here, nothing run.

In: the text. Out: tokens in order. A word is made of parts: plain text, quoted text, variables, and what only running
could tell (`$(...)`, backticks). Placeholders such as <CACHE_DIR> are plain text. Rules: POSIX shell, 2.2 Quoting and
2.3 Token Recognition.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["plain", "quoted", "variable", "unknown"]


@dataclass(frozen=True)
class Part:
    """A piece of a word. Of a variable `text` is its name, `fallback` what stands for it where it is not set.

    `whole` is True within double quotes, where a value is not split at blanks; `list` for ${NAME[@]}.
    """

    kind: Kind
    text: str
    fallback: "tuple[Part, ...] | None" = None
    whole: bool = False
    list: bool = False


@dataclass(frozen=True)
class Token:
    """A word (parts) or an operator; `glued` is True where nothing stands between it and the one before."""

    line: int
    parts: tuple[Part, ...] = ()
    operator: str = ""
    glued: bool = False


_OPERATORS = ("<<<", "<<-", "&&", "||", ";;", "<<", ">>", "&>", ">&", "<&", ";", "&", "|", "(", ")", "<", ">", "\n")
_PLACEHOLDER = re.compile(r"<[A-Za-z][^<>|&;\n\"'`$()]*(?<! )>")
_NAME = re.compile(r"[A-Za-z_]\w*")
_LATE_BACKSLASH = re.compile(r"\\[ \t]+(#[^\n]*)?(?:\n|\Z)")
_BRACED = re.compile(r"([A-Za-z_]\w*)(\[[@*]\])?(?:(:?-|:?=)(.*))?", re.S)
_BREAKS = " \t\n;&|()<>"


@dataclass
class Lexer:
    """Goes through a text once; `late` are lines whose backslash is not the last letter: a shell does not join them."""

    text: str
    position: int = 0
    line: int = 1
    tokens: list[Token] = field(default_factory=list)
    late: list[int] = field(default_factory=list)

    def run(self) -> list[Token]:
        """All tokens."""
        glued = False
        while self.position < len(self.text):
            glued = self._one(glued)
        return self.tokens

    def _one(self, glued: bool) -> bool:
        """Read one token or what stands between two; returns whether the next one is glued to it."""
        rest = self.text[self.position : self.position + 1]
        if rest in " \t":
            self.position += 1
            return False
        if self._joined() or (rest == "#" and not glued and self._comment()):
            return False
        operator = next((o for o in _OPERATORS if self.text.startswith(o, self.position)), "")
        if operator and not (rest == "<" and _PLACEHOLDER.match(self.text, self.position)):
            self.tokens.append(Token(self.line, operator=operator, glued=glued))
            self._skip(len(operator))
            if operator in ("<<", "<<-"):
                self._here_document()
            return operator != "\n"
        start = self.line
        self.tokens.append(Token(start, parts=tuple(self._parts()), glued=glued))
        return True

    def _skip(self, count: int) -> str:
        taken = self.text[self.position : self.position + count]
        self.position += count
        self.line += taken.count("\n")
        return taken

    def _comment(self) -> bool:
        end = self.text.find("\n", self.position)
        self.position = len(self.text) if end < 0 else end
        return True

    def _joined(self) -> bool:
        """Skip a backslash at the end of a line, also where blanks or a comment follow it."""
        if self.text.startswith("\\\n", self.position) or self.text[self.position :] == "\\":
            self._skip(2)
            return True
        if late := _LATE_BACKSLASH.match(self.text, self.position):
            self.late.append(self.line)
            self._skip(len(late[0]))
            return True
        return False

    def _here_document(self) -> None:
        """Skip the lines of << EOF; the word behind it stays a word."""
        found = re.compile(r"[ \t]*(['\"]?)([\w.-]+)\1").match(self.text, self.position)
        if not found:
            return
        ending = re.compile(rf"\n[ \t]*{re.escape(found[2])}[ \t]*(?=\n|\Z)").search(self.text, found.end())
        head = self.text.find("\n", self.position)
        if ending and head >= 0:
            cut = self.text[head : ending.end()]
            self.text = self.text[:head] + "\n" * cut.count("\n") + self.text[ending.end() :]

    def _parts(self) -> "list[Part]":
        parts: list[Part] = []
        while self.position < len(self.text):
            letter = self.text[self.position]
            if letter == "<" and (found := _PLACEHOLDER.match(self.text, self.position)):
                parts.append(Part("plain", self._skip(len(found[0]))))
            elif letter in _BREAKS:
                break
            elif letter == "\\":
                if _LATE_BACKSLASH.match(self.text, self.position):
                    break  # `_joined` skips it
                taken = self._skip(2)
                parts += [] if taken in ("\\\n", "\\") else [Part("quoted", taken[1])]
            else:
                parts += self._part(letter)
        return parts

    def _part(self, letter: str) -> "list[Part]":
        """One part at a letter that begins one."""
        if letter == "'":
            end = self.text.find("'", self.position + 1)
            taken = self._skip((end if end >= 0 else len(self.text)) - self.position + 1)
            return [Part("quoted", taken[1:-1])] if end >= 0 else [Part("unknown", "a quote that is never closed")]
        if letter == '"':
            return self._double()
        if letter in "$`":
            return [self._dollar(whole=False)]
        found = re.compile(r"[^\s;&|()<>\\'\"$`]+").match(self.text, self.position)
        return [Part("plain", self._skip(len(found[0]) if found else 1))]

    def _double(self) -> "list[Part]":
        self._skip(1)
        parts = [Part("quoted", "")]
        while self.position < len(self.text):
            letter = self.text[self.position]
            if letter == '"':
                self._skip(1)
                return parts
            if letter == "\\":
                taken = self._skip(2)
                parts.append(Part("quoted", "" if taken == "\\\n" else taken[1:] if taken[1:] in '$`"\\' else taken))
            elif letter in "$`":
                parts.append(self._dollar(whole=True))
            else:
                found = re.compile(r'[^"\\$`]+').match(self.text, self.position)
                parts.append(Part("quoted", self._skip(len(found[0]) if found else 1)))
        return [Part("unknown", "a quote that is never closed")]

    def _dollar(self, *, whole: bool) -> Part:
        """What begins with a $ or a backtick."""
        if self.text[self.position] == "`":
            return Part("unknown", self._until("`", "`"))
        if self.text.startswith("$(", self.position):
            return Part("unknown", self._balanced("(", ")"))
        if self.text.startswith("${", self.position):
            return self._braced(self._balanced("{", "}"), whole=whole)
        if found := _NAME.match(self.text, self.position + 1):
            self._skip(1 + len(found[0]))
            return Part("variable", found[0], whole=whole)
        following = self.text[self.position + 1 : self.position + 2]
        if following in ("@", "*"):  # the arguments of a script that is started without any
            self._skip(2)
            return Part("variable", "@", fallback=(), whole=whole, list=True)
        if following and following in "0123456789?#!$-":
            return Part("unknown", self._skip(2))
        return Part("quoted", self._skip(1))

    def _braced(self, text: str, *, whole: bool) -> Part:
        found = _BRACED.fullmatch(text[2:-1])
        if not found:
            return Part("unknown", text)
        fallback = None
        if found[3] is not None:
            inner = Lexer(f'"{found[4].replace(chr(34), "")}"', line=self.line)
            fallback = tuple(inner._double())
        return Part("variable", found[1], fallback=fallback, whole=whole, list=bool(found[2]))

    def _until(self, first: str, last: str) -> str:
        end = self.text.find(last, self.position + len(first))
        return self._skip((end if end >= 0 else len(self.text)) - self.position + len(last))

    def _balanced(self, opening: str, closing: str) -> str:
        """From a $ to the bracket that closes the one behind it."""
        depth, end = 0, self.position + 1
        while end < len(self.text):
            depth += (self.text[end] == opening) - (self.text[end] == closing)
            end += 1
            if not depth:
                break
        return self._skip(end - self.position)

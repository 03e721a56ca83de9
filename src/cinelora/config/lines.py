"""Owns where each key of a TOML text stands, so that messages can name a line.

`tomllib` gives values without positions; this reads only the outline (table headers and keys), never values.
In: the text. Out: {path: line}, a path being keys and list indices such as ("data", "source", 0, "path").
"""

import re

Path = tuple[str | int, ...]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=(.*)$""")
_STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*')


def _names(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in re.findall(r"""[\w-]+|"[^"]*"|'[^']*'""", dotted)]


def _depth_change(text: str) -> int:
    bare = _STRING.sub("", text)
    return bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}")


def key_lines(text: str) -> dict[Path, int]:
    """Line (from 1) of every table and key of a TOML text."""
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    depth, quote = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if quote:
            quote = "" if quote in line else quote
            continue
        if depth > 0:
            depth += _depth_change(line)
            continue
        if header := _HEADER.match(line):
            table = _table(header, counts)
            lines[table] = number
        elif key := _KEY.match(line):
            for size in range(1, len(_names(key[1])) + 1):
                lines.setdefault((*table, *_names(key[1])[:size]), number)
            quote = next((q for q in ('"""', "'''") if key[2].count(q) == 1), "")
            depth = 0 if quote else max(0, _depth_change(key[2]))
    return lines


def _table(header: re.Match[str], counts: dict[Path, int]) -> Path:
    """The path of a header line; an array's tables are counted, and deeper headers belong to its last one."""
    path: Path = ()
    names = _names(header[2])
    for position, name in enumerate(names):
        path = (*path, name)
        last = position == len(names) - 1
        if last and header[1] == "[[":
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of a path or of the nearest thing above it that has one; 0 where nothing has."""
    for size in range(len(path), 0, -1):
        if path[:size] in lines:
            return lines[path[:size]]
    return 0

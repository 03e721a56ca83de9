"""Owns reading what is to be imported: scripts, configuration files, standard input, into the settings of one dialect.

In: names of files ("-" is standard input). Out: a `Reading`. All problems of all sources are told at once: `Reading`
carries those of single settings on, since translating finds more of them; what cannot be read at all raises
RecipeError.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from cinelora.base.errors import Problem, RecipeError, nearest
from cinelora.config.importing.config_files import TOML_SUFFIXES, YAML_SUFFIXES, read_toml, read_yaml
from cinelora.config.importing.dialect import Dialect
from cinelora.config.importing.flags import Flags
from cinelora.config.importing.known import by_keys, by_name, by_script, by_variables, has_keys, known_name
from cinelora.config.importing.launchers import Launch, launch_of
from cinelora.config.importing.said import Said, as_it_looks, word_of
from cinelora.config.importing.shell import Command, Script, Word, read_shell

_MOST_BYTES = 4 << 20
STDIN = "-"


@dataclass
class Reading:
    """The settings that sources say, by name, later ones over earlier; how the trainer was started, if that is said.

    `missing` are configuration files that a command names and that are not here.
    """

    dialect: Dialect
    said: dict[str, Said] = field(default_factory=dict)
    launch: Launch | None = None
    script: Script | None = None
    files: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[Problem] = field(default_factory=list)

    @property
    def where(self) -> str:
        """FILE:LINE of the command, else the first file."""
        return f"{self.launch.file}:{self.launch.line}" if self.launch else self.files[0]

    def add(self, settings: Iterable[Said]) -> None:
        """Put settings over those that are there; the spellings of one dialect become its names."""
        for one in settings:
            name = known_name(self.dialect, one.name)
            if name in self.dialect.pairs:
                pairs = one.value if isinstance(one.value, list) else [one.value]
                self.add(_paired(replace(one, name=name), pairs))
            else:
                self.said[name] = replace(one, name=name)


def _paired(one: Said, pairs: Sequence[object]) -> Iterable[Said]:
    for pair in pairs:
        name, equals, value = word_of(pair).partition("=")
        spelt = f"{one.spelt} {name}"
        yield Said(f"{one.name}.{name.strip()}", value if equals else True, one.where, spelt)


def read_sources(names: Sequence[str], *, dialect: str = "", command: int = 0) -> Reading:
    """Read everything. `dialect` names one where nothing tells it, `command` one of several commands, from 1.

    Raises RecipeError for what is no text, holds no trainer, or is known by none of the dialects.
    """
    texts = {name: _text(name) for name in dict.fromkeys(names)}
    scripts = {n: read_shell(t, _label(n)) for n, t in texts.items() if not _is_config(n, t)}
    configs = {n: _config(n, t) for n, t in texts.items() if n not in scripts}
    told = by_name(dialect) if dialect else None
    given = [one for found in configs.values() for one in found]
    reading = _from_scripts(list(scripts.values()), told, command, given) if scripts else None
    if reading is None:
        reading = Reading(told or by_keys(given, list(configs)))
    reading.files = [_label(name) for name in texts]
    commanded, reading.said = list(reading.said.values()), {}
    files = _Files(reading, texts, _unnamed(reading.dialect, configs, commanded))
    for one in commanded if scripts else ():
        files.open(one)
    for found in configs.values():
        files.add(found)
    reading.add(commanded)
    return reading


def _unnamed(
    dialect: Dialect, configs: Mapping[str, Sequence[Said]], commanded: Sequence[Said]
) -> dict[str, Sequence[Said]]:
    """The configuration files given that no setting names: each stands in the place of one like it that is named."""
    settings = [*commanded, *(one for found in configs.values() for one in found)]
    named = {Path(name).name for one in settings for name in _file_names(dialect, one)}
    return {name: found for name, found in configs.items() if not named & {Path(name).name, Path(name).stem}}


def _file_names(dialect: Dialect, one: Said) -> list[str]:
    """The configuration files that a setting names."""
    if known_name(dialect, one.name) not in dialect.reads:
        return []
    return [name for value in (one.value if isinstance(one.value, list) else [one.value]) if (name := word_of(value))]


def _label(name: str) -> str:
    return "standard input" if name == STDIN else name


def _text(name: str) -> str:
    """The text of a source. Raises RecipeError where there is none."""
    if name == STDIN:
        data = sys.stdin.buffer.read(_MOST_BYTES + 1)
    else:
        path = Path(name)
        if not path.is_file():
            there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            what = "this is a folder" if path.is_dir() else "no such file"
            do = "name a launch script, a YAML or a TOML file, or - for standard input"
            raise RecipeError(Problem(what, found=name, nearest=nearest(path.name, there), do=do))
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            found = error.strerror or str(error)
            raise RecipeError(Problem("the file cannot be read", found=found, where=name)) from error
    return _decoded(data, _label(name))


def _decoded(data: bytes, name: str) -> str:
    do = "name the trainer's launch script or configuration file"
    if len(data) > _MOST_BYTES:
        raise RecipeError(
            Problem("far too large for a launch command", found=f"over {_MOST_BYTES:,} bytes", where=name)
        )
    try:
        if b"\0" in data:
            raise ValueError("a zero byte")
        text = data.decode("utf-8-sig")
    except ValueError as error:
        raise RecipeError(Problem("this is not a text", found=str(error), where=name, do=do)) from error
    if not text.strip():
        raise RecipeError(Problem("there is nothing in it", where=name, do=do))
    return text


def _is_config(name: str, text: str) -> bool:
    """True for YAML and TOML, by the ending; standard input is looked at."""
    suffix = Path(name).suffix.lower()
    if suffix in (*TOML_SUFFIXES, *YAML_SUFFIXES):
        return True
    return name == STDIN and _stdin_suffix(text) != ""


def _stdin_suffix(text: str) -> str:
    """What standard input is: ".toml" or ".yaml" where it reads as such and holds no command; else a script."""
    script = read_shell(text, _label(STDIN))
    if any(launch_of(command, "") for command in script.commands) or (script.variables and not script.commands):
        return ""
    for suffix, read in ((".toml", read_toml), (".yaml", read_yaml)):
        try:
            read(text, "")
        except RecipeError:
            continue
        return suffix
    return ""


def _config(name: str, text: str) -> list[Said]:
    suffix = _stdin_suffix(text) if name == STDIN else Path(name).suffix.lower()
    return (read_toml if suffix in TOML_SUFFIXES else read_yaml)(text, _label(name))


def _from_scripts(
    scripts: Sequence[Script], told: Dialect | None, command: int, given: Sequence[Said]
) -> Reading | None:
    """The reading of the one training command in scripts, or of their variables; None where there is neither."""
    launches = [(s, c, x) for s in scripts for c in s.commands if (x := launch_of(c, s.file))]
    chosen = [(s, c, x, told or by_script(x.program)) for s, c, x in launches]
    known = [(s, c, x, d) for s, c, x, d in chosen if d is not None and (told or _shows(d, x, given))]
    if not known and not launches:
        found = by_variables(scripts, told)
        if found is not None:
            return _of_variables(*found)
    if not known:
        raise RecipeError(_no_trainer(scripts, launches))
    if len(known) > 1 and not command:
        places = ", ".join(f"{x.file}:{x.line}" for _, _, x, _ in known)
        what, do = "several training commands", f"choose one: --command 1 to {len(known)}"
        raise RecipeError(Problem(what, found=places, do=do))
    if command > len(known):
        raise RecipeError(Problem("there are not so many commands", found=str(command), allowed=f"1 to {len(known)}"))
    script, run, launch, dialect = known[max(0, command - 1)]
    return _of_command(script, run, launch, dialect)


def _shows(dialect: Dialect, launch: Launch, given: Sequence[Said]) -> bool:
    """False where a program could be anybody's by its name, and no configuration file shows that it is the trainer."""
    if not dialect.sign or has_keys(dialect, given):
        return True
    words = [word.text for word in launch.rest]
    named = [value for word, value in pairwise(words) if word == f"--{dialect.sign}"]
    named += [word.partition("=")[2] for word in words if word.startswith(f"--{dialect.sign}=")]
    path = _found(named[-1], launch.file) if named else None
    if path is None:  # a file that is not here is told later
        return bool(named) and Path(named[-1]).suffix.lower() in TOML_SUFFIXES
    text = _text(str(path))
    return _is_config(str(path), text) and has_keys(dialect, _config(str(path), text))


def _of_command(script: Script, run: Command, launch: Launch, dialect: Dialect) -> Reading:
    reading = Reading(dialect, launch=launch, script=script, notes=[*script.notes])
    reading.problems += launch.problems
    where = f"{launch.file}:{launch.line}"
    if launch.inside:
        what = "the training command stands inside a loop, condition or function"
        do = "give the command by itself, with the values of that one run"
        reading.problems.append(Problem(what, found=launch.inside, where=where, do=do))
    reading.problems += [problem for word in launch.flags.values() for problem in word.problems]
    flags = Flags(dialect, script.file).read(launch.rest)
    reading.problems += flags.problems
    reading.notes += flags.notes
    reading.add(flags.said)
    reading.problems += _orphans(script, run)
    reading.notes += _changes_folder(script, run)
    precision = launch.flags.get("mixed_precision")
    if precision is not None and "mixed_precision" in dialect.settings and "mixed_precision" not in reading.said:
        spelt = f"{launch.launcher.name} --mixed_precision"
        reading.add([Said("mixed_precision", precision.text, f"{script.file}:{precision.line}", spelt)])
    return reading


def _orphans(script: Script, run: Command) -> Iterable[Problem]:
    """Lines behind the command that begin with a flag: the shell ended the command before them."""
    at = script.commands.index(run)
    following = script.commands[at + 1] if at + 1 < len(script.commands) else None
    if following is None or any(run.line < start <= following.line for start in script.starts):
        return  # a page that shows a flag in a block of its own
    if following.words[0].text.startswith("--"):
        what = "this flag belongs to no command: the one before it ended, by a comment or a line without a backslash"
        where, do = f"{script.file}:{following.line}", "remove the comment, or put a backslash at the end of each line"
        yield Problem(what, found=following.words[0].text, where=where, do=do)


def _changes_folder(script: Script, run: Command) -> Iterable[str]:
    for one in script.commands[: script.commands.index(run)]:
        if one.words[0].text == "cd" and len(one.words) > 1:
            into = one.words[1].text or "another folder"
            yield f"{script.file}:{one.line}: the script goes into {into} first; relative paths started there"


def _of_variables(script: Script, dialect: Dialect) -> Reading:
    """Settings of a start script's variables alone, as its page tells one to change them."""
    reading = Reading(dialect, script=script, notes=[*script.notes])
    for name, variable in script.variables.items():
        where = f"{script.file}:{variable.line}"
        reading.problems += [problem for word in variable.words for problem in word.problems]
        if variable.text.startswith("--"):
            words = [Word(text, variable.line) for word in variable.words for text in word.text.split()]
            flags = Flags(dialect, script.file).read(words)
            reading.problems += flags.problems
            reading.add(flags.said)
        elif name in dialect.variables:
            if variable.text:  # an empty one says nothing, as USE_WANDB="" does
                setting = dialect.variables[name]
                value = True if dialect.settings[setting].switch else variable.text
                value = as_it_looks(variable.text) if variable.text.lower() in ("true", "false") else value
                reading.add([Said(setting, value, where, name)])
        elif not variable.exported:
            near, do = nearest(name, dialect.variables), "correct or remove it"
            reading.problems.append(Problem(f"{dialect.title} has no such variable", name, "", near, where, do))
    return reading


def _no_trainer(scripts: Sequence[Script], launches: Sequence[tuple[Script, Command, Launch]]) -> Problem:
    """What to tell where no command trains."""
    from cinelora.config.dialects.registry import DIALECTS, OTHER_PROGRAMS

    programs = [end for dialect in DIALECTS for end in dialect.scripts]
    for _, _, launch in launches:
        where, name = f"{launch.file}:{launch.line}", launch.program.rpartition("/")[2]
        if name in OTHER_PROGRAMS:
            return Problem("this program trains nothing", found=launch.program, where=where, do=OTHER_PROGRAMS[name])
        dialect = by_script(launch.program)
        if dialect is not None:
            keys = ", ".join(key.replace(".*", "") for key in dialect.keys)
            what = f"this could be anybody's program: nothing shows that it is {dialect.title}'s"
            do = f"give that file, too, or say whose it is: --dialect {dialect.name}"
            return Problem(
                what, found=launch.program, allowed=f"--{dialect.sign} FILE with any of {keys}", where=where, do=do
            )
    if launches:
        launch, allowed = launches[0][2], ", ".join(dict.fromkeys(programs))
        near = nearest(launch.program, programs, count=2)
        do = f"if it is one of these under another name: --dialect {' | '.join(d.name for d in DIALECTS)}"
        where = f"{launch.file}:{launch.line}"
        what = "this program is not one that is known"
        return Problem(what, found=launch.program, allowed=allowed, nearest=near, where=where, do=do)
    called = [(s, c) for s in scripts for c in s.commands if c.words[0].text in ("bash", "sh", "source", ".")]
    for script, command in called:
        if len(command.words) > 1:
            where, do = f"{script.file}:{command.line}", f"import that one: cinelora import {command.words[1].text}"
            return Problem(
                "this calls another script, which is not read", found=command.words[1].text, where=where, do=do
            )
    do = "give the lines from `accelerate launch`, `torchrun`, `deepspeed` or `python` on"
    return Problem("there is no training command in it", where=", ".join(s.file for s in scripts), do=do)


@dataclass(frozen=True)
class _Files:
    """Reads the configuration files that settings name; `texts` are those that are read already.

    A file that stands in `instead`, given outright, is read in the place of a named one with tables of the same names.
    """

    reading: Reading
    texts: dict[str, str]
    instead: Mapping[str, Sequence[Said]]

    def add(self, settings: Sequence[Said]) -> None:
        """Add the settings of a file, and those of the files that it names."""
        for one in settings:
            self.open(one)
        self.reading.add(settings)

    def open(self, one: Said) -> None:
        """Read the files that a setting names."""
        for name in _file_names(self.reading.dialect, one):
            if Path(name).name not in {Path(source).name for source in self.texts}:
                self._open(name, one)

    def _open(self, name: str, one: Said) -> None:
        path = _found(name, one.where.rpartition(":")[0])
        if path is None:
            do = f"give it, too: cinelora import {' '.join(map(_label, self.texts))} {Path(name).name}"
            self.reading.missing.append(Problem("a file that it names is not here", name, where=one.where, do=do))
            return
        text = _text(str(path))
        settings = _config(str(path), text)
        other = next((label for label, found in self.instead.items() if _tables(found) & _tables(settings)), "")
        if other:
            self.reading.notes.append(f"{one.where}: {name} is not read: {_label(other)} was given in its place")
            return
        self.texts[str(path)] = text
        self.reading.files.append(str(path))
        self.add(settings)


def _tables(settings: Sequence[Said]) -> set[str]:
    """The names at the top of a configuration file."""
    return {one.name.partition(".")[0] for one in settings}


def _found(name: str, source: str) -> Path | None:
    """A file as the command names it: from here, from the source's folder, or from one above that."""
    beside = Path(source).resolve().parent
    places = [Path(), beside, *list(beside.parents)[:4]]
    names = (name, f"{name}.toml")  # musubi-tuner adds the ending by itself
    return next((place / one for place in places for one in names if (place / one).is_file()), None)

"""The reader of webdataset shards: tar files read from front to end, one sample after the other.

In: a .tar, or a folder of them. Out: samples in the archive's order, each a Record whose media lie in a temporary
folder of ours, or a LeftOut. Members are grouped by their name up to the first dot (KEY.mp4, KEY.txt or KEY.caption or
KEY.json, KEY.mask.png where mask_suffix = '.mask'). No name of the archive ever becomes a name on the disk. A record
owns its files: they go when it does, so only as much disk is taken as records are held.
"""

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tarfile import TarFile, TarInfo

from cinelora.base.errors import DataError, Problem
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.captions import is_text
from cinelora.data.options import SourceOptions
from cinelora.data.readers.archive import TornError, check_end, next_member, opened, read_member, refusal, write_member
from cinelora.data.readers.entry import SUFFIXES, Entries

SUFFIX = ".tar"
TEXTS = (".txt", ".caption")
FIELDS = ("caption", "text", "prompt")
_LONGEST_TEXT = 1 << 24
_HIDDEN = "."
_ADD_CAPTION = "write one, or set empty_caption = 'allow' for this source"
_PACKED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")
"""Ends of names of shards that would have to be unpacked first."""

Wanted = Callable[[int, str], bool]
"""Whether a sample's media are to be had, by its place in the shard and its key; False saves the writing of them."""


def recognises(path: Path) -> bool:
    """True for a .tar, and for a folder with .tar files and no media; for compressed ones too, which are refused."""
    ends = (SUFFIX, *_PACKED)
    if os.path.isfile(path):
        return path.name.lower().endswith(ends)
    files = [name.lower() for name in os.listdir(path)] if os.path.isdir(path) and os.access(path, os.R_OK) else []
    return any(name.endswith(ends) for name in files) and not any(name.endswith(SUFFIXES) for name in files)


def shards_of(path: Path) -> tuple[Path, ...]:
    """The shards of a source by name. Raises DataError where there is none."""
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    packed = [file.name for file in files if file.name.lower().endswith(_PACKED)]
    if packed:
        some, do = (
            ", ".join(packed[:5]) + (" ..." if len(packed) > 5 else ""),
            "unpack them (gunzip), or move them away",
        )
        raise DataError(Problem("compressed shards cannot be read", found=some, allowed=SUFFIX, where=str(path), do=do))
    shards = tuple(file for file in files if file.suffix.lower() == SUFFIX and file.is_file())
    if not shards:
        raise DataError(Problem("no shards in it", allowed=f"files with the suffix {SUFFIX}", where=str(path)))
    return shards


class Shelter:
    """A temporary folder (below TMPDIR) for the files of records, removed with its last record and at the end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cinelora-stream-")
        self._given = 0

    @property
    def path(self) -> Path:
        """Where the files lie."""
        return Path(self._folder.name)

    def room(self) -> Path:
        """A new folder, for one record's files."""
        self._given += 1
        room = self.path / f"{self._given:08d}"
        room.mkdir()
        return room

    def give(self, room: Path, owner: object) -> None:
        """Let a room go when `owner` does; the finalizer holds on to the shelter as long."""
        weakref.finalize(owner, self.clear, room)

    def clear(self, room: Path) -> None:
        """Remove a room now."""
        shutil.rmtree(room, ignore_errors=True)


@dataclass(frozen=True)
class Sample:
    """What came out of a shard at one place: a record, why there is none, or None where it was not wanted.

    `end` is how far the shard was read for it, in bytes.
    """

    place: int
    key: str
    entry: Record | LeftOut | None
    end: int


@dataclass
class _Group:
    """The members of one key, as they come in."""

    key: str
    place: int
    wanted: bool
    names: list[str] = field(default_factory=list)
    media: list[tuple[str, Path]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    room: Path | None = None


class WebdatasetReader:
    """Plays Reader on a source of shards; the files of a record are there as long as the record is."""

    def __init__(self, path: Path, name: str, source: SourceOptions):
        self.path, self.name, self.source = path, name, source

    def read(self) -> Iterator[Record | LeftOut]:
        """Records in the order of the shards. Raises DataError where there is no shard."""
        shelter = Shelter()
        for shard in shards_of(self.path):
            for sample in ShardReader(shard, self.name, self.source, shelter).samples():
                if sample.entry is not None:
                    yield sample.entry


class ShardReader:
    """Reads one shard in one go, without ever seeking back."""

    def __init__(self, shard: Path, name: str, source: SourceOptions, shelter: Shelter):
        """`name` is the source's; its mask_suffix, where it has one, starts with a dot."""
        self.shard, self.name, self.source, self.shelter = shard, name, source, shelter
        self._closed: set[str] = set()
        self._group: _Group | None = None
        self._place = 0

    def samples(self, wanted: Wanted = lambda place, key: True) -> Iterator[Sample]:
        """All samples in order, those that cannot be used as LeftOut; a torn shard ends with one that says so.

        Raises RunError where the temporary folder is full.
        """
        end = 0
        try:
            with opened(self.shard) as tar:
                while (member := next_member(tar)) is not None:
                    yield from self._take(tar, member, wanted)
                    end = member.offset_data + member.size
                end = tar.offset
                check_end(self.shard, end)
            if self._group is not None:
                yield self._finished(end)
            if not self._place:
                yield self._refused("", Problem("the shard is empty"), end)
        except TornError as error:
            if self._group is not None:  # its files are whole, though more of them may be lost
                yield self._finished(end)
            yield self._torn(error, end)
        finally:
            self._drop()

    def _take(self, tar: TarFile, member: TarInfo, wanted: Wanted) -> Iterator[Sample]:
        """One member; gives the sample before it where it begins another, and what is refused."""
        pure = PurePosixPath(member.name)
        if member.isdir() or pure.name.startswith(_HIDDEN):
            return
        stem, dot, extension = pure.name.partition(".")
        key = str(pure.with_name(stem)) if dot else str(pure)
        if self._group is not None and self._group.key != key:
            yield self._finished(member.offset)
        problem = refusal(member) or self._misplaced(member, key)
        if problem:
            yield self._refused(member.name, problem, member.offset_data)
            return
        if self._group is None:
            self._group = _Group(key, self._place, wanted(self._place, self._key(key)))
            self._place += 1
        self._group.names.append(member.name)
        if not self._group.wanted:
            return
        try:
            self._keep(tar, member, self._group, f"{dot}{extension}".lower())
        except TornError as error:
            self._drop()
            raise TornError(f"{error}: {member.name}") from error

    def _misplaced(self, member: TarInfo, key: str) -> Problem | None:
        if self._group is not None and member.name in self._group.names:
            return Problem("the name stands in the shard twice", do="keep one of the two")
        if key in self._closed:
            what = "the sample stands in the shard twice, or its files not together"
            return Problem(what, found=key, do="write the shard sample by sample (`tar --sort=name` does)")
        return None

    def _keep(self, tar: TarFile, member: TarInfo, group: _Group, extension: str) -> None:
        """Put media into the group's room, texts into memory; other members are of no use here."""
        suffix = PurePosixPath(member.name).suffix.lower()
        if suffix in SUFFIXES:
            if group.room is None:
                group.room = self.shelter.room()
            mask = self.source.mask_suffix
            masked = bool(mask) and extension == mask.lower() + suffix
            path = group.room / (f"clip{mask}{suffix}" if masked else f"clip-{len(group.media)}{suffix}")
            write_member(tar, member, path)
            group.media += [] if masked else [(member.name, path)]
        elif extension in (*TEXTS, ".json"):
            if member.size > _LONGEST_TEXT:
                found, allowed = f"{member.name}: {member.size} bytes", f"at most {_LONGEST_TEXT}"
                group.problems.append(Problem("the text is too long", found=found, allowed=allowed))
            else:
                group.texts[extension] = read_member(tar, member)

    def _finished(self, end: int) -> Sample:
        """The sample that the group became; the next member begins another."""
        group, self._group = self._group, None
        assert group is not None
        self._closed.add(group.key)
        return Sample(group.place, self._key(group.key), self._entry(group) if group.wanted else None, end)

    def _entry(self, group: _Group) -> Record | LeftOut:
        where = f"{self.shard}:{group.media[0][0] if group.media else group.names[0]}"
        problems = list(group.problems)
        if len(group.media) != 1:
            what = "several media files in one sample" if group.media else "no media file in the sample"
            do = "rename them: names count up to their first dot" if group.media else "add one, or remove the others"
            found, allowed = ", ".join(group.names[:5]), f"one of {' '.join(SUFFIXES)}"
            problems.append(Problem(what, found=found, allowed=allowed, where=where, do=do))
        texts = self._texts(group, problems)
        entries = Entries(self.name, self.source)
        if problems or group.room is None:
            entry: Record | LeftOut = entries.left_out(where, *(_placed(problem, where) for problem in problems))
        else:
            media = group.media[0][1].rename(group.room / f"clip{group.media[0][1].suffix}")
            entry = entries.make(media, f"{self.shard.name}/{group.key}", text=texts, where=where)
        if group.room is not None and isinstance(entry, Record):
            self.shelter.give(group.room, entry)
        elif group.room is not None:
            self.shelter.clear(group.room)
        return entry

    def _texts(self, group: _Group, problems: list[Problem]) -> Sequence[str]:
        """The captions; where several stand in a sample, a named field of the JSON wins, then text files."""
        named = self.source.caption_column
        beside = [suffix for suffix in TEXTS if suffix in group.texts]
        if len(beside) > 1 and not named:
            problems.append(Problem("two caption files", found=" and ".join(beside), do="remove one of the two"))
        elif beside and not named:
            text, problem = _decoded(group.texts[beside[0]])
            problems += [problem] if problem else []
            return [text]
        elif ".json" in group.texts:
            return _field(group.texts[".json"], (named,) if named else FIELDS, problems, self.source)
        elif self.source.empty_caption == "stop":
            allowed = f"KEY.json with a field {named!r}" if named else "KEY.txt, KEY.caption or KEY.json"
            found = ", ".join(group.names[:5])
            do = f"{_ADD_CAPTION}; names count up to their first dot"
            problems.append(Problem("no caption in the sample", found=found, allowed=allowed, do=do))
        return [""]

    def _refused(self, member: str, problem: Problem, end: int) -> Sample:
        printable = member if is_text(member) and member.isprintable() else ascii(member)[1:-1]
        where = f"{self.shard}:{printable}" if member else str(self.shard)
        sample = Sample(self._place, where, LeftOut(where, self.name, (_placed(problem, where),)), end)
        self._place += 1
        return sample

    def _torn(self, error: "TornError", end: int) -> Sample:
        """Told in place of whatever the break cut in two."""
        do = "get the shard again; what stands before the break is used"
        if not end and _is_packed(self.shard):
            do = "unpack it: it is compressed (gunzip, unxz, bunzip2, unzstd)"
        return self._refused("", Problem("the shard is torn", found=f"{error}, after {end} bytes", do=do), end)

    def _drop(self) -> None:
        """Forget a sample that is not whole."""
        if self._group is not None and self._group.room is not None:
            self.shelter.clear(self._group.room)
        self._group = None

    def _key(self, key: str) -> str:
        return f"{self.name}/{self.shard.name}/{key}"


def _is_packed(path: Path) -> bool:
    """True for what begins as gzip, xz, bzip2 or Zstandard files do."""
    try:
        with path.open("rb") as file:
            head = file.read(6)
    except OSError:
        return False
    return head.startswith((b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"\x28\xb5\x2f\xfd"))


def _placed(problem: Problem, where: str) -> Problem:
    return problem if problem.where else Problem(**{**problem.__dict__, "where": where})


def _decoded(data: bytes) -> tuple[str, Problem | None]:
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError as error:
        return "", Problem(
            "the text is not UTF-8", found=f"{error.reason} at byte {error.start}", do="save it as UTF-8"
        )


def _field(data: bytes, names: Sequence[str], problems: list[Problem], source: SourceOptions) -> Sequence[str]:
    """The first of the fields that a sample's JSON has: a text, or a list of texts."""
    text, problem = _decoded(data)
    found: object = None
    if problem is None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            problem = Problem("not valid JSON", found=str(error), do="write it anew")
    if problem is None and not isinstance(found, dict):
        problem = Problem("the JSON is no object", found=type(found).__name__, allowed="{...}")
    if problem is not None:
        problems.append(problem)
        return [""]
    assert isinstance(found, dict)
    value = next((found[name] for name in names if name in found), None)
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return value
    if value is not None or source.empty_caption == "stop":
        has = ", ".join(map(str, list(found)[:10])) if value is None else f"{type(value).__name__} {value!r:.40}"
        what = "the JSON has no caption" if value is None else "the caption is not text"
        allowed = f"text in one of the fields {', '.join(names)}"
        do = f"{_ADD_CAPTION}; or name the field with caption_column of this source"
        problems.append(Problem(what, found=has, allowed=allowed, do=do))
    return [""]

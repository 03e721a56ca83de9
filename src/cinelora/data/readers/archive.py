"""Owns the reading of tar archives from front to end, without ever seeking back, as they come from anyone.

In: the path of a .tar. Out: its members and their bytes. Nothing is ever extracted to a name that stands in it, and an
archive that stops too early is told, where tarfile itself takes it for ended.
"""

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from tarfile import TarFile, TarInfo

from cinelora.base.errors import Problem, RunError
from cinelora.data.captions import is_text

_CHUNK = 1 << 20
_TAIL = 1 << 16


class TornError(Exception):
    """A shard ends, or turns into nonsense, before its end."""


@contextmanager
def opened(shard: Path) -> Iterator[TarFile]:
    """A shard, read as a stream. Raises TornError where it is no tar, or cannot be read at all."""
    with ExitStack() as stack:
        with _telling():
            tar = stack.enter_context(tarfile.open(fileobj=stack.enter_context(shard.open("rb")), mode="r|"))
        yield tar


def next_member(tar: TarFile) -> TarInfo | None:
    """The next member, None at the end. Raises TornError where what follows cannot be read."""
    with _telling():
        member = tar.next()
    tar.members.clear()  # type: ignore[attr-defined]  # else the archive's whole index piles up
    return member


@contextmanager
def _telling() -> Iterator[None]:
    """Headers of hostile bytes raise more than TarError: numbers that are none, names beyond the end."""
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:
        raise TornError(f"{type(error).__name__}: {error}") from error


def write_member(tar: TarFile, member: TarInfo, path: Path) -> None:
    """Copy a member's bytes. Raises RunError where the disk is full, TornError where the shard ends before them."""
    try:
        with path.open("wb") as out:
            for chunk in _chunks(tar, member):
                out.write(chunk)
    except OSError as error:
        found = f"{type(error).__name__}: {error.strerror or error}"
        do = "free some space, lower data.shuffle_clips, or set TMPDIR to a folder that has more"
        raise RunError(
            Problem(f"cannot keep a clip of the stream in {path.parent.parent}", found=found, do=do)
        ) from error


def read_member(tar: TarFile, member: TarInfo) -> bytes:
    """A member's bytes. Raises TornError where the shard ends before them."""
    return b"".join(_chunks(tar, member))


def _chunks(tar: TarFile, member: TarInfo) -> Iterator[bytes]:
    with _telling():
        file = tar.extractfile(member)
    assert file is not None
    left = member.size
    while left:
        with _telling():
            chunk = file.read(min(_CHUNK, left))
        if not chunk:
            raise TornError("a file is not whole")
        left -= len(chunk)
        yield chunk


def check_end(path: Path, offset: int) -> None:
    """See that reading stopped at the archive's end, which tarfile does for the first header only.

    An archive ends with a block of zeros, or (some writers) right after its last member. Raises TornError.
    """
    with path.open("rb") as file:
        file.seek(offset)
        tail = file.read(_TAIL)
    if tail[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise TornError(f"what stands at byte {offset} is no whole header")
    if tail.strip(b"\0"):
        raise TornError(f"something follows the end mark at byte {offset}")


def refusal(member: TarInfo) -> Problem | None:
    """Why a member is not looked into, whatever it holds."""
    pure = PurePosixPath(member.name)
    if not member.isreg() or member.issparse():
        do = "store the files themselves (tar --dereference)"
        return Problem("not a plain file", found=_kind(member), allowed="files", do=do)
    if not is_text(member.name) or not member.name.isprintable():
        return Problem("the name is not text", found=ascii(member.name)[:80], do="rename the file")
    if pure.is_absolute() or ".." in pure.parts:
        do = "write the shard with names below its own root"
        return Problem("the name leads out of the archive", found=member.name[:80], do=do)
    return None


def _kind(member: TarInfo) -> str:
    kinds = {"a link": member.issym() or member.islnk(), "a device": member.isdev(), "a sparse file": True}
    return next(kind for kind, fits in kinds.items() if fits)

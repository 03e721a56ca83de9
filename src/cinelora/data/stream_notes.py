"""Owns what a run remembers of the shards that it has read to their end: the buckets of every sample.

In: samples as they are measured. Out: a file of one JSON line per shard, so that a resumed run finds its place in the
stream without reading again what it has behind it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from cinelora.base.errors import Problem, RunError
from cinelora.data.entries import read_lines

Note = tuple[str, ...] | dict[str, str]
"""Of one sample: the bucket of each of its showings in an epoch, none for one that is kept apart or another rank's;
or where it lies and why it is left out."""


class Notes:
    """Notes of one rank; without a file they are kept for the run's life only."""

    def __init__(self, file: Path | None, fingerprint: str):
        """What stands in `file` counts if it was written for the same `fingerprint`; else it is begun anew."""
        self._file, self._fingerprint = file, fingerprint
        self._known: dict[str, tuple[Note, ...]] = {}
        self._alike: dict[tuple[str, ...], tuple[str, ...]] = {}
        lines = iter(read_lines(file) if file is not None else ())
        self._begun = next(lines, {}).get("stream") == fingerprint
        for line in lines if self._begun else ():
            if isinstance(line.get("shard"), str) and isinstance(line.get("samples"), list):
                self._known[line["shard"]] = self._compact(line["samples"])

    def of(self, shard: str) -> tuple[Note, ...] | None:
        """The notes of a shard's samples in their order, None where it was never read to its end."""
        return self._known.get(shard)

    def add(self, shard: str, samples: Sequence[Note]) -> None:
        """Note a shard. Raises RunError where the disk is full."""
        if shard in self._known:
            return
        self._known[shard] = self._compact(samples)
        if self._file is None:
            return
        head = [] if self._begun else [{"stream": self._fingerprint}]
        text = "".join(json.dumps(line) + "\n" for line in (*head, {"shard": shard, "samples": samples}))
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # A line that a kill tore in two is ended first, so that it costs one shard and no more.
            with self._file.open("a" if self._begun else "w", encoding="utf-8") as file:
                file.write(f"\n{text}" if self._begun else text)
        except OSError as error:
            found = f"{type(error).__name__}: {error.strerror or error}"
            raise RunError(Problem(f"cannot write {self._file}", found=found, do="free some space")) from error
        self._begun = True

    def _compact(self, samples: Sequence[Note]) -> tuple[Note, ...]:
        """Equal notes as one object: a million samples have a few dozen different ones."""
        return tuple(
            one if isinstance(one, dict) else self._alike.setdefault(tuple(one), tuple(one)) for one in samples
        )

"""Owns tables whose columns are known before their rows: Parquet, folders of Hugging Face `datasets`, and the Hub.

In: a path, or OWNER/NAME. Out: a `Columnar`, whose rows hold only the columns asked for; of a media value that holds a
file's bytes, only that it does. Rows count from 1. Broken files and datasets that cannot be had raise DataError.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cinelora.base.errors import CineloraError, DataError, Problem
from cinelora.base.log import logger
from cinelora.data.readers.entry import SUFFIXES
from cinelora.data.readers.rows import Row

SUFFIX = ".parquet"
HUB = "hub:"
_DATASETS_FILES = ("dataset_info.json", "dataset_dict.json", "state.json")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_ROWS_AT_ONCE = 1000
_SPLIT = "train"
_AGAIN = "get it again, or write it anew"

Batches = Callable[[list[str]], Iterator[Any]]
"""Columns to Arrow tables or record batches that hold these."""


@dataclass(frozen=True)
class Columnar:
    """A table by columns: what messages call it, its columns, and how they are read."""

    where: str
    columns: tuple[str, ...]
    batches: Batches

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All rows, with these columns; where the table is broken, the last one says so."""
        from pyarrow import ArrowException

        number = 0
        try:
            for batch in self.batches(list(dict.fromkeys(columns))):
                named = [_plain(batch.column(name)) for name in batch.schema.names]
                for values in zip(*named, strict=True):
                    number += 1
                    yield Row(number, dict(zip(batch.schema.names, values, strict=True)))
        except (ArrowException, OSError, ValueError) as error:
            found = f"{type(error).__name__}: {error}"[:200]
            yield Row(number + 1, problem=Problem("the table is broken from here on", found=found, do=_AGAIN))


def is_datasets_folder(path: Path) -> bool:
    """True for what `save_to_disk` left, and for folders of Parquet or Arrow files without media beside them."""
    if not path.is_dir():
        return False
    if any((path / name).is_file() for name in _DATASETS_FILES):
        return True
    return bool(_tables_in(path)) and not any(file.suffix.lower() in SUFFIXES for file in path.iterdir())


def open_parquet(*files: Path) -> Columnar:
    """Parquet files, one after the other. Raises DataError where one is none, or has other columns than the first."""
    from pyarrow import parquet

    schemas = [_tried(partial(parquet.read_schema, file), file, "cannot be read as Parquet") for file in files]

    def batches(columns: list[str]) -> Iterator[Any]:
        for file in files:
            with parquet.ParquetFile(file) as opened:
                yield from (batch.select(columns) for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=columns))

    return _columnar(files, [schema.names for schema in schemas], batches)


def open_folder(path: Path) -> Columnar:
    """The training split of a folder of `datasets`. Raises DataError where it has none, or more than one to choose."""
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        import datasets

        what = "cannot be read as a folder of `datasets`"
        return _of_split(_tried(lambda: datasets.load_from_disk(str(path)), path, what), str(path))
    files = _tables_in(path)
    if not files:
        found = "dataset_info.json without Parquet or Arrow files"
        raise DataError(Problem("the folder holds no table", found=found, where=str(path), do=_AGAIN))
    chosen = [file for file in files if _SPLIT in file.stem] or files
    if len(chosen) < len(files):
        others = ", ".join(file.name for file in files if file not in chosen)
        logger.info("%s: reads the files of the split '%s', not %s", path, _SPLIT, others)
    return open_parquet(*chosen) if chosen[0].suffix == SUFFIX else _open_arrow(*chosen)


def open_hub(name: str) -> Columnar:
    """The split "train" of a dataset of the Hugging Face Hub, fetched into that library's own cache.

    HF_HUB_OFFLINE is honoured. Raises DataError where the dataset cannot be had.
    """
    if not _HUB_NAME.fullmatch(name):
        raise DataError(Problem("not a name of the Hub", found=f"{HUB}{name}", allowed=f"{HUB}OWNER/NAME"))
    where = HUB + name
    if Path(name).is_dir():
        what, do = "a folder of that name lies here, which would be read in its place", "name the folder, or move it"
        raise DataError(Problem(what, found=str(Path(name).resolve()), where=where, do=do))
    import datasets

    do = "look at the name and the network, log in where it is gated, or fetch it and name the folder"
    return _of_split(
        _tried(lambda: datasets.load_dataset(name, split=_SPLIT), where, "the dataset cannot be had", do), where
    )


def _of_split(found: Any, where: str) -> Columnar:
    """One split of an opened dataset."""
    if isinstance(found, dict):
        split = _SPLIT if _SPLIT in found else next(iter(found)) if len(found) == 1 else ""
        if not split:
            names, do = ", ".join(found) or "none", "name the folder of one split"
            raise DataError(Problem("no split 'train' in the dataset", found=names, where=where, do=do))
        if len(found) > 1:
            logger.info("%s: reads the split '%s' of %s", where, split, ", ".join(found))
        found = found[split]

    def batches(columns: list[str]) -> Iterator[Any]:
        yield from found.select_columns(columns).with_format("arrow").iter(_ROWS_AT_ONCE)

    return Columnar(where, tuple(found.column_names), batches)


def _open_arrow(*files: Path) -> Columnar:
    """Arrow files, in the form of a stream (as the cache of `datasets` has them) or of a file."""
    import pyarrow as pa

    def opened(file: Path) -> Any:
        with file.open("rb") as start:
            streamed = start.read(6) != b"ARROW1"
        mapped = pa.memory_map(str(file))
        if streamed:
            return pa.ipc.open_stream(mapped)
        reader = pa.ipc.open_file(mapped)
        return pa.RecordBatchReader.from_batches(reader.schema, map(reader.get_batch, range(reader.num_record_batches)))

    readers = [_tried(partial(opened, file), file, "cannot be read as Arrow") for file in files]

    def batches(columns: list[str]) -> Iterator[Any]:
        for file in files:
            yield from (batch.select(columns) for batch in opened(file))

    return _columnar(files, [reader.schema.names for reader in readers], batches)


def _columnar(files: Sequence[Path], columns: Sequence[list[str]], batches: Batches) -> Columnar:
    """The files as one table. Raises DataError where they differ in columns or name one twice."""
    first, where = columns[0], str(files[0] if len(files) == 1 else files[0].parent)
    twice = sorted({name for name in first if first.count(name) > 1})
    if twice:
        raise DataError(Problem("the table names a column twice", found=", ".join(map(repr, twice)), where=where))
    for file, names in zip(files, columns, strict=True):
        if set(names) != set(first):
            found, allowed = ", ".join(names), f"{', '.join(first)}, as in {files[0].name}"
            what = "the files of one table have different columns"
            raise DataError(Problem(what, found=found, allowed=allowed, where=str(file), do="name one of the files"))
    return Columnar(where, tuple(first), batches)


def _tables_in(path: Path) -> list[Path]:
    """Parquet files, or else Arrow files, directly in a folder or in its folder "data", by name."""
    for pattern in (f"*{SUFFIX}", "*.arrow"):
        for folder in (path, path / "data"):
            if found := sorted(folder.glob(pattern)):
                return found
    return []


def _tried(make: Callable[[], Any], where: object, what: str, do: str = _AGAIN) -> Any:
    try:
        return make()
    except CineloraError:
        raise
    except Exception as error:  # files and networks of any kind raise nearly anything; the cause stays attached
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(Problem(what, found=said, where=str(where), do=do)) from error


def _plain(column: Any) -> list[Any]:
    """The values of a column for Python; of a struct with bytes (an embedded file) only whether there are any."""
    import pyarrow as pa
    from pyarrow import compute

    fields = range(column.type.num_fields) if pa.types.is_struct(column.type) else ()
    names = {column.type.field(k).name for k in fields}
    if "path" not in names:
        return _each(column)
    paths = _each(compute.struct_field(column, "path"))
    held = compute.is_valid(compute.struct_field(column, "bytes")).to_pylist() if "bytes" in names else len(paths) * [0]
    return [{"path": path, "bytes": bool(there)} for path, there in zip(paths, held, strict=True)]


def _each(column: Any) -> list[Any]:
    """The values of a column; in place of bytes that are no UTF-8 text the error that says so."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_one(value) for value in column]


def _one(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return error

"""Whatever stands in a table: entries or a DataError come out, never another error, and every row is one entry."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.table import TableReader

FUZZ = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["a.mp4", "b.png", "gone.mp4", "../a.mp4", "a\0.mp4", "", " "]))
VALUES = st.one_of(
    TEXTS, st.none(), st.integers(), st.floats(), st.booleans(), st.lists(TEXTS, max_size=3),
    st.dictionaries(st.sampled_from(["path", "bytes", "x"]), TEXTS, max_size=2),
)  # fmt: skip
COLUMNS = st.sampled_from(["path", "caption", "width", "fps", "frames", "x"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.mp4", "b.png"):
        (folder / name).write_bytes(b"x")
    return folder


def read(path, **values):
    """All entries, or the problems of the DataError in their place."""
    reader = TableReader(path, "s", SourceOptions(path="s", **values), root=path.parent)
    told = []
    try:
        entries = list(reader.read())
    except DataError as error:
        told = error.problems
        entries = None
    if entries is None:
        assert told
        assert all(problem.what and problem.where for problem in told)
        return None
    for entry in entries:
        assert isinstance(entry, Record | LeftOut)
        if isinstance(entry, LeftOut):
            assert entry.problems
            assert all(problem.what and problem.where.startswith(str(path)) for problem in entry.problems)
    keys = [entry.key for entry in entries if isinstance(entry, Record)]
    assert len(keys) == len(set(keys))
    assert set(keys) <= {"s/a.mp4", "s/b.png"}
    return entries


def filled(path, content):
    path.write_bytes(content)
    return path


@FUZZ
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass"))))
def test_any_bytes_in_any_kind_of_table(place, content):
    for suffix in ("csv", "tsv", "jsonl", "json", "parquet"):
        read(filled(place / f"t.{suffix}", content))


@FUZZ
@given(st.lists(st.lists(TEXTS, min_size=1, max_size=4), max_size=8), st.sampled_from(",;\t"), st.booleans())
def test_every_row_of_a_csv_is_an_entry(place, rows, delimiter, quoted):
    written = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    csv.writer(written, delimiter=delimiter, quoting=quoting).writerows([["path", "caption"], *rows])
    told = [row for row in rows if any(field.strip() for field in row)]
    entries = read(filled(place / "t.csv", written.getvalue().encode("utf-8", "surrogatepass")))
    if entries is None:
        assert all(len(row) != 2 for row in told)
    else:
        assert len(entries) == len(told)


@FUZZ
@given(
    st.lists(st.dictionaries(COLUMNS, VALUES, max_size=4), max_size=8), st.booleans(), st.sampled_from(["each", "one"])
)
def test_every_object_of_json_is_an_entry(place, objects, indent, lines):
    text = json.dumps([{"path": "a.mp4", "caption": "x"}, *objects], indent=1 if indent else None)
    entries = read(filled(place / "t.json", text.encode()), caption_lines=lines)
    assert len(entries) == 1 + len(objects)
    assert isinstance(entries[0], Record)
    text = "\n".join(json.dumps(one) for one in [{"path": "a.mp4", "caption": "x"}, *objects])
    again = read(filled(place / "t.jsonl", text.encode()), caption_lines=lines)
    assert [type(entry) for entry in again] == [type(entry) for entry in entries]


@FUZZ
@given(st.lists(st.text(alphabet='{}[]",:\\ path0e+-', max_size=30), max_size=8))
def test_every_line_of_broken_json_is_an_entry(place, lines):
    good = json.dumps({"path": "a.mp4", "caption": "x"})
    entries = read(filled(place / "t.jsonl", "\n".join([good, *lines]).encode()))
    assert len(entries) == 1 + sum(bool(line.strip()) for line in lines)


@FUZZ
@given(st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS, st.none() | st.floats()), min_size=1, max_size=8))
def test_every_row_of_parquet_is_an_entry(place, rows):
    paths, captions, widths = (list(column) for column in zip(*rows, strict=True))
    columns = {"path": (paths, pa.string()), "caption": (captions, pa.string()), "width": (widths, pa.float64())}
    try:
        table = pa.table({name: pa.array(values, kind) for name, (values, kind) in columns.items()})
    except UnicodeEncodeError:  # half a surrogate pair cannot be written at all
        return
    parquet.write_table(table, place / "t.parquet")
    assert len(read(place / "t.parquet")) == len(rows)


def test_mutated_parquet_never_crashes(place):
    rng = np.random.default_rng(0)
    columns = {"path": [f"{k}.mp4" for k in range(300)], "caption": ["word " * (k % 7 + 1) for k in range(300)]}
    parquet.write_table(pa.table(columns), place / "whole.parquet")
    whole = (place / "whole.parquet").read_bytes()
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for spot in rng.integers(0, len(data), rng.integers(1, 8)):
            data[spot] = rng.integers(256)
        entries = read(filled(place / "m.parquet", bytes(data)))
        outcomes.add("refused" if entries is None else "whole" if len(entries) == 300 else "broken")
    assert "refused" in outcomes or "broken" in outcomes

"""The table of a golden case of kind "webvid_dataset": every row that the reference keeps, and those that it drops."""

import csv

from cinelora.contracts.flow import Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.registry import open_reader


def check_csv(case, tmp_path):
    """Every row is read in order, with path and caption (up to spaces), and so are all that the reference keeps."""
    said = case.config["csv"]
    assert set(said) == {"file", "expected_rows"}
    table = case.folder / said["file"]
    usable = _usable_rows(table)
    for path, _ in usable:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    source = SourceOptions(path=str(table), media_root=str(tmp_path), empty_caption="allow")
    entries = list(open_reader(table, "s", source, base=tmp_path).read())
    read = [(entry.key.removeprefix("s/"), entry.caption) for entry in entries if isinstance(entry, Record)]
    assert read == list(dict.fromkeys((path, _words(caption)) for path, caption in usable))
    for row in said["expected_rows"]:
        assert set(row) == {"video", "caption"}
        assert (row["video"], _words(row["caption"])) in read


def _usable_rows(table):
    """[(path, caption)] of all whole rows that have an id and a folder, whatever else they lack."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    return [
        (f"videos/{row['page_dir']}/{row['videoid']}.mp4", row["name"])
        for row in rows
        if None not in row and None not in row.values() and row["videoid"].strip() and row["page_dir"].strip()
    ]


def _words(caption):
    return " ".join(caption.split())

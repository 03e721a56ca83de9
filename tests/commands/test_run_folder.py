import json
from dataclasses import asdict

import pytest

from cinelora.commands.run_folder import RunFolder
from cinelora.data.fate import Row
from cinelora.data.plan import Plan


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_table_of_clips_is_a_json_list_with_all_that_the_plan_says(tmp_path, count):
    notes = ("two\nlines", "\ud800 and [brackets]")
    row = Row("s/ä.mp4", "t.csv:3", "s", "video", "used", notes=notes, crop=(0.0, 1.5, 2.0, 3.0), buckets=("9x32x32",))
    rows = tuple(row for _ in range(count))
    RunFolder(tmp_path).list_clips(Plan((), (), rows))
    read = json.loads((tmp_path / "data.json").read_text())
    assert read == json.loads(json.dumps([asdict(one) for one in rows]))
    assert len(read) == count

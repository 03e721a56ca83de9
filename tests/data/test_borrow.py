from collections import Counter
from pathlib import Path

import pytest

from cinelora.base.errors import RecipeError
from cinelora.contracts.flow import Bucket, Record
from cinelora.contracts.geometry import Geometry
from cinelora.data.batches import Batches, micro_rules
from cinelora.data.options import DataOptions
from cinelora.data.plan import make_plan
from cinelora.data.shards import check_stream
from cinelora.data.sources import Listing

WAN = Geometry(fps=16, frames=81, height=480, width=832)


def options(**values):
    return DataOptions(source=[{"path": "s"}], small_buckets="borrow", held_out=0, frames=[17, 81], **values)


def clip(name, frames=81, width=832, height=480, **values):
    told = {"width": width, "height": height, "frames": frames, "fps": 16.0}
    return Record(f"s/{name}", "s", "video", (Path("c.mp4"),), "x", f"t:{name}", told, **values)


def planned(*records, micro_size=4, **values):
    return make_plan(Listing(records), options(**values), WAN, seed=0, micro_size=micro_size)


def test_a_small_bucket_is_filled_by_longer_clips_and_every_micro_is_whole():
    plan = planned(*(clip(f"long{k}") for k in range(8)), clip("short", frames=20))
    counts = Counter(slot.bucket for slot in plan.slots)
    assert counts == {Bucket(81, 480, 832): 8, Bucket(17, 480, 832): 4}
    batches = Batches(plan.slots, {"s": 0.0}, micro_rules(4, options()), seed=0)
    assert [len(batches.micro(k)) for k in range(batches.micros_per_epoch)] == [4, 4, 4]
    shown = {slot.record.key for k in range(batches.micros_per_epoch) for slot in batches.micro(k)}
    assert len(shown) == 9, "nothing is lost"
    lent = [row for row in plan.rows if any("small bucket 17x480x832" in note for note in row.notes)]
    assert len(lent) == 3
    assert all(row.num_slots == 2 and len(row.buckets) == 2 for row in lent)


def test_nobody_lends_to_a_longer_bucket_or_is_enlarged():
    plan = planned(clip("long"), *(clip(f"short{k}", frames=20) for k in range(4)))
    assert Counter(slot.bucket.frames for slot in plan.slots) == {81: 1, 17: 4}
    small = [clip(f"low{k}", width=416, height=240) for k in range(4)]
    plan = planned(clip("large"), *small)
    assert sum(slot.bucket == Bucket(81, 480, 832) for slot in plan.slots) == 1
    plan = planned(clip("large"), *small, upscale=True)
    assert sum(slot.bucket == Bucket(81, 480, 832) for slot in plan.slots) == 5, "all are enlarged there anyway"


def test_whole_buckets_and_single_clips_borrow_nothing():
    assert len(planned(*(clip(k) for k in range(4))).slots) == 4
    assert len(planned(clip("a"), clip("b", frames=20), micro_size=1).slots) == 2


def test_what_counts_more_often_counts_so():
    plan = planned(*(clip(f"long{k}") for k in range(4)), clip("short", frames=20, repeats=3))
    added = [slot for slot in plan.slots if slot.bucket.frames == 17 and slot.record.key != "s/short"]
    assert len(added) == 1
    assert added[0].record.repeats == 1


def test_the_same_clips_lend_every_time():
    records = [clip(f"long{k}") for k in range(8)] + [clip("short", frames=20)]
    names = [{slot.name for slot in planned(*some).slots} for some in (records, reversed(records))]
    assert names[0] == names[1]


def test_streams_do_not_borrow(tmp_path):
    data = DataOptions(source=[{"path": "s", "reader": "webdataset"}], cache="off", small_buckets="borrow")
    (tmp_path / "s").mkdir()
    with pytest.raises(RecipeError, match="borrow"):
        check_stream(data, tmp_path, epochs=None)

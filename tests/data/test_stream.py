"""Streams: no clip lost, the same order every time, the same place after a resume, little on the disk."""

import gc
import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from cinelora.base.errors import DataError, RecipeError, RunError
from cinelora.contracts.geometry import Geometry
from cinelora.data.clips import load_clip
from cinelora.data.options import DataOptions
from cinelora.data.rules import rules_by_source
from cinelora.data.shards import Shards, check_stream, is_streamed
from cinelora.data.stream import Stream
from cinelora.data.survey import first_look, survey
from data.tars import video, write_shards, write_tar

GEOMETRY = Geometry(fps=8, frames=9, height=32, width=32, latent_channels=4)
SEED = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """24 clips in 6 shards; every third one is shorter and so of another bucket."""
    folder = tmp_path_factory.mktemp("root")
    write_shards(folder / "set", 6, 4, frames=lambda k: 5 if k % 3 == 0 else 9)
    return folder


def options_of(*sources, **said):
    given = [{"path": source} if isinstance(source, str) else source for source in sources or ("set",)]
    return DataOptions(**{"source": given, "cache": "off", "held_out": 0.0, "shuffle_clips": 5, **said})


def shards_of(root, *sources, seed=SEED, **said):
    return Shards(options_of(*sources, **said), root, GEOMETRY, seed=seed)


def stream(root, *sources, micro_size=2, part=None, seed=SEED, **said):
    return Stream(shards_of(root, *sources, seed=seed, **said), micro_size, **(part or {}))


def key(slot):
    return slot.record.key


def keys(one, start, count):
    return [tuple(map(key, one.micro(k))) for k in range(start, start + count)]


def epoch_of(one, number):
    """All micros of an epoch, by asking until the next one begins."""
    index = 0
    while one.epoch_of(index) < number:
        index += 1
    found = []
    while one.epoch_of(index) == number:
        found.append(one.micro(index))
        index += 1
    return found


ALL = sorted(f"set/{shard:03d}.tar/{k:04d}" for shard in range(6) for k in range(4 * shard, 4 * shard + 4))


def test_an_epoch_holds_every_clip_once_in_micros_of_one_bucket(root):
    one = stream(root, micro_size=3)
    first, second = epoch_of(one, 0), epoch_of(one, 1)
    for epoch in (first, second):
        assert sorted(key(slot) for micro in epoch for slot in micro) == ALL
        assert all(len({slot.bucket for slot in micro}) == 1 for micro in epoch)
        # 8 clips of one bucket and 16 of the other: 2 + 5 whole micros and a smaller one of each
        assert sorted(map(len, epoch)) == [1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert [list(map(key, micro)) for micro in first] != [list(map(key, micro)) for micro in second]
    assert one.micros_per_epoch is None


def test_the_order_depends_on_the_seed_alone_and_is_not_the_shards(root):
    first = keys(stream(root), 0, 12)
    assert first == keys(stream(root), 0, 12)
    assert first != keys(stream(root, seed=8), 0, 12)
    shards = [name.split("/")[1] for micro in first for name in micro]
    assert any(shards.count(shard) and len(set(shards[k : k + 5])) > 2 for k, shard in enumerate(shards[:-5]))


def test_a_buffer_of_one_keeps_the_order_within_shards(root):
    one = stream(root, micro_size=1, shuffle_clips=1)
    found = [name for (name,) in keys(one, 0, 24)]
    runs = [found[k : k + 4] for k in range(0, 24, 4)]
    assert all(run == sorted(run) and len({name.split("/")[1] for name in run}) == 1 for run in runs)
    assert [run[0] for run in runs] != sorted(run[0] for run in runs)  # but shards are visited in a drawn order


def test_clips_can_be_decoded_while_they_are_held_and_are_gone_afterwards(root):
    shards = shards_of(root, shuffle_clips=4)
    one = Stream(shards, 2, num_kept=2)
    rules = rules_by_source(shards.options)
    early = [slot.record.media[0] for slot in one.micro(0)]
    for index in range(30):
        for slot in one.micro(index):
            assert slot.record.media[0].exists()
        if index % 10 == 0:
            clip = load_clip(slot, rules["set"], GEOMETRY, seed=SEED)
            assert tuple(clip.pixels.shape) == (3, slot.bucket.frames, 32, 32)
        # the buffer, one waiting of either bucket, two micros, and the last sample read
        assert len(list(shards.shelter.path.iterdir())) <= 4 + 2 + 2 * 2 + 2
    assert not any(path.exists() for path in early)
    folder = shards.shelter.path
    del one, shards, slot, clip
    gc.collect()
    assert not folder.exists()


def test_a_step_can_ask_for_its_micros_again(root):
    one = stream(root, part={"num_kept": 3})
    for step in range(3):
        first = keys(one, 3 * step, 3)
        assert keys(one, 3 * step, 3) == first
    assert keys(one, 0, 3) == keys(stream(root), 0, 3)  # further back, from the beginning
    assert all(slot.record.media[0].exists() for slot in one.micro(2))


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("position", [1, 7, 13, 31])
def test_a_new_stream_goes_on_where_the_old_one_was(root, tmp_path, noted, position):
    part = {"notes": tmp_path / "notes.jsonl"} if noted else {}
    old = stream(root, part=part)
    keys(old, 0, position)
    after = keys(old, position, 15)
    new = stream(root, part=part)
    assert keys(new, position, 15) == after
    again = stream(root, part=part)
    assert again.epoch_of(position + 5) == old.epoch_of(position + 5)
    slots = again.micro(position + 6)
    assert tuple(map(key, slots)) == after[6]
    assert all(slot.record.media[0].exists() for slot in slots)


def opened(monkeypatch):
    """The names of shards as they are opened from now on."""
    names, samples = [], Shards.samples

    def listening(self, shard, *args):
        names.append(shard.path.name)
        return samples(self, shard, *args)

    monkeypatch.setattr(Shards, "samples", listening)
    return names


def test_what_is_noted_is_not_read_again(root, tmp_path, monkeypatch):
    part = {"notes": tmp_path / "notes.jsonl"}
    old = stream(root, part=part)
    after = keys(old, 0, 40)[36:]  # in the third epoch
    names = opened(monkeypatch)
    new = stream(root, part=part)
    assert keys(new, 36, 1) == after[:1]
    # those that have clips in the buffer, each once, and where the stream goes on
    assert len(names) <= 5
    assert keys(new, 37, 3) == after[1:]
    lines = [json.loads(line) for line in part["notes"].read_text().split("\n") if line]
    assert sorted(line["shard"] for line in lines[1:]) == [f"set/{k:03d}.tar" for k in range(6)]


def test_notes_that_are_torn_or_of_another_run_cost_time_and_nothing_else(root, tmp_path, monkeypatch):
    notes = tmp_path / "notes.jsonl"
    after = keys(stream(root, part={"notes": notes}), 0, 30)[24:]
    text = notes.read_text()
    notes.write_text(text[: len(text) - 40])
    assert keys(stream(root, part={"notes": notes}), 24, 6) == after
    assert len([line for line in notes.read_text().split("\n") if line.endswith("]}")]) == 6
    other = keys(stream(root, seed=8), 0, 30)[24:]
    assert keys(stream(root, seed=8, part={"notes": notes}), 24, 6) == other
    assert keys(stream(root, seed=8, part={"notes": notes}), 24, 6) == other


def test_shards_that_changed_behind_the_notes_are_refused(tmp_path):
    folder = write_shards(tmp_path / "set", 2, 4, frames=lambda k: 9)
    part = {"notes": tmp_path / "notes.jsonl"}
    one = stream(tmp_path, micro_size=1, shuffle_clips=8, part=part)
    keys(one, 0, 2)
    shapes = {"a": video(tmp_path, frames=5), "b": video(tmp_path, frames=9)}
    for path in folder.glob("*.tar"):
        size = path.stat().st_size
        short = [(f"{k:04d}.{x}", d) for k in range(4) for x, d in (("mp4", shapes["a"]), ("txt", "c"))]
        write_tar(path, short)
        path.write_bytes(path.read_bytes()[:size].ljust(size, b"\0"))
    with pytest.raises(RunError, match="shards have changed"):
        stream(tmp_path, micro_size=1, shuffle_clips=8, part=part).micro(1)


def test_the_fingerprint_tells_runs_apart_but_not_ranks(root, tmp_path):
    base = stream(root).fingerprint
    assert stream(root, part={"rank": 1, "world": 2}).fingerprint == stream(root, part={"world": 2}).fingerprint
    others = [
        stream(root, part={"world": 2}),
        stream(root, micro_size=3),
        stream(root, seed=8),
        stream(root, shuffle_clips=6),
        stream(root, fps=4.0),
    ]
    assert len({base, *(one.fingerprint for one in others)}) == 6
    folder = write_shards(tmp_path / "set", 2, 2)
    before = stream(tmp_path).fingerprint
    with (folder / "000.tar").open("ab") as file:
        file.write(b"\0" * 512)
    assert stream(tmp_path).fingerprint != before


@pytest.mark.parametrize("world", [2, 4, 9])
def test_ranks_share_the_clips_and_lose_none(root, world):
    ranks = [stream(root, micro_size=1, part={"rank": rank, "world": world}) for rank in range(world)]
    for epoch in (0, 1):
        found = [[key(slot) for micro in epoch_of(one, epoch) for slot in micro] for one in ranks]
        assert sorted(name for names in found for name in names) == ALL
    if world <= 6:  # whole shards: no two ranks read one
        owners = [{name.split("/")[1] for name in names} for names in found]
        assert sum(map(len, owners)) == 6


def test_a_rank_that_gets_nothing_is_told(tmp_path):
    write_shards(tmp_path / "set", 1, 2)
    with pytest.raises(DataError, match="no clip to train on for rank 2 of 3"):
        stream(tmp_path, part={"rank": 2, "world": 3}).micro(0)


def test_repeats_and_variants_count_as_in_any_plan(root):
    one = stream(root, {"path": "set", "repeats": 2, "video_repeats": 2}, crop="random", num_variants=3)
    shown = Counter((key(slot), slot.variant) for micro in epoch_of(one, 0) for slot in micro)
    assert shown == {(name, variant): 4 for name in ALL for variant in range(3)}


def test_weights_are_shares_of_the_draws(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    write_shards(folder / "many", 4, 6)
    write_shards(folder / "few", 2, 2)
    one = stream(folder, {"path": "many", "weight": 1.0}, {"path": "few", "weight": 1.5}, micro_size=1)
    for number in (0, 1):
        epoch = [micro[0] for micro in epoch_of(one, number)]
        shown = Counter(map(key, epoch))
        few = [slot for slot in epoch if slot.record.source == "few"]
        assert len(shown) == 28
        assert all(count == 1 for name, count in shown.items() if name.startswith("many"))
        assert abs(len(few) - 36) <= 1  # 1.5 for each of the 24 others
        assert all(8 <= count <= 10 for name, count in shown.items() if name.startswith("few"))
    names = keys(one, 0, 40)
    assert (
        keys(stream(folder, {"path": "many", "weight": 1.0}, {"path": "few", "weight": 1.5}, micro_size=1), 20, 20)
        == names[20:]
    )


def test_left_overs_are_filled_up_where_asked_for(root):
    one = stream(root, micro_size=5, small_buckets="repeat")
    epoch = epoch_of(one, 0)
    assert {len(micro) for micro in epoch} == {5}
    assert {key(slot) for micro in epoch for slot in micro} == set(ALL)


def test_captions_are_drawn_by_the_number_of_the_micro(tmp_path):
    data = video(tmp_path)
    members = [(f"{k}.{x}", d) for k in range(8) for x, d in (("mp4", data), ("json", {"caption": ["a", "b", "c"]}))]
    write_tar(tmp_path / "set" / "0.tar", members)
    one = stream(tmp_path, {"path": "set", "caption_dropout": 0.2}, micro_size=4)
    said = [[slot.caption for slot in one.micro(index)] for index in range(30)]
    assert {word for words in said for word in words} == {"", "a", "b", "c"}
    again = stream(tmp_path, {"path": "set", "caption_dropout": 0.2}, micro_size=4)
    assert [slot.caption for slot in again.micro(20)] == said[20]


def below(name, share, seed=SEED):
    """The rule, derived anew: the first 16 hex digits of the hash, less one bit, as a share of all."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, "held out", name))).encode()).hexdigest()
    return (int(digest[:16], 16) >> 1) / 2**63 < share


def test_held_out_clips_are_chosen_by_their_hash_and_never_trained_on(root):
    apart = {name for name in ALL if below(name, 0.3)}
    assert 2 <= len(apart) <= 15
    shards = shards_of(root, held_out=0.3)
    plan = first_look(shards, max_clips=50)
    assert {key(slot) for slot in plan.held_out} == apart
    assert {row.status for row in plan.rows} == {"held out"}
    assert plan.warnings == ()
    assert all(slot.record.media[0].exists() for slot in plan.held_out)
    trained = {key(slot) for micro in epoch_of(stream(root, held_out=0.3), 0) for slot in micro}
    assert trained == set(ALL) - apart
    few = first_look(shards_of(root, held_out=0.3), max_clips=2)
    assert [key(slot) for slot in few.held_out] == sorted(apart)[:2]
    assert len(list(shards.shelter.path.iterdir())) == len(apart)  # the others were never written


def test_the_first_look_is_bounded_and_says_when_it_finds_nothing(root, monkeypatch):
    passed = []
    monkeypatch.setattr(Shards, "is_held_out", lambda self, shard, name: passed.append(name) or False)
    plan = first_look(shards_of(root, held_out=0.5), max_clips=2)
    assert plan.held_out == ()
    assert "no clip is held out" in plan.warnings[0]
    assert len(set(passed)) <= 2 * 2 / 0.5 + 1


def test_sources_that_give_no_held_out_clips_keep_theirs(root):
    shards = shards_of(root, {"path": "set", "held_out": False}, held_out=0.5)
    plan = first_look(shards, max_clips=5)
    assert (plan.held_out, plan.warnings) == ((), ())
    assert len([slot for micro in epoch_of(Stream(shards, 2), 0) for slot in micro]) == 24


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """One sound clip before and one behind: a broken video, one without caption, a link's worth of nothing."""
    folder = tmp_path_factory.mktemp("bad")
    data = video(folder)
    members = [("0.mp4", data), ("0.txt", "c"), ("1.mp4", b"no video at all"), ("1.txt", "c"), ("2.mp4", data)]
    write_tar(folder / "set" / "0.tar", [*members, ("3.mp4", data), ("3.txt", "c")])
    return folder


def test_a_bad_clip_stops_the_run_when_it_is_met(bad):
    shards = shards_of(bad, shuffle_clips=1)
    with pytest.raises(DataError) as caught:
        keys(Stream(shards, 1), 0, 3)
    text = str(caught.value)
    assert f"{bad / 'set' / '0.tar'}:1.mp4" in text
    assert str(shards.shelter.path) not in text
    assert "`cinelora check` finds all such ahead of a run" in text


def test_bad_clips_are_left_out_once_and_listed_where_asked_for(bad, tmp_path, caplog):
    part = {"notes": tmp_path / "notes.jsonl"}
    one = stream(bad, micro_size=1, on_bad="skip", part=part)
    for epoch in (0, 1):
        assert sorted(key(m[0]) for m in epoch_of(one, epoch)) == ["set/0.tar/0", "set/0.tar/3"]
    rows = list(one.left_out.values())
    assert [Path(row.where).name for row in rows] == ["0.tar:1.mp4", "0.tar:2.mp4"]
    assert {row.status for row in rows} == {"left out"}
    assert "no caption in the sample" in rows[1].reason
    assert len([r for r in caplog.records if "left out" in r.message]) == 2
    caplog.clear()
    new = stream(bad, micro_size=1, on_bad="skip", part=part)
    new.micro(3)
    assert [(row.where, row.reason) for row in new.left_out.values()] == [(row.where, row.reason) for row in rows]


def test_a_torn_shard_gives_what_it_has(tmp_path):
    path = write_shards(tmp_path / "set", 1, 4) / "000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"0002.mp4") + 1500])  # in the middle of the third video
    one = stream(tmp_path, micro_size=1, on_bad="skip")
    assert len(epoch_of(one, 0)) == 2
    assert "the shard is torn" in next(reversed(one.left_out.values())).reason
    with pytest.raises(DataError, match="the shard is torn"):
        keys(stream(tmp_path, micro_size=1), 0, 4)


def test_short_clips_do_as_short_says(root):
    long_ones = {name for name in ALL if int(name[-4:]) % 3}
    skipping = stream(root, short="skip", frames=[9])
    assert {key(slot) for micro in epoch_of(skipping, 0) for slot in micro} == long_ones
    with pytest.raises(DataError, match="shorter than every frame bucket"):
        keys(stream(root, short="stop", frames=[9], on_bad="skip"), 0, 12)


def test_a_survey_tells_of_every_sample_and_keeps_no_file(root, bad):
    shards = shards_of(root, held_out=0.3)
    plan = survey(shards)
    assert [row.key for row in plan.rows] == ALL
    assert {row.key for row in plan.rows if row.status == "held out"} == {name for name in ALL if below(name, 0.3)}
    assert len(plan.slots) + len(plan.held_out) == 24
    gc.collect()
    assert list(shards.shelter.path.iterdir()) == []
    lenient = survey(shards_of(bad, on_bad="skip"))
    assert [row.status for row in lenient.rows] == ["used", "left out", "left out", "used"]
    assert len(lenient.problems) == 2
    with pytest.raises(DataError, match="2 problems"):
        survey(shards_of(bad))
    assert survey(shards_of(bad), lenient=True).problems == lenient.problems


def test_a_survey_takes_short_clips_as_short_says(root):
    skipping = survey(shards_of(root, short="skip", frames=[9]))
    assert {row.status for row in skipping.rows} == {"used", "left out"}
    assert skipping.problems == ()
    with pytest.raises(DataError, match="shorter than every frame bucket"):
        survey(shards_of(root, short="stop", frames=[9], on_bad="skip"))
    told = survey(shards_of(root, short="stop", frames=[9]), lenient=True)
    assert len(told.problems) == sum(row.status == "left out" for row in told.rows) == 8


def test_what_a_stream_cannot_do_is_told_at_once(root):
    (root / "loose").mkdir(exist_ok=True)
    (root / "loose" / "a.mp4").touch()
    options = options_of(
        "set",
        "loose",
        {"path": "set", "name": "masked", "mask_suffix": "_mask"},
        cache="on",
        buckets="videox",
        videox={"keep_all_node_same_token_length": True},
    )
    assert is_streamed(options, root)
    with pytest.raises(RecipeError) as caught:
        check_stream(options, root, epochs=2.0)
    assert [problem.where for problem in caught.value.problems] == [
        "data.source",
        "data.cache",
        "train.epochs",
        "data.videox.keep_all_node_same_token_length",
        "data.source.2.mask_suffix",
    ]
    assert "loose" in caught.value.problems[0].found
    check_stream(options_of(), root, epochs=None)
    assert not is_streamed(options_of("loose"), root)


def test_sources_without_shards_are_told(root, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="2 problems"):
        shards_of(tmp_path, {"path": "empty", "reader": "webdataset"}, {"path": "gone", "reader": "webdataset"})
    with pytest.raises(DataError, match="settings of other layouts"):
        first_look(shards_of(root, {"path": "set", "captions": "names"}), max_clips=1)


def test_a_mask_with_nothing_white_is_told_ahead_and_leaves_its_clip_out(tmp_path):
    members = []
    for name, level in (("fine", 255), ("black", 0)):
        picture = io.BytesIO()
        Image.new("L", (32, 32), level).save(picture, "PNG")
        clip = video(tmp_path, seed=level)
        members += [(f"{name}.mp4", clip), (f"{name}.txt", "x"), (f"{name}.mask.png", picture.getvalue())]
    write_tar(tmp_path / "set/a.tar", members)
    masked = {"path": "set", "mask_suffix": ".mask"}
    seen = survey(shards_of(tmp_path, masked, on_bad="skip"))
    assert [(row.key, row.status, row.reason[:33]) for row in seen.rows] == [
        ("set/a.tar/fine", "used", ""),
        ("set/a.tar/black", "left out", "the mask leaves nothing to learn:"),
    ]
    assert [problem.where for problem in seen.problems] == [f"{tmp_path}/set/a.tar:black.mp4"]
    one = stream(tmp_path, masked, on_bad="skip")
    assert {key(slot) for k in range(4) for slot in one.micro(k)} == {"set/a.tar/fine"}
    with pytest.raises(DataError, match="the mask leaves nothing to learn"):
        stream(tmp_path, masked).micro(1)

"""The reader of shards: what becomes of members, sound and unsound; that names of the archive stay in the archive."""

import gc
import gzip
import tarfile

import pytest

from cinelora.base.errors import DataError, RunError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers import archive
from cinelora.data.readers.webdataset import ShardReader, Shelter, WebdatasetReader, recognises, shards_of
from data.tars import member, video, write_tar


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return video(tmp_path_factory.mktemp("clip"))


def read(path, *, shelter=None, wanted=None, **options):
    source = SourceOptions(path="x", **options)
    reader = ShardReader(path, "src", source, shelter or Shelter())
    return list(reader.samples(wanted) if wanted else reader.samples())


def told(entry):
    assert isinstance(entry, LeftOut), entry
    return " | ".join(f"{problem.where}: {problem.what} ({problem.found})" for problem in entry.problems)


def test_samples_are_grouped_by_the_name_up_to_the_first_dot(tmp_path, clip):
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("x/0.mp4", clip),
            ("x/0.txt", "\ufefffirst\n"),
            ("x/1.caption", "second"),
            ("x/1.MP4", clip),
            ("x/2.json", {"width": 3, "prompt": "no", "caption": "third"}),
            ("x/2.mp4", clip),
            ("y/0.json", {"text": ["one", "two"]}),
            ("y/0.mp4", clip),
            ("y/0.npy", b"passed over"),
        ],
    )
    samples = read(path, caption_prefix="a", trigger="zz")
    records = [sample.entry for sample in samples]
    assert [record.key for record in records] == [f"src/a.tar/{key}" for key in ("x/0", "x/1", "x/2", "y/0")]
    assert [record.caption for record in records] == ["zz a first", "zz a second", "zz a third", "zz a one"]
    assert records[3].more_captions == ("zz a two",)
    assert [record.where for record in records] == [f"{path}:{n}" for n in ("x/0.mp4", "x/1.MP4", "x/2.mp4", "y/0.mp4")]
    assert all(record.media[0].read_bytes() == clip and record.kind == "video" for record in records)
    assert [sample.place for sample in samples] == [0, 1, 2, 3]
    assert samples[-1].end <= path.stat().st_size


def test_files_live_as_long_as_their_record_and_never_under_the_archives_names(tmp_path, clip):
    shelter = Shelter()
    path = write_tar(
        tmp_path / "a.tar", [(f"deep/er/{k}.{x}", d) for k in range(3) for x, d in (("mp4", clip), ("txt", "c"))]
    )
    seen = []
    for sample in ShardReader(path, "src", SourceOptions(path="x"), shelter).samples():
        seen.append(sample.entry.media[0])
        assert seen[-1].exists()
        assert shelter.path in seen[-1].parents
        assert "deep" not in str(seen[-1].relative_to(shelter.path))
        assert len(list(shelter.path.iterdir())) <= 2  # this one, and the last one until the name is taken over
    del sample
    gc.collect()
    assert not any(file.exists() for file in seen)
    folder = shelter.path
    del shelter
    gc.collect()
    assert not folder.exists()


def test_what_is_not_wanted_is_never_written(tmp_path, clip):
    shelter = Shelter()
    path = write_tar(tmp_path / "a.tar", [(f"{k}.{x}", d) for k in range(4) for x, d in (("mp4", clip), ("txt", "c"))])
    asked = []

    def wanted(place, key):
        asked.append((place, key))
        return place == 2

    samples = read(path, shelter=shelter, wanted=wanted)
    assert asked == [(k, f"src/a.tar/{k}") for k in range(4)]
    assert [sample.entry is not None for sample in samples] == [False, False, True, False]
    assert len(list(shelter.path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "facts", "what"),
    [
        ("link.mp4", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "not a plain file (a link)"),
        ("hard.mp4", {"type": tarfile.LNKTYPE, "linkname": "0.mp4"}, "not a plain file (a link)"),
        ("dev.mp4", {"type": tarfile.CHRTYPE}, "not a plain file (a device)"),
        ("pipe.mp4", {"type": tarfile.FIFOTYPE}, "not a plain file (a device)"),
        ("/abs.mp4", {}, "the name leads out of the archive (/abs.mp4)"),
        ("../../up.mp4", {}, "the name leads out of the archive (../../up.mp4)"),
        ("a/../../up.mp4", {}, "the name leads out of the archive"),
        ("new\nline.mp4", {}, "the name is not text"),
        ("half\udcff.mp4", {}, "the name is not text"),
    ],
)
def test_members_that_are_refused(tmp_path, clip, name, facts, what):
    odd = member(name, b"" if facts else clip, **facts)
    path = write_tar(
        tmp_path / "sub" / "a.tar", [("0.mp4", clip), ("0.txt", "c"), odd, ("1.mp4", clip), ("1.txt", "c")]
    )
    first, refused, last = (sample.entry for sample in read(path))
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert what in told(refused)
    assert refused.where.startswith(str(path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sub"]
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["a.tar"]


def test_samples_that_cannot_be_used_say_why(tmp_path, clip):
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("0.mp4", clip),  # no caption
            ("1.txt", "words"),  # no media
            ("2.a.mp4", clip),
            ("2.b.mp4", clip),
            ("2.txt", "two of them"),
            ("3.mp4", clip),
            ("3.txt", b"\xff\xfe"),
            ("4.mp4", clip),
            ("4.json", b"{"),
            ("5.mp4", clip),
            ("5.json", {"label": 3}),
            ("6.mp4", clip),
            ("6.json", {"caption": 3}),
            ("7.mp4", clip),
            ("7.txt", "  "),
            ("8.mp4", clip),
            ("8.txt", "a"),
            ("8.caption", "b"),
            ("9.mp4", clip),
            ("9.json", ["caption"]),
            (".hidden.mp4", clip),
        ],
    )
    found = [told(sample.entry) for sample in read(path)]
    wanted = [
        "0.mp4: no caption in the sample",
        "1.txt: no media file in the sample",
        "2.a.mp4: several media files in one sample (2.a.mp4, 2.b.mp4, 2.txt)",
        "3.mp4: the text is not UTF-8",
        "4.mp4: not valid JSON",
        "5.mp4: the JSON has no caption (label)",
        "6.mp4: the caption is not text (int 3)",
        "7.mp4: the caption is empty",
        "8.mp4: two caption files (.txt and .caption)",
        "9.mp4: the JSON is no object (list)",
    ]
    assert len(found) == len(wanted)
    for text, start in zip(found, wanted, strict=True):
        assert text.startswith(f"{path}:{start}")


def test_captions_may_be_empty_where_the_source_says_so(tmp_path, clip):
    path = write_tar(tmp_path / "a.tar", [("0.mp4", clip), ("1.mp4", clip), ("1.json", {"x": 1})])
    assert [sample.entry.caption for sample in read(path, empty_caption="allow")] == ["", ""]


def test_a_named_field_of_the_json_wins_over_text_files(tmp_path, clip):
    members = [("0.mp4", clip), ("0.txt", "short"), ("0.json", {"caption": "c", "long": "the long one"})]
    path = write_tar(tmp_path / "a.tar", members)
    assert [s.entry.caption for s in read(path)] == ["short"]
    assert [s.entry.caption for s in read(path, reader="webdataset", caption_column="long")] == ["the long one"]
    (sample,) = read(path, reader="webdataset", caption_column="lang")
    assert "the JSON has no caption (caption, long)" in told(sample.entry)


def test_names_twice_and_samples_torn_apart(tmp_path, clip):
    members = [("0.mp4", clip), ("0.txt", "a"), ("0.txt", "b"), ("1.mp4", clip), ("1.txt", "c"), ("0.mp4", clip)]
    refused = [sample.entry for sample in read(write_tar(tmp_path / "a.tar", members))]
    assert [isinstance(entry, Record) for entry in refused] == [False, True, True, False]
    assert "0.txt: the name stands in the shard twice" in told(refused[0])
    assert "0.mp4: the sample stands in the shard twice, or its files not together (0)" in told(refused[3])
    assert refused[1].caption == "a"


def test_masks_are_files_of_their_sample(tmp_path, clip):
    members = [("0.mp4", clip), ("0.mask.png", b"mask"), ("0.txt", "c"), ("1.mp4", clip), ("1.txt", "c")]
    with_mask, without = (s.entry for s in read(write_tar(tmp_path / "a.tar", members), mask_suffix=".mask"))
    assert with_mask.mask.read_bytes() == b"mask"
    assert with_mask.media[0].read_bytes() == clip
    assert "the clip has no mask" in told(without)


def test_pictures_are_samples_too(tmp_path):
    (sample,) = read(write_tar(tmp_path / "a.tar", [("0.jpg", b"\xff\xd8"), ("0.txt", "c")]))
    assert sample.entry.kind == "image"
    assert sample.entry.media[0].suffix == ".jpg"


def long_tar(tmp_path, clip, name="a.tar"):
    members = [(f"{k}.{x}", d) for k in range(3) for x, d in (("mp4", clip), ("txt", f"caption {k}"))]
    return write_tar(tmp_path / name, members)


@pytest.mark.parametrize("cut", ["in the media", "in a header", "in the text"])
def test_a_torn_shard_is_used_up_to_the_break_and_told(tmp_path, clip, cut):
    whole = long_tar(tmp_path, clip)
    with tarfile.open(whole) as tar:
        media, text = tar.getmember("2.mp4"), tar.getmember("2.txt")
    at = {
        "in the media": media.offset_data + 700,
        "in a header": text.offset + 100,
        "in the text": text.offset_data + 3,
    }
    torn = tmp_path / "torn.tar"
    torn.write_bytes(whole.read_bytes()[: at[cut]])
    shelter = Shelter()
    samples = read(torn, shelter=shelter)
    assert [s.entry.caption for s in samples[:2]] == ["caption 0", "caption 1"]
    assert f"{torn}: the shard is torn" in told(samples[-1].entry)
    if cut == "in a header":
        assert "2.mp4: no caption in the sample" in told(samples[2].entry)
    else:
        assert f"unexpected end of data: 2.{'mp4' if 'media' in cut else 'txt'}" in told(samples[-1].entry)
    assert [s.place for s in samples] == ([0, 1, 2, 3] if cut == "in a header" else [0, 1, 3])
    assert [s.place for s in read(torn, wanted=lambda place, key: False)] == [0, 1, 2, 3]
    assert len(list(shelter.path.iterdir())) == 2


def test_an_archive_without_an_end_mark_is_whole(tmp_path, clip):
    whole = long_tar(tmp_path, clip)
    with tarfile.open(whole) as tar:
        end = tar.getmember("2.txt").offset_data + 512
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:end])
    assert [s.entry.caption for s in read(tmp_path / "cut.tar")] == ["caption 0", "caption 1", "caption 2"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the shard is torn (ReadError: empty file"),
        (b"\0" * 10240, "the shard is empty"),
        (b"PK\3\4" * 400, "the shard is torn (ReadError"),
    ],
)
def test_what_is_no_archive_is_told(tmp_path, data, what):
    (tmp_path / "a.tar").write_bytes(data)
    (sample,) = read(tmp_path / "a.tar")
    assert what in told(sample.entry)


def test_archives_behind_each_other_are_not_half_read_in_silence(tmp_path, clip):
    first, second = long_tar(tmp_path, clip), long_tar(tmp_path, clip, "b.tar")
    (tmp_path / "both.tar").write_bytes(first.read_bytes() + second.read_bytes())
    samples = read(tmp_path / "both.tar")
    assert len(samples) == 4
    assert "something follows the end mark" in told(samples[3].entry)


def test_a_header_that_turns_into_nonsense_is_told(tmp_path, clip):
    whole = long_tar(tmp_path, clip)
    with tarfile.open(whole) as tar:
        at = tar.getmember("1.mp4").offset
    data = bytearray(whole.read_bytes())
    data[at : at + 512] = b"\x7f" * 512
    whole.write_bytes(bytes(data))
    samples = read(whole)
    assert [isinstance(s.entry, Record) for s in samples] == [True, False]
    assert "the shard is torn" in told(samples[1].entry)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_do_more_than_leave_samples_out(tmp_path, seed):
    import random

    path = write_tar(
        tmp_path / "a.tar",
        [(f"{k}.{x}", d) for k in range(4) for x, d in (("mp4", b"m" * 600), ("txt", "c"))],
        format=(tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)[seed % 2],
    )
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3, 20])):
        data[512 * rng.randrange(14) + rng.randrange(512)] = rng.randrange(256)
    path.write_bytes(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])]))
    shelter = Shelter()
    assert all(isinstance(s.entry, Record | LeftOut) for s in read(path, shelter=shelter))
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_a_full_disk_names_the_temporary_folder(tmp_path, clip, monkeypatch):
    def full(tar, info):
        raise OSError(28, "No space left on device")
        yield

    path, shelter = long_tar(tmp_path, clip), Shelter()
    monkeypatch.setattr(archive, "_chunks", full)
    with pytest.raises(RunError, match=r"(?s)cannot keep a clip of the stream in .*No space left.*TMPDIR"):
        read(path, shelter=shelter)
    assert list(shelter.path.iterdir()) == []


def test_which_paths_are_shards(tmp_path, clip):
    path = long_tar(tmp_path / "set", clip)
    assert recognises(path)
    assert recognises(path.parent)
    assert not recognises(tmp_path)
    (tmp_path / "set" / "loose.mp4").write_bytes(clip)
    assert not recognises(path.parent)  # a folder of clips with an archive beside them
    assert shards_of(path.parent) == (path,)
    with pytest.raises(DataError, match="no shards in it"):
        shards_of(tmp_path)


def test_the_reader_gives_all_records_of_a_folder(tmp_path, clip):
    long_tar(tmp_path, clip, "b.tar")
    long_tar(tmp_path, clip, "a.tar")
    records = list(WebdatasetReader(tmp_path, "src", SourceOptions(path="x")).read())
    assert [r.key for r in records] == [f"src/{shard}.tar/{k}" for shard in "ab" for k in range(3)]
    assert all(record.media[0].exists() for record in records)


def test_compressed_shards_are_told_by_name_and_by_content(tmp_path, clip):
    path = write_tar(tmp_path / "set/a.tar", [("0.mp4", clip), ("0.txt", "x")])
    packed = gzip.compress(path.read_bytes())
    (tmp_path / "set/b.tar.gz").write_bytes(packed)
    assert recognises(tmp_path / "set")
    assert recognises(tmp_path / "set/b.tar.gz")
    with pytest.raises(DataError, match=r"compressed shards[\s\S]*b\.tar\.gz[\s\S]*gunzip"):
        shards_of(tmp_path / "set")
    path.write_bytes(packed)
    (sample,) = read(path)
    assert sample.entry.problems[0].do == "unpack it: it is compressed (gunzip, unxz, bunzip2, unzstd)"

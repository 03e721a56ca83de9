"""Sources of settings: which dialect they are of, files that name files, several at once, variables alone."""

import io
from dataclasses import replace

import pytest

from cinelora.base.errors import RecipeError
from cinelora.config.importing import known, sources
from cinelora.config.importing.dialect import Dialect, Old

ONE = Dialect(
    "one",
    "the first trainer",
    {
        "config": Old(),
        "lr": Old("train.lr"),
        "net.rank": Old("lora.rank"),
        "flag": Old(switch=True),
        "args": Old(many=True),
    },
    scripts=("tools/train.py",),
    keys=("net.rank",),
    variables={"LEARNING_RATE": "lr", "FLAG": "flag"},
    reads=("config",),
    flat=True,
    pairs=("args",),
)
TWO = Dialect("two", "the second trainer", {"rate": Old("train.lr")}, scripts=("other/train.py",), keys=("rate",))


@pytest.fixture(autouse=True)
def dialects(monkeypatch, tmp_path):
    """Two small trainers in the registry's place, in a folder of the test's own."""
    monkeypatch.setattr(known, "DIALECTS", (ONE, TWO))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def values(reading):
    return {name: one.value for name, one in reading.said.items()}


def test_a_command_wins_over_the_file_that_it_names(dialects):
    put(dialects, run__sh="python tools/train.py --config a.toml --lr 2", a__toml="[train]\nlr = 1\n[net]\nrank = 4\n")
    reading = sources.read_sources(["run.sh"])
    assert values(reading) == {"config": "a.toml", "lr": "2", "net.rank": 4}
    assert reading.said["net.rank"].where == "a.toml:4"
    assert reading.files == ["run.sh", "a.toml"]


def test_a_file_given_outright_stands_in_the_place_of_the_one_that_the_command_names(dialects):
    """Whole: what the named one alone says (rank) does not mix in. One of other tables is read as well."""
    put(
        dialects,
        run__sh="python tools/train.py --config a.toml",
        a__toml="[train]\nlr = 1\n[net]\nrank = 4\n",
        b__toml="[train]\nlr = 5\n",
        c__yaml="net:\n  rank: 7\n",
        d__toml='config = "a.toml"\nflag = true\n',
    )
    reading = sources.read_sources(["run.sh", "b.toml"])
    assert values(reading) == {"config": "a.toml", "lr": 5}
    assert reading.files == ["run.sh", "b.toml"]
    assert reading.notes == ["run.sh:1: a.toml is not read: b.toml was given in its place"]
    assert values(sources.read_sources(["run.sh", "a.toml"])) == {"config": "a.toml", "lr": 1, "net.rank": 4}
    assert values(sources.read_sources(["run.sh", "c.yaml"])) == {"config": "a.toml", "net.rank": 7}
    found = values(sources.read_sources(["d.toml", "b.toml"], dialect="one"))
    assert found == {"config": "a.toml", "flag": True, "lr": 5}
    put(dialects, e__toml="flag = true\n")
    found = values(sources.read_sources(["run.sh", "e.toml"]))
    assert found == {"config": "a.toml", "lr": 1, "net.rank": 4, "flag": True}


def test_a_program_that_could_be_anybodys_needs_a_sign(dialects, monkeypatch):
    monkeypatch.setattr(known, "DIALECTS", (replace(ONE, scripts=("train.py",), sign="config"), TWO))
    put(dialects, a__toml="[net]\nrank = 4\n", b__toml="[net]\ndepth = 4\n", c__yaml="net:\n  rank: 4\n")
    for words in ("", " --lr 1", " --config b.toml", " --config=b.toml --lr 1", " --config gone.yaml"):
        put(dialects, run__sh=f"python train.py{words}")
        with pytest.raises(RecipeError, match="could be anybody's program") as error:
            sources.read_sources(["run.sh"])
        for said in ("the first trainer", "found: train.py", "net.rank", "--dialect one", "run.sh:1"):
            assert said in str(error.value)
        assert sources.read_sources(["run.sh"], dialect="one").dialect is not TWO
        assert sources.read_sources(["run.sh", "c.yaml"]).dialect.name == "one"
    for words in ("--config a.toml", "--config=a.toml", "--config c.yaml", "--lr 1 --config gone.toml"):
        put(dialects, run__sh=f"python train.py {words}")
        assert sources.read_sources(["run.sh"]).dialect.name == "one"


def test_a_page_that_shows_a_flag_by_itself_is_no_broken_command(dialects):
    put(dialects, page__md="```\npython tools/train.py --lr 1\n```\nAdd\n```\n--flag\n```\n")
    reading = sources.read_sources(["page.md"])
    assert (values(reading), reading.problems) == ({"lr": "1"}, [])


def test_a_file_is_looked_for_beside_the_script_and_above_it(dialects):
    put(dialects, **{"conf/deep/run__sh": "python tools/train.py --config conf/a.yaml", "conf/a__yaml": "lr: 3\n"})
    reading = sources.read_sources(["conf/deep/run.sh"])
    assert values(reading)["lr"] == 3
    assert reading.missing == []


def test_a_file_that_is_missing_is_told_unless_it_is_given(dialects):
    put(dialects, run__sh="python tools/train.py --config far/a.yaml")
    reading = sources.read_sources(["run.sh"])
    (problem,) = reading.missing
    assert (problem.found, problem.where) == ("far/a.yaml", "run.sh:1")
    assert problem.do == "give it, too: cinelora import run.sh a.yaml"
    put(dialects, **{"here/a__yaml": "lr: 3\n"})
    assert sources.read_sources(["run.sh", "here/a.yaml"]).missing == []


def test_files_that_name_each_other_are_read_once(dialects):
    put(dialects, a__toml="config = 'b.toml'\nlr = 1\n[net]\nrank = 2\n", b__toml="config = 'a.toml'\nlr = 5\n")
    assert values(sources.read_sources(["a.toml"]))["lr"] == 1


def test_a_file_alone_is_known_by_its_keys(dialects):
    put(
        dialects,
        a__toml="[net]\nrank = 2\n",
        b__yaml="rate: 1\n",
        c__toml="x = 1\n",
        d__toml="rate = 1\n[net]\nrank = 2\n",
    )
    assert sources.read_sources(["a.toml"]).dialect is ONE
    assert sources.read_sources(["b.yaml"]).dialect is TWO
    with pytest.raises(RecipeError, match="no configuration file of a trainer that is known"):
        sources.read_sources(["c.toml"])
    with pytest.raises(RecipeError, match="of several trainers"):
        sources.read_sources(["d.toml"])
    assert sources.read_sources(["d.toml"], dialect="two").dialect is TWO


def test_words_of_pairs_become_settings(dialects):
    put(dialects, run__sh="python tools/train.py --args eps=1e-8 decouple --lr 1")
    assert values(sources.read_sources(["run.sh"])) == {"args.eps": "1e-8", "args.decouple": True, "lr": "1"}


def test_variables_alone_are_settings(dialects):
    put(dialects, run__sh='LEARNING_RATE=1e-5  # lower\nFLAG="--flag"\nEMPTY_IS_NOTHING=\nexport OTHER=1\n')
    reading = sources.read_sources(["run.sh"])
    assert values(reading) == {"lr": "1e-5", "flag": True}
    (problem,) = reading.problems
    assert problem.found == "EMPTY_IS_NOTHING"
    put(dialects, run__sh="LEARNING_RAT=1\nFLAG=\n")
    (problem,) = sources.read_sources(["run.sh"], dialect="one").problems
    assert (problem.nearest, problem.where) == ("LEARNING_RATE", "run.sh:1")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("python tools/train.py --lr 1", {"lr": "1"}),
        ("[net]\nrank = 3", {"net.rank": 3}),
        ("net:\n  rank: 3\n", {"net.rank": 3}),
    ],
)
def test_standard_input_may_be_any_of_them(text, found, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    reading = sources.read_sources(["-"])
    assert values(reading) == found
    assert all(one.where.startswith("standard input:") for one in reading.said.values())


def test_programs_are_known_by_the_longest_end():
    assert known.by_script("/opt/x/tools/train.py") is ONE
    assert known.by_script("other/train.py") is TWO
    assert known.by_script("x/train.py") is None
    with pytest.raises(RecipeError, match="several trainers have a program of this name"):
        known.by_script("train.py")


def test_what_a_script_does_before_is_told(dialects):
    put(dialects, run__sh="cd /data/place\npython tools/train.py --lr 1\n")
    assert any("goes into /data/place first" in note for note in sources.read_sources(["run.sh"]).notes)


def test_the_launch_of_deepspeed_passes_no_local_rank(dialects):
    put(dialects, run__sh="deepspeed --num_gpus=2 tools/train.py --lr 1\n")
    launch = sources.read_sources(["run.sh"]).launch
    assert launch.words() == ["deepspeed", "--no_local_rank", "--num_gpus=2"]

"""The words of `cinelora cache`, in process and with real workers, on the fake family."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cinelora.cli.app import main
from cinelora.data.cache_folder import contents
from cli.test_app import RECIPE, call

__all__ = ["call"]  # the fixture: a folder with twelve clips and a recipe, and the command line


def made(folder="cache"):
    """Keys in the order in which they were made; each once, or somebody did another's work."""
    lines = (Path(folder) / "manifest.jsonl").read_text().splitlines()
    return [json.loads(line)["key"] for line in lines]


def paths(folder="cache"):
    return sorted(Path(folder).glob("*/*.safetensors"))


def flip(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_recipe_needs_no_verb_and_other_words_are_told(call):
    assert call("cache", "fill", "r.toml")[0] == 0
    for words in (("r.toml",), ("--set", "data.held_out=0.2", "r.toml"), ("r.toml", "--workers", "1")):
        code, said = call("cache", *words)
        assert (code, "0 made, 26 found" in said) == (0, True), said
    code, said = call("cache", "lst", "r.toml")
    assert code == 2
    assert "Did you mean 'ls'" in said
    code, said = call("cache", "nowhere.toml")
    assert code == 2
    assert "nearest: r.toml" in said
    code, said = call("cache")
    assert code == 2
    assert all(verb in said for verb in ("fill", "ls", "verify", "gc", "export"))


def test_what_cannot_be_is_refused_with_a_word_about_it(call, tmp_path, monkeypatch):
    code, said = call("cache", "r.toml", "--set", "data.cache=off")
    assert code == 2
    assert "data.cache" in said
    code, said = call("cache", "r.toml", "--share", "3/2")
    assert code == 2
    assert "found: 3/2" in said
    code, said = call("cache", "r.toml", "--share", "1/2", "--workers", "2")
    assert code == 2
    assert "do not go together" in said
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        code, said = call("cache", "r.toml", "--set", f"data.cache_dir={folder}")
        assert code == 1
        assert "cannot write" in said
    monkeypatch.setenv("WORLD_SIZE", "2")
    for words in (("--workers", "2"), ("--share", "1/2")):
        code, said = call("cache", "r.toml", *words)
        assert code == 2
        assert "a launcher already shares the work" in said
    assert not (tmp_path / "cache").exists()


def test_shares_by_hand_and_under_a_launcher_divide_the_work(call, monkeypatch):
    for number in (1, 2):
        code, said = call("cache", "r.toml", "--share", f"{number}/2")
        assert code == 0
        assert f"cache (share {number}/2):" in said
    assert len(set(made())) == len(made()) == len(paths()) == 26
    assert {kept.by for kept in contents(Path("cache"))} == {"r (share 1/2)", "r (share 2/2)"}
    shutil.rmtree("cache")
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        code, said = call("cache", "r.toml")
        assert code == 0
        assert ("26" in said or "made" in said) == (rank == 0)  # one voice
    assert len(set(made())) == len(made()) == len(paths()) == 26
    monkeypatch.delenv("WORLD_SIZE")
    assert "0 made, 26 found" in call("cache", "r.toml")[1]


def test_ls_shows_a_recipe_a_run_and_a_folder(call):
    call("cache", "r.toml", "--share", "1/2")
    code, said = call("cache", "ls", "r.toml")
    assert code == 0
    missing = 26 - len(paths())
    told = said.partition("missing: ")[2].partition(";")[0]
    assert sum(int(part.split(" of ")[0]) for part in told.split(", ")) == missing > 5
    call("train", "r.toml")
    code, said = call("cache", "ls", "run")
    assert code == 0
    assert "needs nothing more" in said
    for row in ("text bf16 14", "vae bf16 12"):
        assert row in said
    call("cache", "r.toml", "--set", "data.encoded_dtype=fp32")
    assert "text fp32 14" not in call("cache", "ls", "r.toml")[1]
    code, said = call("cache", "ls", "cache")
    assert "text fp32 14" in said
    assert time.strftime("%Y-%m-%d") in said
    for words, code in ((("clips",), 1), (("nowhere",), 2), (("cache", "--set", "train.steps=1"), 2)):
        assert call("cache", "ls", *words)[0] == code


def test_verify_reads_all_and_deletes_only_when_asked(call):
    call("cache", "r.toml")
    code, said = call("cache", "verify", "r.toml")
    assert code == 0
    assert "26 entries read" in said
    assert "26 are sound" in said
    flip(paths()[3])
    half = paths()[0].parent / ".x.safetensors.1.part"
    half.write_bytes(b"half")
    os.utime(half, (1, 1))
    code, said = call("cache", "verify", "cache")
    assert code == 1
    assert str(paths()[3]) in said
    assert "--delete" in said
    code, said = call("cache", "verify", "cache", "--delete")
    assert code == 0
    assert "25 are sound; deleted: 1 damaged entries, 1 half-written files" in said
    assert (len(paths()), half.exists()) == (25, False)
    assert "1 made, 25 found" in call("cache", "r.toml")[1]


def test_gc_keeps_what_any_of_the_recipes_needs(call, tmp_path):
    call("cache", "r.toml")
    (tmp_path / "other.toml").write_text(RECIPE.replace("rank = 2", "rank = 4").replace("something", "another prompt"))
    call("cache", "other.toml", "--set", "data.encoded_dtype=fp32")
    (tmp_path / "clips" / "03.txt").write_text("a new caption")
    before = paths()
    code, said = call("cache", "gc", "r.toml")
    assert code == 0
    assert "would delete: 27 entries" in said  # 26 in fp32, and the old caption
    assert paths() == before
    code, said = call("cache", "gc", "r.toml", "other.toml", "--delete")
    assert code == 0
    assert "deleted: 27 entries" in said
    assert "25 found" in call("cache", "r.toml")[1]
    assert len(paths()) == 26
    assert len(made()) == 26


def test_gc_deletes_nothing_where_it_cannot_know_all(call, tmp_path):
    call("cache", "r.toml")
    before = paths()
    (tmp_path / "bad.toml").write_text(RECIPE.replace('path = "clips"', 'path = "nowhere"'))
    assert call("cache", "gc", "r.toml", "bad.toml", "--delete")[0] == 3
    (tmp_path / "far.toml").write_text(RECIPE.replace('cache_dir = "cache"', 'cache_dir = "far"'))
    code, said = call("cache", "gc", "r.toml", "far.toml", "--delete")
    assert code == 2
    assert "do not share one cache" in said
    assert call("cache", "gc", "cache", "--delete")[0] == 1
    assert paths() == before


def test_gc_of_a_run_keeps_what_its_command_line_changed(call):
    call("train", "r.toml", "--set", "data.encoded_dtype=fp32")
    assert "would delete: 0 entries" in call("cache", "gc", "run")[1]
    assert "would delete: 26 entries" in call("cache", "gc", "r.toml")[1]


def test_an_exported_cache_trains_elsewhere_without_encoding(call, tmp_path, monkeypatch):
    call("cache", "r.toml")
    call("cache", "r.toml", "--set", "data.encoded_dtype=fp32")
    code, said = call("cache", "export", "r.toml", "out")
    assert code == 0
    assert "copied 26 entries" in said
    shutil.copytree(tmp_path, tmp_path / "there")
    shutil.rmtree(tmp_path / "there" / "cache")
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setattr("cinelora.data.entries.sha256_file", lambda path: pytest.fail("a clip was read"))
    code, said = call("train", "r.toml", "--set", "data.cache_dir=out")
    assert code == 0, said
    assert "0 made, 26 found" in said


def test_an_incomplete_cache_is_not_exported(call, tmp_path):
    call("cache", "r.toml", "--share", "1/2")
    code, said = call("cache", "export", "r.toml", "out")
    assert code == 1
    assert "the cache is not complete" in said
    assert not (tmp_path / "out").exists()


KILLED = """
import os, sys
if "--dealt" in sys.orig_argv and sys.orig_argv[sys.orig_argv.index("--share") + 1].startswith("1/"):
    from cinelora.families.fake.encode import FakeVae
    encode, calls = FakeVae.encode, []
    def killed(self, clips, rng=None):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), 9)
        return encode(self, clips, rng)
    FakeVae.encode = killed
"""


@pytest.mark.slow
def test_a_killed_worker_is_told_and_the_same_command_goes_on(call, tmp_path, monkeypatch):
    (tmp_path / "killer").mkdir()
    (tmp_path / "killer" / "sitecustomize.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "killer"))
    code, said = call("cache", "r.toml", "--workers", "2")
    assert code == 1
    assert "worker 1 of 2 died found: signal 9 (SIGKILL) where: it was at clips/" in said
    assert len(paths()) == 26 - 4  # the third to sixth clip of the first worker
    journal = [json.loads(line) for line in Path("cache/journal.jsonl").read_text().splitlines()]
    assert [line["event"] for line in journal] == ["begin", "problem", "end"]
    monkeypatch.delenv("PYTHONPATH")
    code, said = call("cache", "r.toml", "--workers", "2")
    assert code == 0, said
    assert "4 made, 22 found" in said
    assert len(set(made())) == len(made()) == 26
    assert {line.partition(" ")[2] for line in {kept.by for kept in contents(Path("cache"))}} == {
        "(worker 1/2)",
        "(worker 2/2)",
    }
    shutil.rmtree("cache/" + paths()[0].parent.name)
    alone = call("cache", "r.toml")[1]
    assert "rebuilt" in alone
    assert call("cache", "verify", "cache")[0] == 0


SPOILT = """
import sys
if "--dealt" in sys.orig_argv:
    from cinelora.families.fake.encode import FakeVae
    moments, seen = FakeVae._moments, []
    def spoilt(self, pixels):
        seen.append(1)
        return {name: tensor / (len(seen) != 2) for name, tensor in moments(self, pixels).items()}
    FakeVae._moments = spoilt
"""


@pytest.mark.slow
def test_bad_clips_of_all_workers_are_told_together(call, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(SPOILT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, said = call("cache", "r.toml", "--workers", "2")
    assert code == 3
    assert said.count("not finite: clips/") == 2
    assert len(paths()) == 24
    shutil.rmtree("cache")
    code, said = call("cache", "r.toml", "--workers", "2", "--set", "data.on_bad=skip")
    assert code == 0
    assert "24 made" in said


@pytest.mark.slow
def test_a_worker_whose_parent_is_gone_ends(call, tmp_path, monkeypatch):
    from cinelora.commands.cache_team import Hand
    from cinelora.commands.clips import cache_of, encoder_of, encoding_of, plan_of, slots_of
    from cinelora.config.load import load

    loaded = load(Path("r.toml"))
    encoding = encoding_of(loaded, encoder_of(loaded), device="cpu")
    todo = cache_of(loaded).look(slots_of(loaded, plan_of(loaded)), encoding)
    command = [sys.executable, "-m", "cinelora.cli", "cache", "r.toml", "--share", "1/1", "--dealt"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    worker.stdout.close()
    worker.stdin.write(pickle.dumps(Hand(todo.works, "cpu", 1)))
    worker.stdin.close()
    assert worker.wait(60) != 0
    assert paths() == []


SLOW = """
import itertools, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and all they start, ignore it
if "--dealt" in sys.orig_argv:
    from cinelora.families.fake.encode import FakeVae
    moments, made = FakeVae._moments, itertools.count()
    FakeVae._moments = lambda self, pixels: time.sleep(1 if next(made) > 1 else 0) or moments(self, pixels)
"""
"""Two clips of each worker at once, four that leave time for Ctrl-C on the busiest machine."""


@pytest.mark.slow
def test_ctrl_c_while_workers_are_at_it_keeps_what_is_made(call, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, "-m", "cinelora.cli", "cache", "r.toml", "--workers", "2"]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(paths()) < 16:
        assert parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    after = paths()
    assert list(Path("cache").rglob("*.part")) == []
    monkeypatch.delenv("PYTHONPATH")
    code, said = call("cache", "r.toml")
    assert f"{26 - len(after)} made, {len(after)} found, 0 rebuilt" in said


def test_a_worker_is_no_verb_for_people(call, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cinelora", "cache", "fill", "--help"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    assert "--workers" in said
    assert "--dealt" not in said

"""Workers that are small scripts: what they tell, how they die, and that none is left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cinelora.base.errors import DataError, Problem, RunError, WeightsError
from cinelora.commands.cache_team import Hand, gather
from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.data.cache_work import TowerWork
from cinelora.data.entries import TowerFacts

TOLD = """
import json, os, sys, time
hand = sys.stdin.buffer.read()
keys = json.loads(sys.argv[1])
def sign(path):
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
def tell(kind, key="", **more):
    line = {"kind": kind, "tower": "vae", "key": key, "bytes": 7, "problems": [], **more}
    print(json.dumps(line), flush=True)
"""


def hands(*sizes):
    facts, dealt, number = TowerFacts("vae", "pixels", ("mean", "logvar"), "1", False), [], 0
    for size in sizes:
        keys = [f"key{number + k}" for k in range(size)]
        number += size
        slots = {
            key: [Slot(Record(f"main/{key}", "main", "video", (), "words", "x"), Bucket(5, 16, 16))] for key in keys
        }
        dealt.append(Hand((TowerWork(facts, slots, dict.fromkeys(keys, "missing")),), "cpu", 1))
    return dealt


@pytest.fixture
def team(tmp_path):
    """Events of workers that run these scripts."""

    def started(*scripts, sizes=(3, 2)):
        files = [tmp_path / f"{number}.py" for number in range(len(scripts))]
        for file, script in zip(files, scripts, strict=True):
            file.write_text(TOLD + script)
        dealt = hands(*sizes)
        keys = [json.dumps(hand.works[0].to_make) for hand in dealt]
        return gather(lambda number: [sys.executable, str(files[number - 1]), keys[number - 1]], dealt)

    return started


EACH = "for key in keys: tell('begun', key); tell('made', key)\n"


def test_what_all_workers_tell_is_passed_on_and_they_get_their_hands(team):
    takes = "import pickle; assert pickle.loads(hand).works[0].to_make == keys\n"  # slow: it loads torch
    events = list(team(takes + EACH, EACH))
    assert sorted(event.key for event in events if event.kind == "made") == [f"key{k}" for k in range(5)]
    assert {event.bytes for event in events} == {7}
    assert len(events) == 10


def test_what_a_worker_says_besides_is_told_once(team, capsys):
    said = "print('weights are old', file=sys.stderr)\n" + EACH
    list(team(said, said))
    assert capsys.readouterr().err.count("worker: weights are old") == 1


def test_bad_clips_come_with_all_that_is_known_of_them(team):
    failed = "tell('failed', keys[0], problems=[{'what': 'cannot decode', 'found': 'x', 'allowed': '', 'nearest': '',"
    failed += " 'where': 'a.mp4', 'do': ''}])\n"
    (event,) = [event for event in team(failed, EACH) if event.kind == "failed"]
    assert event.problems == (Problem("cannot decode", found="x", where="a.mp4"),)


def test_a_worker_that_is_killed_is_told_with_its_last_item_and_the_others_go_on(team):
    killed = "tell('begun', keys[0]); tell('made', keys[0]); tell('begun', keys[1]); os.kill(os.getpid(), 9)\n"
    events = list(team(killed, EACH))
    assert sorted(event.key for event in events if event.kind == "made") == ["key0", "key3", "key4"]
    (broken,) = [event for event in events if event.kind == "broken"]
    (problem,) = broken.problems
    assert problem.what == "worker 1 of 2 died"
    assert problem.found == "signal 9 (SIGKILL)"
    assert problem.where == "it was at main/key1@5x16x16#0"
    assert "the same command" in problem.do
    assert "memory" in problem.do


@pytest.mark.parametrize(
    ("script", "found", "where"),
    [
        ("raise ValueError('no such thing')\n", "exit code 1: ValueError: no such thing", "before its first entry"),
        ('sys.stdout.write(\'{"kind": "be\'); sys.stdout.flush(); os.kill(os.getpid(), 11)\n', "SIGSEGV", "before"),
        ("os._exit(3)\n", "exit code 3", "before"),
    ],
)
def test_other_deaths_are_told_as_they_are(team, script, found, where):
    (broken,) = [event for event in team(script, EACH) if event.kind == "broken"]
    assert found in broken.problems[0].found
    assert where in broken.problems[0].where


def test_a_worker_that_dies_before_it_takes_its_hand_is_told_too():
    large = hands(1)
    large[0].works[0].wanted["key0"] *= 3000  # more than a pipe holds
    events = list(gather(lambda number: [sys.executable, "-c", "raise SystemExit(4)"], large))
    assert [event.kind for event in events] == ["broken"]


@pytest.mark.parametrize("kind", [WeightsError, RunError, DataError])
def test_what_ends_the_work_ends_every_worker(team, tmp_path, kind):
    line = {"error": kind.__name__, "problems": [{"what": "it does not fit", "do": "take another"}]}
    waits = f"sign({str(tmp_path / 'pid')!r}); time.sleep(60)\n"
    fails = f"while not os.path.exists({str(tmp_path / 'pid')!r}): pass\nprint({json.dumps(line)!r}, flush=True)\n"
    with pytest.raises(kind, match="it does not fit"):
        list(team(fails, waits))
    _gone(int((tmp_path / "pid").read_text()))


def test_ctrl_c_ends_every_worker(team, tmp_path):
    files = [tmp_path / f"pid{k}" for k in range(2)]
    scripts = [f"sign({str(file)!r}); tell('begun', keys[0]); time.sleep(60)\n" for file in files]
    events = team(*scripts)
    for _ in files:
        next(events)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()  # as Ctrl-C, while there are workers
    with pytest.raises(KeyboardInterrupt):
        next(events)
    for file in files:
        _gone(int(file.read_text()))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def _gone(pid):
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    subprocess.run(["kill", "-9", str(pid)], check=False)
    pytest.fail("a worker was left behind")

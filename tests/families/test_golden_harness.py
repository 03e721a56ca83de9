"""The harness itself: a spoilt number and an unknown kind fail, listed kinds are expected, families are named."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import test_golden
from golden_case import ROOT, find_cases


def make_case(folder: Path, config: dict) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))


def test_outcomes_of_another_folder(tmp_path):
    schedules = ROOT / "tests" / "golden" / "wan" / "schedules"
    for name in ("right", "wrong"):
        shutil.copytree(schedules, tmp_path / "wan" / name)
    config = json.loads((schedules / "config.json").read_text())
    config["shifts"]["5"]["inference"]["4"]["dpmpp_sigmas"][1] += 0.01
    (tmp_path / "wan" / "wrong" / "config.json").write_text(json.dumps(config))
    make_case(tmp_path / "wan" / "strange", {"kind": "nobody knows"})
    make_case(tmp_path / "nofamily" / "any", {"kind": "t2v"})
    command = [sys.executable, "-m", "pytest", "tests/families/test_golden.py", "-v", "--golden", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    outcomes = dict(re.findall(r"test_golden\[wan/(\w+)\] ([A-Z]+)", run.stdout))
    assert outcomes == {"right": "PASSED", "wrong": "FAILED", "strange": "FAILED"}
    assert run.stdout.strip().splitlines()[-1].endswith("not in the registry yet: nofamily")
    assert run.returncode == 1


def test_kinds_that_are_listed_are_expected_to_fail(tmp_path, monkeypatch):
    for name, size in (("early", 1), ("late", 2)):
        make_case(tmp_path / "wan" / name, {"kind": "t2v", "size": size})
    monkeypatch.setitem(test_golden.EXPECTED_FAILURES, "wan", (("t2v", lambda config: config["size"] > 1),))
    marks = {case.name: [mark.name for mark in test_golden.parameter(case).marks] for case in find_cases(str(tmp_path))}
    assert marks == {"wan/early": [], "wan/late": ["xfail"]}


def test_equal_twins_run_once_and_unequal_ones_twice(tmp_path, monkeypatch):
    for root, number in (("a", 1), ("b", 1)):
        make_case(tmp_path / root / "wan" / "same", {"kind": "t2v", "number": 1})
        make_case(tmp_path / root / "wan" / "other", {"kind": "t2v", "number": number + (root == "b")})
    monkeypatch.setattr("golden_case.FOLDERS", (tmp_path / "a", tmp_path / "b"))
    assert sorted(case.name for case in find_cases(None)) == ["wan/other", "wan/other@1", "wan/same"]

import sys
from types import ModuleType, SimpleNamespace

import pytest
from pydantic import ValidationError

from cinelora.base.errors import RecipeError
from cinelora.report import trackers as room
from cinelora.report.options import ReportOptions
from cinelora.report.trackers import open_trackers, scalars_of
from cinelora.report.versions import PACKAGES, versions

STEP = {"step": 3, "loss": 0.5, "lr": 1e-4, "grad_norm": "inf", "finite": True, "names": ["a"]}


def test_scalars_are_figures_alone():
    assert scalars_of("step", STEP) == {"train/loss": 0.5, "train/lr": 1e-4}
    facts = {"step": 3, "loss": 0.25, "by_quantile": {"0.5": 0.1, "0.9": "nan"}, "best": True}
    assert scalars_of("held_out", facts) == {"held_out/loss": 0.25, "held_out/loss_at/0.5": 0.1}
    assert scalars_of("checkpoint", {"step": 3}) == {}


def tensorboard_scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_gets_the_scalars_and_forgets_what_a_resume_makes_again(tmp_path):
    pytest.importorskip("tensorboard")
    options = ReportOptions(trackers=["tensorboard", "tensorboard"])
    first = open_trackers(options, folder=tmp_path, run_name="r")
    assert len(first.trackers) == 1
    for step in (1, 2, 3):
        first.tell("step", step=step, loss=step / 2)
    first.tell("start", steps=3)
    first.tell("preview", step=3, files=["samples/step-000003/00.mp4"])
    first.close()
    second = open_trackers(options, folder=tmp_path, run_name="r", resume_step=2)
    second.tell("step", step=3, loss=9.0)
    second.tell("held_out", step=3, loss=0.25)
    second.close()
    found = tensorboard_scalars(tmp_path / "tensorboard")
    assert found == {"train/loss": [(1, 0.5), (2, 1.0), (3, 9.0)], "held_out/loss": [(3, 0.25)]}


def test_missing_packages_are_all_named(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(RecipeError) as told:
        open_trackers(ReportOptions(trackers=["wandb", "trackio"]), folder=tmp_path, run_name="r")
    assert [p.found for p in told.value.problems] == ["wandb", "trackio"]
    assert "pip install cinelora[trackers]" in str(told.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_videos_go_where_they_can_be_shown(tmp_path, monkeypatch, name):
    logged, begun = [], {}
    package = ModuleType(name)
    run = SimpleNamespace(
        log=lambda values, step=None: logged.append((step, values)), finish=lambda: logged.append("end")
    )
    package.init = lambda **words: begun.update(words) or run
    package.Video = lambda path: ("video", path)
    monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setattr(room, "find_spec", lambda name: package)
    found = open_trackers(ReportOptions(trackers=[name]), folder=tmp_path, run_name="my-run")
    found.tell("step", **STEP)
    found.tell("preview", step=3, files=["samples/step-000003/00.mp4"])
    found.close()
    video = ("video", str(tmp_path / "samples/step-000003/00.mp4"))
    assert logged == [(3, {"train/loss": 0.5, "train/lr": 1e-4}), (3, {"preview/00": video}), "end"]
    assert (begun["project"], begun["name"]) == ("cinelora", "my-run")


def test_unknown_trackers_are_refused():
    with pytest.raises(ValidationError, match="tensorboard"):
        ReportOptions(trackers=["mlflow"])
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        ReportOptions(embed_videos_mb=-1)


def test_versions_are_those_of_the_packages_and_load_none():
    import torch

    found = versions()
    assert set(found) == {"python", *PACKAGES}
    assert found["python"] == ".".join(map(str, sys.version_info[:3])) or sys.version_info.releaselevel != "final"
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_a_package_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr("cinelora.report.versions.PACKAGES", ("no-such-package-here",))
    assert versions()["no-such-package-here"] == "not installed"

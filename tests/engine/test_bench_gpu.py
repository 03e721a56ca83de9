"""The benchmark of GPUs goes through all its code on the CPU, and says so where there is no GPU."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from cinelora.base.errors import Problem, RunError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gpu"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_gpu"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_ends_well(bench, capsys):
    assert bench.main([]) == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) == 1
    assert "skipped" in said[0]


def test_every_way_is_measured_on_tiny_networks(bench, capsys, tmp_path):
    assert bench.main(["--tiny", "--json", str(tmp_path / "figures.json")]) == 0
    rows = [row.split("|") for row in capsys.readouterr().out.splitlines() if row.startswith("| wan") or "cogv" in row]
    networks = {case.model for case in bench.TINY}
    assert len(rows) == len(bench.TINY) + len(networks)  # a plain loop for each network and size
    assert {row[3].strip() for row in rows} >= {bench.PLAIN, *(case.how for case in bench.TINY)}
    assert all(float(row[5]) > 0 for row in rows)
    figures = json.loads((tmp_path / "figures.json").read_text())
    both = [one["flops"] for one in figures if one["how"] in (bench.PLAIN, "full checkpointing")]
    assert both[0] == pytest.approx(both[1], rel=0.1)  # the loop's FLOPs are the plain loop's


def test_the_issue_s_cases_are_there_with_its_sizes(bench):
    from cinelora.families import registry

    wanted = {("wan/t2v-14b", 18564), ("wan/t2v-14b", 32760), ("wan/t2v-1.3b", 18564), ("wan/t2v-1.3b", 32760)}
    found = set()
    for case in bench.CASES:
        _, variant = registry.find(*case.model.split("/"))
        _, t, h, w = variant.geometry.latent_shape(case.bucket)
        found.add((case.model, t * (h // 2) * (w // 2)))
        assert variant.geometry.fits_frames(case.bucket.frames)
    assert wanted <= found
    assert {name for name, _ in found} >= {"cogvideox/2b", "cogvideox/5b", "easyanimate/v5.1-12b"}


def test_full_memory_is_a_row_not_an_end(bench):
    def full(case, num_steps):
        raise torch.OutOfMemoryError("full")

    figure = bench.measured(bench.CASES[0], full, 1)
    assert figure.seconds is None
    assert "out of memory" in bench.line(figure, 1e12, {})


def test_a_loop_that_finds_no_room_is_a_row_too(bench, monkeypatch):
    """Ours catches the full memory itself, and ends with an error of its own; other errors are told."""

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(bench.Finetune, "pieces", full)
    figure = bench.measured(bench.TINY[0], bench.ours, 1)
    assert figure.seconds is None
    assert figure.how == bench.TINY[0].how

    def other(*args, **kwargs):
        raise RunError(Problem("the loss is not finite"))

    with pytest.raises(RunError, match="not finite"):
        bench.measured(bench.TINY[0], other, 1)

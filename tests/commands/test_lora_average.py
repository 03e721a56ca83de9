"""Means of checkpoints: of files, of a run's folder, of other weights; shares by numbers and by decay."""

import json
from pathlib import Path

import pytest
import torch
from lora_cases import added, effects, near, subject
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cinelora.lora.files import read_adapter, write_adapter
from cinelora.train.checkpoint import ADAPTERS

WAN = subject("wan/tiny")
DIFFUSERS, COMFYUI = WAN.layouts[:2]
STEPS = (100, 200, 400)
FILES = [WAN.adapter(step, (2,), (1.0,), steps=str(step)) for step in STEPS]


def mean(*shares):
    keys = FILES[0].tensors
    return {key: sum(s * f.tensors[key].double() for s, f in zip(shares, FILES, strict=True)).float() for key in keys}


@pytest.fixture
def run(tmp_path):
    """A run's folder: two adapters kept on the way, the last one and the best one, each in two layouts."""
    folder = tmp_path / "run"
    names = (("history", "my.step-000100"), ("history", "my.step-000200"), ("adapter", "my"))
    for (where, name), file in zip(names, FILES, strict=True):
        for layout in (DIFFUSERS, COMFYUI):
            write_adapter(folder / where / f"{name}.{layout.name}.safetensors", file, layout)
    write_adapter(folder / "adapter" / "my.best.diffusers.safetensors", FILES[0], DIFFUSERS)
    for step, file in zip(STEPS, FILES, strict=True):
        inside = folder / "checkpoints" / f"step-{step:06d}"
        inside.mkdir(parents=True)
        tensors = {f"adapter/{key}": one for key, one in file.tensors.items()}
        save_file({**tensors, "critic/other.lora_A.weight": torch.ones(2, 2)}, inside / ADAPTERS)
    return folder


def read(path):
    return read_adapter(path, WAN.layouts)


def header(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for key, one in wanted.items():
        torch.testing.assert_close(found[key], one)


def test_a_runs_history_with_its_last_adapter(run, typed, tmp_path):
    code, said = typed("lora", "average", "run")
    assert code == 0
    assert "3 adapters of its history" in said
    found = read(tmp_path / "my-average3.diffusers.safetensors")
    close(found.tensors, mean(1 / 3, 1 / 3, 1 / 3))
    assert all(found.scale(module) == 0.5 for module in found.modules())
    told = header(tmp_path / "my-average3.diffusers.safetensors")
    (done,) = json.loads(told["lora_history"])
    assert [row["step"] for row in done["of"]] == list(STEPS)
    assert (told["family"], told["steps"], told["rank"]) == ("wan", "400", "2")


@pytest.mark.parametrize("words", [("run/checkpoints",), tuple(f"run/checkpoints/step-{s:06d}" for s in STEPS)])
def test_a_runs_checkpoints(run, typed, tmp_path, words):
    code, said = typed("lora", "average", *words, "--ema-decay", "0.99", "--out", "o.safetensors")
    assert code == 0
    shares = [0.99 ** (400 - step) for step in STEPS]
    close(read(tmp_path / "o.safetensors").tensors, mean(*(one / sum(shares) for one in shares)))
    assert "not the post-hoc EMA of Karras et al. 2024" in said
    rows = json.loads(header(tmp_path / "o.safetensors")["lora_history"])[0]["of"]
    assert [row["weight"] for row in rows] == pytest.approx([one / sum(shares) for one in shares])


def test_without_a_history_the_checkpoints_are_taken(run, typed, tmp_path):
    for file in (run / "history").iterdir():
        file.unlink()
    code, said = typed("lora", "average", "run", "--weights", "0", "1", "1", "--out", "o.safetensors")
    assert code == 0
    assert "no history, so its 3 checkpoints" in said
    close(read(tmp_path / "o.safetensors").tensors, mean(0, 0.5, 0.5))


def test_files_in_the_order_of_their_steps_with_shares_that_sum_to_one(run, typed, tmp_path):
    names = [f"run/history/my.step-000{step}.comfyui.safetensors" for step in (200, 100)]
    code, said = typed("lora", "average", *names, "--weights", "1", "3", "--to", "diffusers")
    assert code == 0
    assert "my.step-000100.comfyui.safetensors 0.25, my.step-000200.comfyui.safetensors 0.75" in said
    close(read(tmp_path / "my-average2.diffusers.safetensors").tensors, mean(0.25, 0.75, 0))


def test_the_mean_of_effects_by_svd(run, typed, tmp_path):
    assert typed("lora", "average", "run", "--how", "svd", "--rank", "6", "--out", "o.safetensors")[0] == 0
    near(effects(read(tmp_path / "o.safetensors")), added(*((file, 1 / 3) for file in FILES)))
    assert typed("lora", "average", "run", "--how", "svd", "--out", "p.safetensors")[0] == 0
    assert {read(tmp_path / "p.safetensors").rank(module) for module in WAN.modules} == {2}


def test_one_is_its_own_mean(run, typed, tmp_path):
    path = run / "adapter" / "my.comfyui.safetensors"
    assert typed("lora", "average", str(path), "--out", "o.safetensors")[0] == 0
    found = load_file(tmp_path / "o.safetensors")
    assert all(torch.equal(found[key], one) for key, one in load_file(path).items())


def test_experts_are_averaged_each(tmp_path, typed):
    experts = {name: {"file": f"my.step-000100.{name}", "levels": [0, 1]} for name in ("high", "low")}
    for step, file in zip(STEPS, FILES, strict=True):
        for k, name in enumerate(experts):
            told = {"expert": name, "joint_variant": "tiny-experts"}
            own = {n: {**one, "file": f"my.step-{step:06d}.{n}"} for n, one in experts.items()}
            file = WAN.adapter(step + k, (2,), (1.0,), steps=str(step), experts=json.dumps(own), **told)
            write_adapter(
                tmp_path / "run" / "history" / f"my.step-{step:06d}.{name}.diffusers.safetensors", file, DIFFUSERS
            )
    assert typed("lora", "average", "run")[0] == 0
    names = {file.name for file in tmp_path.glob("*.safetensors")}
    assert names == {f"my-average3.{name}.diffusers.safetensors" for name in experts}
    low = read(tmp_path / "my-average3.low.diffusers.safetensors")
    key = next(iter(low.tensors))
    wanted = sum(WAN.adapter(step + 1, (2,), (1.0,)).tensors[key].double() for step in STEPS) / 3
    torch.testing.assert_close(low.tensors[key], wanted.float())


def _kept(players):
    """A run's checkpoints, whose numbers are player/part.module, sorted by names as safetensors has them."""
    for step, tensors in zip(STEPS, players, strict=True):
        inside = Path("run", "checkpoints", f"step-{step:06d}")
        inside.mkdir(parents=True)
        save_file(tensors, inside / ADAPTERS)


def test_a_critic_is_no_checkpoint_of_the_adapter(tmp_path, typed):
    write_adapter(tmp_path / "run" / "adapter" / "my.diffusers.safetensors", FILES[-1], DIFFUSERS)
    own = [{f"generator/{key}": one for key, one in file.tensors.items()} for file in FILES]
    _kept(
        [{**one, **{f"critic/{key.partition('/')[2]}": torch.zeros_like(t) for key, t in one.items()}} for one in own]
    )
    code, said = typed("lora", "average", "run", "--out", "o.safetensors")
    assert code == 0, said
    close(read(tmp_path / "o.safetensors").tensors, mean(1 / 3, 1 / 3, 1 / 3))


@pytest.mark.parametrize("shared", [False, True])
def test_checkpoints_of_experts_are_averaged_each(tmp_path, typed, shared):
    """Whether each expert has an adapter of its own (finetune), or one adapter stands on both (distill)."""
    parts = {"high": "transformer", "low": "transformer_2"}
    experts = json.dumps({name: {"file": f"my.{name}", "levels": [0, 1]} for name in parts})
    for k, name in enumerate(parts):
        told = {"expert": name, "joint_variant": "tiny-experts", "experts": experts}
        file = WAN.adapter(900 + k, (2,), (1.0,), **told)
        write_adapter(tmp_path / "run" / "adapter" / f"my.{name}.diffusers.safetensors", file, DIFFUSERS)
    _kept(
        {
            f"{'generator' if shared else name}/{part}.{key.partition('.')[2]}": one
            for k, (name, part) in enumerate(parts.items())
            for key, one in WAN.adapter(step + k, (2,), (1.0,)).tensors.items()
        }
        for step in STEPS
    )
    code, said = typed("lora", "average", "run")
    assert code == 0, said
    for k, name in enumerate(parts):
        found = read(tmp_path / f"my-average3.{name}.diffusers.safetensors")
        assert found.metadata["expert"] == name
        files = [WAN.adapter(step + k, (2,), (1.0,)) for step in STEPS]
        close(found.tensors, {key: (sum(f.tensors[key].double() for f in files) / 3).float() for key in found.tensors})


def test_dora_is_numbers_like_others(tmp_path, typed):
    for k, factor in enumerate((1.0, 3.0)):
        file = WAN.adapter(k)
        lengths = {f"{m}.lora_magnitude_vector": torch.full((n,), factor) for m, (_, n) in WAN.modules.items()}
        whole = type(file)({**file.tensors, **lengths}, file.alphas, file.metadata)
        write_adapter(tmp_path / f"{k}.safetensors", whole, DIFFUSERS)
    assert typed("lora", "average", "0.safetensors", "1.safetensors", "--out", "o.safetensors")[0] == 0
    found = read(tmp_path / "o.safetensors")
    assert all((one == 2).all() for key, one in found.tensors.items() if "magnitude" in key)
    assert typed("lora", "average", "0.safetensors", "1.safetensors", "--how", "svd")[0] == 2


def test_other_weights_are_averaged_number_by_number(tmp_path, typed):
    for k in (1, 3):
        weights = {"net.weight": torch.full((5, 3), float(k)).bfloat16(), "count": torch.tensor(k)}
        save_file(weights, tmp_path / f"net-step{100 * k}.safetensors", {"told": str(k)})
    names = ("net-step100.safetensors", "net-step300.safetensors")
    code, said = typed("lora", "average", *names, "--weights", "1", "3")
    assert code == 0
    found = load_file(tmp_path / "net-average2.safetensors")
    assert (found["net.weight"] == 2.5).all()
    assert found["net.weight"].dtype == torch.bfloat16
    assert found["count"] == 3
    assert "1 tensors of whole numbers are the last one's: count" in said
    assert header(tmp_path / "net-average2.safetensors")["told"] == "3"
    assert typed("lora", "average", *names, "--ema-decay", "0.99", "--dtype", "fp32", "--out", "f.safetensors")[0] == 0
    early = 0.99**200
    value = (early + 3) / (early + 1)
    torch.testing.assert_close(load_file(tmp_path / "f.safetensors")["net.weight"], torch.full((5, 3), value))
    save_file({"net.weight": torch.ones(5, 4)}, tmp_path / "wide.safetensors")
    code, said = typed("lora", "average", names[0], "wide.safetensors")
    assert code == 2
    assert "not of one training" in said
    save_file(
        {"net.weight": torch.full((5, 3), float("nan")).bfloat16(), "count": torch.tensor(1)},
        tmp_path / "x.safetensors",
    )
    code, said = typed("lora", "average", names[0], "x.safetensors", "--out", "bad.safetensors")
    assert code == 4
    assert not (tmp_path / "bad.safetensors").exists()


def test_folders_of_shards_are_whole_checkpoints(tmp_path, typed):
    for k in (1, 3):
        folder = tmp_path / f"step-{k}00"
        folder.mkdir()
        where = {}
        for name in "ab":
            save_file({name: torch.full((4, 3), float(k))}, folder / f"m-{name}.safetensors")
            where[name] = f"m-{name}.safetensors"
        (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert typed("lora", "average", "step-100", "step-300", "--out", "o.safetensors")[0] == 0
    assert all((one == 2).all() for one in load_file(tmp_path / "o.safetensors").values())


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--how", "mean"], "no such way"),
        (["--ema-decay", "1"], "no decay"),
        (["--ema-decay", "0.9", "--weights", "1,1,1"], "one of them"),
        (["--weights", "1", "1"], "--weights has 2 numbers"),
        (["--weights=1,-1,0"], "sum to 1"),
        (["--rank", "3"], "keeps the rank"),
    ],
)
def test_words_that_do_not_fit(run, typed, words, what, tmp_path):
    code, said = typed("lora", "average", "run", *words)
    assert code == 2
    assert what in said
    assert [child.name for child in tmp_path.iterdir()] == ["run"]


def test_what_is_no_training_is_told(tmp_path, run, typed):
    assert "name files, or the folder of a run" in typed("lora", "average", str(tmp_path))[1]
    write_adapter(tmp_path / "other.safetensors", WAN.adapter(5, (3,)), DIFFUSERS)
    code, said = typed("lora", "average", "run", "other.safetensors")
    assert code == 2
    assert "not checkpoints of one training" in said
    write_adapter(tmp_path / "stepless.safetensors", WAN.adapter(5, (2,), (1.0,)), DIFFUSERS)
    code, said = typed("lora", "average", "run", "stepless.safetensors", "--ema-decay", "0.9")
    assert code == 2
    assert "do not say their step" in said
    save_file({"net.weight": torch.ones(2)}, tmp_path / "net.safetensors")
    code, said = typed("lora", "average", "run", "net.safetensors")
    assert code == 2
    assert "cannot be averaged together" in said
    (run / "checkpoints" / "step-000100" / ADAPTERS).write_bytes(b"")
    assert typed("lora", "average", "run/checkpoints")[0] == 4


def test_checkpoints_with_more_than_files_have_are_refused(run, typed, tmp_path):
    path = run / "checkpoints" / "step-000100" / ADAPTERS
    save_file({"adapter/other.lora_A.weight": torch.ones(2, 2)}, path)
    code, said = typed("lora", "average", "run/checkpoints")
    assert code == 4
    assert "average the files of history/" in said

"""The verb `import`: what it writes and says, and what it answers to what it cannot read."""

import json
import tomllib
from pathlib import Path

import pytest

from cinelora.commands.import_recipe import shorten

BASE = "models/EasyAnimateV5.1-12b-zh-InP"
FLAGS = f"""--pretrained_model_name_or_path={BASE} --train_data_meta=clips.json --train_mode=inpaint
--loss_type=flow --video_sample_n_frames=49 --enable_bucket --low_vram --seed=7 --learning_rate=1e-04"""
COMMAND = f"accelerate launch --mixed_precision=bf16 scripts/train_lora.py {' '.join(FLAGS.split())}"


@pytest.fixture
def call(typed, tmp_path):
    """Write a script as run.sh and import it, or whatever else is named."""

    def run(text, *words, name="run.sh"):
        if text is not None:
            Path(name).write_text(text) if isinstance(text, str) else Path(name).write_bytes(text)
        return typed("import", name, *words)

    return run


def test_a_recipe_is_written_with_its_origins_and_loads(call):
    code, said = call(f"#!/bin/sh\n{COMMAND}\n", "-o", "my.toml")
    assert code == 0, said
    text = Path("my.toml").read_text()
    tables = tomllib.loads(text)
    assert tables["train"]["seed"] == 7
    assert "seed = 7  # --seed, run.sh:2\n" in text
    assert "rank = 128  # the old program's default of --rank\n" in text
    assert 'variant = "v5.1-12b-inp"  # --pretrained_model_name_or_path, run.sh:2' in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("# Launch"))
    assert "launch: accelerate launch --mixed_precision=bf16 -m cinelora.cli train my.toml" in said
    assert "check: cinelora check my.toml" in said
    for title in ("what moved where", "what was not said", "what has no key of its own"):
        assert title in said
    assert "not needed: each clip and caption is encoded once" in " ".join(said.split())


def test_sections_stand_in_the_order_of_recipes(call):
    from cinelora.config.recipe import Recipe

    call(COMMAND, "-o", "my.toml")
    found = [line.strip("[]") for line in Path("my.toml").read_text().splitlines() if line.startswith("[")]
    order = list(Recipe.model_fields)
    places = [order.index(name.partition(".")[0]) for name in found]
    assert places == sorted(places)
    assert found.index("data.videox") < found.index("data.source")


def test_without_a_file_the_recipe_goes_to_standard_output_alone(monkeypatch, capsys, tmp_path):
    from cinelora.commands.import_recipe import Wishes, import_recipe

    monkeypatch.chdir(tmp_path)
    Path("run.sh").write_text(COMMAND)
    import_recipe(["run.sh"], Wishes())
    assert tomllib.loads(capsys.readouterr().out)["model"]["family"] == "easyanimate"


def test_standard_input_is_read(call, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"```sh\n{COMMAND}\n```".encode())))
    code, said = call(None, "-o", "my.toml", name="-")
    assert code == 0, said
    assert "seed = 7  # --seed, standard input:2" in Path("my.toml").read_text()


def test_json_tells_everything(call):
    code, said = call(COMMAND, "--json")
    assert code == 0
    found = json.loads(said)
    assert found["dialect"] == "easyanimate"
    assert {
        "key": "train.seed",
        "value": 7,
        "from": ["--seed=7"],
        "by_default": False,
        "where": ["run.sh:1"],
        "why": "",
    } in (found["keys"])
    assert [one["fate"] for one in found["others"] if one["from"] == ["--low_vram"]] == ["elsewhere"]
    assert found["launch"].startswith("accelerate launch")
    assert found["to_do"] == []


def test_every_setting_that_was_said_is_told_of(call):
    found = json.loads(call(COMMAND, "--json")[1])
    told = {word for one in (*found["keys"], *found["others"]) for word in one["from"]}
    assert {word for word in FLAGS.split()} <= told


def test_a_file_that_exists_is_kept(call):
    Path("my.toml").write_text("mine")
    code, said = call(COMMAND, "-o", "my.toml")
    assert code == 1
    assert "this file exists" in said
    assert Path("my.toml").read_text() == "mine"
    code, _ = call(COMMAND, "-o", "my.toml", "--force")
    assert code == 0
    assert Path("my.toml").read_text() != "mine"


def test_paths_start_from_the_recipes_folder(call):
    code, said = call(COMMAND, "-o", "recipes/my.toml")
    assert code == 0, said
    source = tomllib.loads(Path("recipes/my.toml").read_text())["data"]["source"][0]
    assert (source["path"], source["media_root"]) == ("../clips.json", "..")


def test_a_model_and_values_may_be_put_in_place(call):
    text = COMMAND.replace(BASE, "models/mine")
    code, said = call(text, "-o", "my.toml")
    assert code == 2
    assert "the name of the base does not say which model it is" in said
    assert "found: models/mine" in said
    assert "where: run.sh:1" in said
    code, said = call(text, "-o", "my.toml", "--model", "easyanimate/v5.1-7b-inp", "--set", "lora.rank=8")
    assert code == 0, said
    tables = tomllib.loads(Path("my.toml").read_text())
    assert (tables["model"]["variant"], tables["lora"]["rank"]) == ("v5.1-7b-inp", 8)
    assert "rank = 8  # --set" in Path("my.toml").read_text()


def test_what_nobody_said_is_to_do(call):
    code, said = call(COMMAND.replace("--train_data_meta=clips.json", ""), "-o", "my.toml")
    assert code == 0
    assert "to do: data.source.0.path is missing" in said
    assert "# TO DO: data.source.0.path is missing" in Path("my.toml").read_text()


def test_environment_and_launcher_are_carried_over_but_no_secrets(call):
    text = "export NCCL_P2P_DISABLE=1 WANDB_API_KEY=abc123 OTHER=1\nNCCL_DEBUG=INFO\nCUDA_VISIBLE_DEVICES=0,1 " + (
        COMMAND.replace("--mixed_precision=bf16", "--use_deepspeed --deepspeed_config_file 'my conf.json'")
    )
    code, said = call(text, "-o", "my.toml")
    assert code == 0, said
    line = "NCCL_P2P_DISABLE=1 CUDA_VISIBLE_DEVICES=0,1 accelerate launch --use_deepspeed "
    assert line + "'--deepspeed_config_file=my conf.json' -m cinelora.cli train my.toml" in said
    assert "abc123" not in said + Path("my.toml").read_text()
    assert "WANDB_API_KEY is not repeated here" in said
    assert "NCCL_DEBUG=INFO has no effect without `export`" in said
    assert "`cinelora train` refuses what it cannot engage" in said


def test_the_launchers_precision_is_the_runs(call):
    call(COMMAND, "-o", "my.toml")
    assert tomllib.loads(Path("my.toml").read_text())["train"]["precision"] == "bf16"
    call(COMMAND.replace("--mixed_precision=bf16", "--mixed_precision fp16"), "-o", "other.toml")
    assert tomllib.loads(Path("other.toml").read_text())["train"]["precision"] == "fp16"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["there is nothing in it", "where: run.sh"]),
        (b"\x00\x01\x02", ["this is not a text", "a zero byte"]),
        (b"caf\xe9 au lait", ["this is not a text", "where: run.sh"]),
        ("echo hello\n", ["there is no training command in it", "do: give the lines from"]),
        (
            "bash train.sh\n",
            ["this calls another script", "found: train.sh", "where: run.sh:1", "cinelora import train.sh"],
        ),
        (
            "python scripts/train_lor.py --x\n",
            [
                "not one that is known",
                "found: scripts/train_lor.py",
                "nearest: scripts/train_lora.py",
                "where: run.sh:1",
            ],
        ),
        ("python scripts/zero_to_bf16.py a b\n", ["this program trains nothing", "do: nothing"]),
        (
            f"{COMMAND} --rnak 4\n",
            ["no such flag", "found: --rnak", "nearest: --rank", "where: run.sh:1", "do: correct"],
        ),
        (
            f"{COMMAND} --rank $RANK\n",
            ["$RANK is not set in this text", "where: run.sh:1", "do: write the value itself"],
        ),
        (f"{COMMAND} --seed $(date)\n", ["known only when it is run", "found: $(date)", "where: run.sh:1"]),
        (f"for s in 1 2; do\n{COMMAND}\ndone\n", ["inside a loop", "found: for loop (line 1)", "where: run.sh:2"]),
        (f"{COMMAND}\n{COMMAND}\n", ["several training commands", "run.sh:1, run.sh:2", "--command 1 to 2"]),
        (f"{COMMAND}\n--rank=4\n", ["this flag belongs to no command", "found: --rank=4", "where: run.sh:2"]),
        (f"{COMMAND} --rank 1.5\n", ["lora.rank: should be a whole number", "--rank=1.5, run.sh:1"]),
        (f"{COMMAND} --network_alpha=x\n", ["--network_alpha: should be a number", "run.sh:1"]),
    ],
)
def test_what_cannot_be_imported_is_told(call, text, words):
    code, said = call(text, "-o", "my.toml")
    assert code == 2, said
    for word in words:
        assert word in said
    assert not Path("my.toml").exists()


def test_all_problems_are_told_at_once(call):
    _, said = call(f"{COMMAND} --rnak 4 --seed $NO --use_came --lr_scheduler=cosin\n")
    assert "4 problems in the recipe, all of them:" in said


def test_files_that_are_not_there(call, typed):
    Path("train.sh").write_text(COMMAND)
    code, said = typed("import", "trian.sh")
    assert code == 2
    assert "no such file" in said
    assert "nearest: train.sh" in said
    code, said = typed("import", ".")
    assert "this is a folder" in said


def test_one_of_several_commands(call):
    code, said = call(f"{COMMAND}\n{COMMAND} --rank=4\n", "--command", "2", "-o", "my.toml")
    assert code == 0, said
    assert tomllib.loads(Path("my.toml").read_text())["lora"]["rank"] == 4
    code, said = call(f"{COMMAND}\n", "--command", "3")
    assert "there are not so many commands" in said


def test_a_program_under_another_name_and_a_name_that_several_have(call):
    text = COMMAND.replace("scripts/train_lora.py", "mine.py")
    code, said = call(text, "--dialect", "easyanimate", "-o", "my.toml")
    assert code == 0, said
    code, said = call(text, "--dialect", "easyanimat")
    assert "nearest: easyanimate" in said
    code, said = call(COMMAND.replace("scripts/train_lora.py", "train_lora.py"))
    assert "several trainers have a program of this name" in said


def test_the_shipped_wheel_says_that_it_needs_yaml():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(one.startswith("pyyaml") for one in project["dependencies"])


def test_long_values_are_cut_in_tables_and_whole_in_the_recipe():
    line = "prompt " * 60
    assert len(shorten(line)) <= 166
    assert shorten(f"a\n{line}").startswith("a\nprompt")
    assert shorten("short") == "short"

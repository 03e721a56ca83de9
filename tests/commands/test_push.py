"""What goes to the Hub, and what is said where it cannot. Nothing here talks to the network."""

import ast
import re

import pytest
import yaml
from huggingface_hub.errors import LocalTokenNotFoundError

from cinelora.base.errors import RunError
from cinelora.cli.app import app
from cinelora.commands.push import gather, push
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.train import train_loaded
from cinelora.config.load import Source, check
from cinelora.report.run_folder import read_run
from media.makers import encode, flat_frames

PROMPT = 'a "flat" thing, <b>bold</b>'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("push")
    (folder / "clips").mkdir()
    encode(folder / "clips" / "a.mp4", flat_frames(5, 32, 48), fps=8)
    (folder / "clips" / "a.txt").write_text("a secret caption")
    tables = {
        "model": {"family": "cogvideox", "variant": "tiny", "dtype": "fp32"},
        "data": {"source": [{"path": "clips"}], "cache_dir": "cache", "frames": [5], "size": [32, 48], "held_out": 0},
        "lora": {"rank": 4, "alpha": 2},
        "train": {"steps": 1, "precision": "fp32", "gradient_checkpointing": False, "device": "cpu"},
        "preview": {"prompts": [PROMPT], "num_steps": 2, "frames": 5, "size": [32, 48], "before": False},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_loaded(check(Source(tables), folder=folder, name="flat"), RunFolder(folder / "run"))
    return folder / "run"


def test_the_card_shows_samples_and_lines_that_are_python(run, tmp_path):
    gather(read_run(run), tmp_path, repository="me/flat")
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["README.md", "flat.comfyui.safetensors", "flat.diffusers.safetensors", "samples/00.mp4"]
    card = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "text-to-video"
    assert front["widget"][0]["output"]["url"] == "samples/00.mp4"
    assert "base_model" not in front, "drawn weights are no repository"
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    ast.parse(code)
    assert 'load_lora_weights("me/flat", weight_name="flat.diffusers.safetensors")' in code
    assert "num_frames=5, height=32, width=48" in code
    assert "<b>" not in card.replace(code, "")
    assert "| rank | 4 |" in card
    assert "secret" not in card


def test_pushing_goes_through_the_hubs_client(run, monkeypatch):
    seen = {}

    class Api:
        def create_repo(self, name, private, exist_ok):
            seen["repo"] = (name, private, exist_ok)
            return f"https://example.org/{name}"

        def upload_folder(self, folder_path, repo_id, commit_message):
            seen["files"] = sorted(path.name for path in folder_path.iterdir())

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    push(run, "me/flat", private=True)
    assert seen["repo"] == ("me/flat", True, True)
    assert "README.md" in seen["files"]


def test_a_refusal_of_the_hub_says_what_to_do(run, monkeypatch):
    class Api:
        def create_repo(self, *args, **more):
            raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(RunError, match="hf auth login"):
        push(run, "me/flat", private=False)


def test_a_run_without_adapters_is_refused(run, tmp_path):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(RunError, match="no adapter"):
        push(tmp_path, "me/x", private=False)


def test_the_word_is_there():
    assert "push" in {command.name or command.callback.__name__ for command in app.registered_commands}

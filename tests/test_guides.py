"""What guides say of options, variants and flags is there: names are looked up, not believed."""

import re
from pathlib import Path

import pytest

from cinelora.config.recipe import Recipe
from cinelora.config.schema import fields_at, help_at
from cinelora.families import registry

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
WAN = (ROOT / "docs" / "guides" / "wan.md").read_text()
FACTS = ROOT.parent / "shared" / "facts" / "wan.md"
SEED = ROOT.parent / "shared" / "seeds" / "004_e7ed6cf5d3f9cf3e.txt"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_options_that_a_guide_names_exist(path):
    words = {
        word
        for code in re.findall(r"`([^`\n]+)`", path.read_text())
        for word in re.findall(r"[a-z_]+\.[a-z_0-9]+", code)
    }
    sections = [word.split(".") for word in words if word.split(".")[0] in Recipe.model_fields]
    wrong = [".".join(names) for names in sections if not help_at(Recipe, tuple(names)) and not _is_table(names)]
    assert [word for word in wrong if not word.endswith((".json", ".toml", ".safetensors"))] == []


def _is_table(names: list[str]) -> bool:
    return bool(fields_at(Recipe, tuple(names)))


def test_the_table_of_flags_names_real_options_of_sections():
    for section, names in (("source", ("path", "media_root", "video_repeats")),):
        assert set(names) <= set(fields_at(Recipe, ("data", section, 0)))
    table = WAN[WAN.index("## Coming from VideoX-Fun") :]
    videox = next(line for line in table.splitlines() if "--image_sample_size" in line)
    names = re.findall(r"--(\w+)", videox)
    assert set(names) == set(fields_at(Recipe, ("data", "videox")))


def test_variants_that_the_guide_names_exist():
    named = set(re.findall(r"`((?:2\.2-|i2v-|t2v-)[\w.-]+)`", WAN))
    assert named <= set(registry.FAMILIES["wan"].variants)
    assert {"2.2-t2v-a14b", "2.2-i2v-a14b", "2.2-i2v-low"} <= named


def test_every_layout_has_its_row():
    section = WAN[WAN.index("## Which file, which strength") :]
    rows = re.findall(r"^\| `([\w-]+)`", section[: section.index("**Which sampler.**")], re.M)
    assert tuple(rows) == registry.FAMILIES["wan"].adapter_files


def test_words_of_the_command_line_exist():
    from typer.main import get_command

    from cinelora.cli.app import app

    known = {word for command in get_command(app).commands.values() for one in command.params for word in one.opts}
    ours = WAN[: WAN.index("## Coming from VideoX-Fun")].replace("--use_peft_lora", "").replace("--train_mode", "")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) <= known


@pytest.mark.skipif(not SEED.is_file(), reason="the flags that users start from are not here")
def test_every_flag_of_the_commands_that_users_start_from_has_its_place():
    flags = {flag for flag in re.findall(r"--([a-z_0-9]+)", SEED.read_text()) if not flag.startswith("fsdp_")}
    flags -= {
        "max_shard_size",
        "safe_serialization",
    }  # of a script that puts shards together, which are not written here
    facts = FACTS.read_text() if FACTS.is_file() else ""
    flags |= set(re.findall(r"--([a-z_0-9]+)", facts.partition("### 1.1 ")[2].partition("### 1.2 ")[0]))
    table = WAN[WAN.index("## Coming from VideoX-Fun") :]
    assert len(flags) > 40
    assert sorted(flag for flag in flags if not re.search(rf"--{flag}\b", table)) == []

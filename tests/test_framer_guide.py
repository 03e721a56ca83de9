"""What the guide of Framer says: flags of the script have their place, numbers are those of the networks."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from cinelora.cli.app import app
from cinelora.config.load import load
from cinelora.families import registry
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import linears, sizes

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "guides" / "framer.md").read_text()
SEED = ROOT.parent / "shared" / "seeds" / "002_c630545632d2e78c.txt"
FACTS = ROOT.parent / "shared" / "facts" / "framer.md"
FRAMER = registry.FAMILIES["framer"]
OF_SCRIPT = GUIDE[GUIDE.index("## Coming from FramerTurbo") :]


def test_variants_are_all_there_are():
    rows = GUIDE[GUIDE.index("| variant |") :].partition("\n\n")[0].splitlines()[2:]
    assert {name for row in rows for name in re.findall(r"`([\w-]+)`", row.split("|")[1])} == set(FRAMER.variants)


def test_words_of_the_command_line_exist():
    commands = get_command(app).commands
    known = {word for command in commands.values() for one in command.params for word in one.opts}
    ours = GUIDE[: GUIDE.index("## What is different")]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) <= known | {"--checkpoint"}
    assert set(re.findall(r"cinelora ([a-z]+) ", GUIDE)) <= set(commands)


@pytest.mark.skipif(not SEED.is_file(), reason="the flags that users start from are not here")
def test_every_flag_of_the_script_has_its_place():
    flags = set(re.findall(r"(?<![\w-])--([a-z_0-9]+)", SEED.read_text())) - {"logdir"}
    facts = FACTS.read_text() if FACTS.is_file() else ""
    table = facts.partition("### 1.1 Flags")[2].partition("Not exposed")[0]
    flags |= set(re.findall(r"--([a-z_0-9]+)", table)) | ({"adam_beta2"} if table else set())
    assert len(flags) >= (35 if facts else 12)
    assert sorted(flag for flag in flags if not re.search(rf"--{flag}\b", OF_SCRIPT)) == []


def memory_rows():
    rows = GUIDE[GUIDE.index("| what learns | numbers") :].partition("\n\n")[0].splitlines()[2:]
    for row in rows:
        what, millions, gigabytes, _ = (cell.strip() for cell in row.strip("|").split("|"))
        yield what, float(millions.split()[0]), float(gigabytes.split()[0])


def test_the_table_of_memory_is_computed_from_the_networks():
    """bf16 weights of what is loaded, 16 bytes for each number that learns, which is fp32."""
    parts = registry.skeleton(FRAMER, FRAMER.variants["512x320-tracks"])
    whole = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}

    def adapter(part, rank):
        options = LoraOptions(rank=rank, targets=FRAMER.default_preset)
        chosen, modules = sizes(part, parts[part], options, FRAMER.lora_presets), linears(parts[part])
        return sum((modules[name].in_features + modules[name].out_features) * rank for name in chosen)

    for what, millions, gigabytes in memory_rows():
        rank = int(found[1]) if (found := re.search(r"rank (\d+)", what)) else 0
        full = {part for part, word in (("unet", "UNet in full"), ("controlnet", "ControlNet in full")) if word in what}
        lora = {part for part, word in (("unet", "UNet"), ("controlnet", "ControlNet")) if word in what and rank} - full
        learning = sum(whole[part] for part in full) + sum(adapter(part, rank) for part in lora)
        frozen = sum(whole[part] for part in ({"unet"} | lora) - full)
        assert millions == pytest.approx(learning / 1e6, abs=0.06), what
        assert gigabytes == pytest.approx((16 * learning + 2 * frozen) / 1e9, abs=0.06), what


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("framer-*.toml")), ids=lambda path: path.stem)
def test_changes_that_recipes_suggest_load(path):
    for line in re.findall(r"^# .*--set.*", path.read_text(), re.M):
        sets = re.findall(r"--set ([\w.]+=(?:\[[\d,]+\]|[\w.-]+))", line)
        assert len(sets) == line.count("--set")
        assert load(path, sets).recipe.train.lr > 0

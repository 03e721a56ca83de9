"""What guides say of options, variants and flags is there: names are looked up, not believed."""

import re
from pathlib import Path

import pytest

from cinelora.config.recipe import Recipe
from cinelora.config.schema import fields_at, help_at
from cinelora.families import registry

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
WAN, EASYANIMATE, DYNAMICRAFTER = (
    (ROOT / "docs" / "guides" / f"{name}.md").read_text() for name in ("wan", "easyanimate", "dynamicrafter")
)
SHARED = ROOT.parent / "shared"
FACTS = SHARED / "facts" / "wan.md"
SEED = SHARED / "seeds" / "004_e7ed6cf5d3f9cf3e.txt"
EASYANIMATE_SEED = SHARED / "seeds" / "001_82600c90ca1840bd.txt"
EASYANIMATE_FACTS = SHARED / "facts" / "easyanimate.md"
DYNAMICRAFTER_SEED = SHARED / "seeds" / "000_1a1b451279e65937.txt"
DYNAMICRAFTER_FACTS = SHARED / "facts" / "dynamicrafter.md"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_options_that_a_guide_names_exist(path):
    words = {
        word
        for code in re.findall(r"`([^`\n]+)`", path.read_text())
        for word in re.findall(r"[a-z_]+\.[a-z_0-9]+", code)
    }
    sections = [word.split(".") for word in words if word.split(".")[0] in Recipe.model_fields]
    wrong = [".".join(names) for names in sections if not help_at(Recipe, tuple(names)) and not _is_table(names)]
    assert [
        word for word in wrong if not word.endswith((".json", ".toml", ".sh", ".safetensors", ".diffusion_model"))
    ] == []


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


def test_variants_that_the_guide_of_easyanimate_names_are_all_there_are():
    rows = EASYANIMATE[EASYANIMATE.index("| variant |") :].partition("\n\n")[0].splitlines()[2:]
    named = {name for row in rows for name in re.findall(r"`([\w.-]+)`", row.split("|")[1])} - {"-inp"}
    drawn = {f"{name}-inp" for name in named if name.startswith("tiny-") and name != "tiny-v2"}
    assert named | drawn == set(registry.FAMILIES["easyanimate"].variants)
    for row in rows:
        kind = re.match(r"`(\w+)`", row.split("|")[-2].strip())
        for name in re.findall(r"`([\w.-]+)`", row.split("|")[1]) if kind else ():
            assert registry.FAMILIES["easyanimate"].variants[name].process["kind"] == kind[1]


def rows_of(section: str) -> tuple[str, ...]:
    """First words in code of a table's rows."""
    return tuple(re.findall(r"^\| `([\w-]+)`", section, re.M))


def test_every_layout_has_its_row():
    section = WAN[WAN.index("## Which file, which strength") :]
    assert rows_of(section[: section.index("**Which sampler.**")]) == registry.FAMILIES["wan"].adapter_files
    section = EASYANIMATE[EASYANIMATE.index("## 5. Which file") : EASYANIMATE.index("## 6. ")]
    assert rows_of(section) == registry.FAMILIES["easyanimate"].adapter_files
    default = tuple(re.findall(r"^\| `([\w-]+)` \(default\)", section, re.M))
    assert default == registry.FAMILIES["easyanimate"].default_files


def test_keys_that_the_guide_of_easyanimate_shows_are_written():
    import torch

    section = EASYANIMATE[EASYANIMATE.index("## 5. Which file") : EASYANIMATE.index("## 6. ")]
    layouts = registry.lora_layouts(*registry.find("easyanimate", "v5.1-12b-inp"))
    module = "transformer.transformer_blocks.0.attn1.to_q"
    native = {f"{module}.lora_{side}.weight": torch.zeros(1, 1) for side in "AB"} | {f"{module}.alpha": torch.ones(())}
    for layout in layouts:
        row = next(line for line in section.splitlines() if line.startswith(f"| `{layout.name}`"))
        keys = layout.from_native(
            {key: value for key, value in native.items() if layout.strength == "key" or "lora_" in key}
        )
        shown, strength = re.findall(r"`([^`]+)`", row.split("|")[3])[0], row.split("|")[4]
        assert shown in keys
        assert {"key": ".alpha", "header": "header", "folded": "multiplied into"}[layout.strength] in strength


def test_words_of_the_command_line_exist():
    from typer.main import get_command

    from cinelora.cli.app import app

    known = {word for command in get_command(app).commands.values() for one in command.params for word in one.opts}
    ours = WAN[: WAN.index("## Coming from VideoX-Fun")].replace("--use_peft_lora", "").replace("--train_mode", "")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) <= known
    ours = EASYANIMATE[EASYANIMATE.index("## 4. Sampling") : EASYANIMATE.index("## 5. Which file")]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", ours)) <= known
    assert {"--image", "--end-image", "--video", "--video-strength"} <= set(re.findall(r"--[a-z-]+", ours))


def test_shares_of_masks_are_those_that_are_drawn():
    from cinelora.media.masks import PROBABILITIES

    table = EASYANIMATE[EASYANIMATE.index("| what is left to draw |") :].partition("\n\n")[0].splitlines()[2:]
    shares = [
        [int(one[0]) if (one := re.findall(r"\d+", cell)) else 0 for cell in row.split("|")[2:4]] for row in table
    ]
    videos, pictures = zip(*shares, strict=True)
    assert videos == tuple(round(100 * share) for share in PROBABILITIES["video"])
    assert pictures == (*(round(100 * share) for share in PROBABILITIES["image"]), *[0] * 8)


def test_samplers_that_the_guide_names_walk_the_versions_processes():
    from cinelora.noise.options import NoiseOptions
    from cinelora.noise.registry import open_process

    table = EASYANIMATE[EASYANIMATE.index("| version | default |") :].partition("\n\n")[0].splitlines()[2:]
    variants = registry.FAMILIES["easyanimate"].variants
    for row in table:
        versions, default, others = (re.findall(r"[\w.+-]+", cell) for cell in row.split("|")[1:4])
        for version in versions:
            variant = variants[f"tiny-{version}"]
            assert [variant.sampling["sampler"]] == default
            for sampler in default + others:
                open_process(NoiseOptions(**variant.process)).sampler(4, sampler)
                strength = 1.0 if sampler == "pndm" else 0.5
                open_process(NoiseOptions(**variant.process)).sampler(4, sampler, strength=strength)


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


OF_EASYANIMATE = EASYANIMATE[EASYANIMATE.index("## 8. Coming from EasyAnimate") :]
DEAD = """
    input_perturbation max_train_samples cache_dir random_flip use_ema push_to_hub hub_model_id hub_token
    prediction_type noise_offset image_repeat_in_forward not_sigma_loss
"""
"""Flags of EasyAnimate's scripts that no command has and the facts do not list one by one."""


def test_the_table_of_easyanimates_flags_names_the_bucket_rules_as_they_are():
    videox = next(line for line in OF_EASYANIMATE.splitlines() if "--image_sample_size" in line)
    names = set(re.findall(r"--(\w+)", videox))
    assert names == set(fields_at(Recipe, ("data", "videox"))) - {"auto_tile_batch_size"}
    assert "auto_tile_batch_size" in OF_EASYANIMATE
    flags = re.findall(r"--(\w+)", OF_EASYANIMATE)
    assert set(DEAD.split()) <= set(flags)
    rows = [
        set(re.findall(r"`--(\w+)`", line.split("|")[1])) for line in OF_EASYANIMATE.splitlines() if "| `--" in line
    ]
    assert sum(map(len, rows)) == len(set.union(*rows)), "a flag has two rows"


@pytest.mark.skipif(not EASYANIMATE_SEED.is_file(), reason="the flags that users start from are not here")
def test_every_flag_of_easyanimate_has_its_place():
    flags = set(re.findall(r"(?<![\w-])--([a-z_0-9]+)", EASYANIMATE_SEED.read_text())) - {"config_file"}
    facts = EASYANIMATE_FACTS.read_text() if EASYANIMATE_FACTS.is_file() else ""
    section = facts.partition("## 1. scripts/train_lora.py")[2].partition("Dead: ")[0]
    for name in re.findall(r"`([a-z_0-9/]+)`(?: \(|=)", section):
        flags |= {"adam_beta1", "adam_beta2"} if name == "adam_beta1/2" else {name}
    assert len(flags) > (80 if facts else 35)
    table = "\n".join(line.split("|")[1] for line in OF_EASYANIMATE.splitlines() if line.startswith("| `--"))
    assert sorted(flag for flag in flags if not re.search(rf"--{flag}\b", table)) == []


OF_DYNAMICRAFTER = DYNAMICRAFTER[DYNAMICRAFTER.index("## 9. Coming from") :]


def test_variants_and_presets_of_dynamicrafter_are_all_there_are():
    card = registry.FAMILIES["dynamicrafter"]
    for start, known in (("| variant |", card.variants), ("| `lora.targets` |", card.lora_presets)):
        rows = DYNAMICRAFTER[DYNAMICRAFTER.index(start) :].partition("\n\n")[0].splitlines()[2:]
        named = {name for row in rows for name in re.findall(r"`([\w+-]+)`", row.split("|")[1])}
        assert named | ({"+resampler"} if start != "| variant |" else set()) == set(known)
    assert f"`{card.default_preset}` (default)" in DYNAMICRAFTER
    scales = {name: variant.process.get("rescale_to", 1) for name, variant in card.variants.items()}
    assert (scales["512"], scales["1024"], scales["256"]) == (0.7, 0.3, 1)


def test_files_of_dynamicrafter_are_written_as_the_guide_shows():
    import torch

    section = DYNAMICRAFTER[DYNAMICRAFTER.index("## 5. Which file") : DYNAMICRAFTER.index("No program loads")]
    card = registry.FAMILIES["dynamicrafter"]
    assert rows_of(section) == card.adapter_files
    assert tuple(re.findall(r"^\| `([\w-]+)` \(default\)", section, re.M)) == card.default_files
    module = "unet.init_attn.0.transformer_blocks.0.attn1.to_q"
    for layout in registry.lora_layouts(*registry.find("dynamicrafter", "512")):
        row = next(line for line in section.splitlines() if line.startswith(f"| `{layout.name}`"))
        keys = layout.from_native({f"{module}.lora_{side}.weight": torch.zeros(1, 1) for side in "AB"})
        assert re.findall(r"`([^`]+)`", row.split("|")[3])[0] in keys
        assert (layout.strength, row.split("|")[4].strip()) == ("header", "in the header")


def test_samplers_that_walk_dynamicrafters_processes_are_as_the_guide_says():
    from cinelora.base.errors import RecipeError
    from cinelora.noise.options import NoiseOptions
    from cinelora.noise.registry import open_process

    told = DYNAMICRAFTER[DYNAMICRAFTER.index("The sampler is `ddim-eta`.") :].partition("##")[0]
    others = re.findall(r"`([\w+-]+)`", told.partition(" know")[0])[1:]
    assert len(others) == 6
    for name in ("512", "1024", "512-interp", "256"):
        variant = registry.FAMILIES["dynamicrafter"].variants[name]
        assert variant.sampling["sampler"] == "ddim-eta"
        open_process(NoiseOptions(**variant.process)).sampler(4, "ddim-eta")
        for sampler in others:
            if name == "256":
                open_process(NoiseOptions(**{**variant.process, "spacing": "trailing"})).sampler(4, sampler)
            else:
                with pytest.raises(RecipeError, match="rescaled"):
                    open_process(NoiseOptions(**variant.process)).sampler(4, sampler)


def test_words_of_the_command_line_that_the_guide_of_dynamicrafter_types_exist():
    from typer.main import get_command

    from cinelora.cli.app import app

    def options(command):
        own = {word for one in command.params for word in one.opts}
        return own.union(*(options(one) for one in getattr(command, "commands", {}).values()))

    known = options(get_command(app))
    lines = [line for code in re.findall(r"```sh\n(.*?)```", DYNAMICRAFTER, re.S) for line in code.splitlines()]
    here = [row.split("|")[2] for row in DYNAMICRAFTER[DYNAMICRAFTER.index("## 6.") :].splitlines() if "| `--" in row]
    here = [row for row in here if "torchrun" not in row]
    typed = {word for line in [*lines, *here] for word in re.findall(r"(?<![\w-])--[a-z][a-z_-]+", line)}
    assert len(typed) > 15
    assert typed <= known
    sets = re.findall(r"--set ([a-z_.]+)=", DYNAMICRAFTER)
    assert all(help_at(Recipe, tuple(name.split("."))) for name in sets if name != "a.b")


NO_KEYS = {"drop_last"}
"""Words among the keys of the YAML in the facts that are none."""


@pytest.mark.skipif(not DYNAMICRAFTER_SEED.is_file(), reason="the keys that users start from are not here")
def test_every_key_that_the_page_of_dynamicrafter_names_has_its_place():
    seed = DYNAMICRAFTER_SEED.read_text()
    keys = {key.rpartition(".")[2] for key in re.findall(r"`((?:lora|trainer|callbacks)\.[\w.]+)`", seed)}
    keys |= set(re.findall(r"^(\w+):", seed[seed.index("```\nvideo_length") :], re.M))
    flags = set(re.findall(r" --(\w+)=", seed))
    assert len(keys) > 9
    assert flags == {"model", "base_model", "lora", "alpha"}
    facts = DYNAMICRAFTER_FACTS.read_text() if DYNAMICRAFTER_FACTS.is_file() else ""
    yaml = facts.partition("### 1.3 ")[2].partition("`configs/training_512_lora_v1.0/config_interp.yaml`")[0]
    keys |= {key for key in re.findall(r"(?<=[,;{:] )([a-z]+(?:_[a-z]+)+)(?= )", yaml) if key not in NO_KEYS}
    table = "\n".join(line.split("|")[1] for line in OF_DYNAMICRAFTER.splitlines() if line.startswith("| `"))
    assert sorted(key for key in keys if f"`{key}`" not in table) == []
    assert sorted(flag for flag in flags if f"`--{flag}`" not in table) == []

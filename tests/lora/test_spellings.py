"""Files of other trainers, written here by their own rules, are read as the adapter that they are."""

import pytest
import torch
from made_adapters import SMALL, made, native_names, original_of, same_effect, spelt, split

from cinelora.base.errors import WeightsError
from cinelora.families import registry
from cinelora.lora.form import DOWN, MAGNITUDE, UP, AdapterFile
from cinelora.lora.reading import understood, warn
from cinelora.lora.spellings import ENDING, Places, foreign, other_kind

DOTTED = (".lora_A.weight", ".lora_B.weight")
NAMED = (".lora_A.default.weight", ".lora_B.default.weight")
KOHYA = (".lora_down.weight", ".lora_up.weight")
OLD = (".lora.down.weight", ".lora.up.weight")
TABLES = tuple(model for model in SMALL if not model.startswith("dynamicrafter"))


def read(tensors, model, header=None, **options):
    layouts = registry.lora_layouts(*split(model))
    return understood(tensors, header or {}, layouts, where="a file", **options)


TRAINERS = {
    "diffusion-pipe": {"ahead": "diffusion_model.", "ends": DOTTED, "alpha": False},
    "ai-toolkit": {"ahead": "diffusion_model.", "ends": DOTTED},
    "ai-toolkit, older": {"ahead": "transformer.", "ends": KOHYA},
    "DiffSynth": {"ahead": "", "ends": NAMED, "alpha": False},
    "DiffSynth with its pipeline": {"ahead": "pipe.dit.", "ends": NAMED, "alpha": False},
    "peft": {"ahead": "base_model.model.", "ends": DOTTED, "alpha": False},
    "musubi": {"ahead": "lora_unet_", "ends": KOHYA, "underscored": True},
    "VideoX-Fun": {"ahead": "lora_unet__", "ends": KOHYA, "underscored": True},
    "compiled": {"ahead": "transformer._orig_mod.", "ends": DOTTED},
    "OneTrainer": {"ahead": "lora_transformer_", "ends": KOHYA, "underscored": True},
    "SimpleTuner's LyCORIS": {"ahead": "lycoris_", "ends": KOHYA, "underscored": True},
    "SimpleTuner, older": {"ahead": "transformer.", "ends": OLD},
}
ORIGINALS = {"diffusion-pipe", "ai-toolkit", "DiffSynth", "DiffSynth with its pipeline", "musubi", "VideoX-Fun"}


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("model", TABLES)
def test_other_trainers_files_are_read_as_what_they_are(model, trainer):
    file, how = made(model, ranks=(2, 3), alphas=(1.0, 5.0)), dict(TRAINERS[trainer])
    (a, b), alpha = how.pop("ends"), how.get("alpha", True)
    names = original_of(model) if trainer in ORIGINALS else native_names(model)
    tensors = spelt(file, names, a=a, b=b, **how)
    reading = read(tensors, model)
    if not alpha:
        file = AdapterFile(file.tensors, {module: float(file.rank(module)) for module in file.modules()})
        assert set(reading.stated.values()) == {"nowhere"}
        assert reading.silent == reading.file.modules()
    else:
        assert set(reading.stated.values()) == {"key"}
        assert reading.layout.strength == "key" or reading.foreign
    same_effect(file, reading.file, tolerance=0)
    assert all(reading.file.spelling(module) in {key.rpartition(".lora")[0] for key in tensors} for module in names)


def test_original_names_behind_diffusers_prefix_are_not_taken_for_diffusers_own():
    file = made("wan/tiny", pattern=r".*attn1.*")
    tensors = spelt(file, original_of("wan/tiny"), ahead="transformer.", a=DOTTED[0], b=DOTTED[1], alpha=False)
    assert read(tensors, "wan/tiny").foreign
    assert set(read(tensors, "wan/tiny").file.modules()) == set(file.modules())


@pytest.mark.parametrize("model", SMALL)
def test_an_alpha_that_is_told_is_divided_by_the_rank_in_other_trainers_files(model):
    """Also for a family whose own trainer means the strength itself."""
    file = made(model, ranks=(4,), alphas=(8.0,), most=12)
    tensors = spelt(file, original_of(model), ahead="diffusion_model.", a=DOTTED[0], b=DOTTED[1], alpha=False)
    reading = read(tensors, model, alpha=8.0)
    same_effect(file, reading.file, tolerance=0)


def test_the_controlnet_is_told_from_the_unet_by_its_prefix():
    file = made("framer/tiny-tracks", pattern=r".*\.attn1\.to_q")
    assert {module.partition(".")[0] for module in file.modules()} == {"unet", "controlnet"}
    tensors = {}
    for module in file.modules():
        part, _, name = module.partition(".")
        for ending, end in ((DOWN, ".lora_down.weight"), (UP, ".lora_up.weight")):
            tensors[f"lora_{part}_{name.replace('.', '_')}{end}"] = file.tensors[module + ending]
    assert set(read(tensors, "framer/tiny-tracks").file.modules()) == set(file.modules())


@pytest.mark.parametrize("model", SMALL)
def test_tables_name_every_linear_module(model):
    family, variant = split(model)
    version = model.partition("-")[2]
    same = [one for one in family.variants.values() if one.name.startswith(f"{version}-" if version else "")]
    for one in (variant, *(same[:1] + same[-1:] if version else same)):
        if one.experts:
            continue
        layouts = registry.lora_layouts(family, one)
        names = [
            f"{part}.{name}"
            for part, module in registry.skeleton(family, one).items()
            for name, kind in module.named_modules()
            if type(kind) is torch.nn.Linear
        ]
        places = Places(layouts, names)
        assert not [name for name in names if not places.knows(name)], one.name
        if model in TABLES:
            assert [places.native(name) for name in names] == names


def test_doras_lengths_are_read_from_a_column_and_kept_apart_from_others():
    file = made("wan/tiny", pattern=r".*0\.attn1\.to_q", dora=True)
    module = file.modules()[0]
    tensors = spelt(file, native_names("wan/tiny"), ahead="lycoris_", a=KOHYA[0], b=KOHYA[1], underscored=True)
    lengths = file.tensors[module + MAGNITUDE]
    tensors["lycoris_blocks_0_attn1_to_q.dora_scale"] = lengths[:, None]
    reading = read(tensors, "wan/tiny")
    assert torch.equal(reading.file.tensors[module + MAGNITUDE], lengths)
    tensors["lycoris_blocks_0_attn1_to_q.dora_scale"] = torch.ones(1, 192)
    with pytest.raises(WeightsError, match="lengths"):
        read(tensors, "wan/tiny")


WHOLE = {"diffusion_model.blocks.0.self_attn.norm_q.diff": 1.0, "diffusion_model.blocks.1.ffn.0.diff_b": 1.0}


def test_changes_of_whole_weights_are_refused_by_name_unless_they_may_be_left_out(caplog):
    file = made("wan/tiny", pattern=r".*attn1\.to_q")
    tensors = spelt(file, original_of("wan/tiny"), ahead="diffusion_model.", a=KOHYA[0], b=KOHYA[1])
    for value, told in ((1.0, "what they do is lost"), (0.0, "all zero, so that nothing is lost")):
        odd = {key: torch.full((4,), value) for key in WHOLE}
        with pytest.raises(WeightsError, match=r"2 tensors change whole weights") as error:
            read({**tensors, **odd}, "wan/tiny")
        assert "blocks.*.self_attn.norm_q, diffusion_model.blocks.*.ffn.0" in str(error.value)
        assert told in str(error.value)
        assert "--allow-missing" in str(error.value)
    reading = read({**tensors, **odd}, "wan/tiny", allow_missing=True)
    assert reading.left_out == tuple(WHOLE)
    same_effect(file, reading.file, tolerance=0)
    warn(reading, "a file", None)
    assert "left out 2 tensors" in caplog.text


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lycoris_blocks_0_attn1_to_q.lokr_w1", "LoKr"),
        ("lora_unet_blocks_0_self_attn_q.hada_w1_a", "LoHa"),
        ("diffusion_model.blocks.0.self_attn.q.oft_blocks", "OFT"),
        ("transformer.blocks.0.attn1.to_q.vera_lambda_b", "VeRA"),
        ("lora_unet_blocks_0_conv.lora_mid.weight", "convolutions"),
        ("transformer.blocks.0.attn1.to_q.lora_B.bias", "biases"),
    ],
)
def test_other_kinds_of_adapters_are_refused_as_what_they_are(key, kind):
    file = made("wan/tiny", pattern=r".*1\.attn1\.to_q")
    with pytest.raises(WeightsError, match="only LoRA of linear modules is read") as error:
        read({**file.tensors, key: torch.ones(2, 2)}, "wan/tiny")
    assert kind in str(error.value)
    assert key in str(error.value)
    assert other_kind(list(file.tensors)) is None


def test_two_keys_of_one_matrix_are_refused():
    tensors = {
        f"{ahead}blocks.0.self_attn.q{ending}": torch.ones(2, 2)
        for ahead in ("diffusion_model.", "base_model.model.")
        for ending in DOTTED
    }
    with pytest.raises(WeightsError, match="two keys mean") as error:
        foreign(tensors, registry.lora_layouts(*split("wan/tiny")), "a file")
    assert "base_model.model.blocks.0.self_attn.q.lora_A.weight" in str(error.value)


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("a.b.lora_A.weight", "a.b"),
        ("a.b.lora_A.cat-1.weight", "a.b"),
        ("a.b_lora.down.weight", "a.b"),
        ("a.b.lora_linear_layer.up.weight", "a.b"),
        ("lora_unet_a_b.lora_down.weight", "lora_unet_a_b"),
        ("a.b.lora_A", "a.b"),
        ("a.b.alpha", "a.b"),
        ("a.b.lora_magnitude_vector.default.weight", "a.b"),
        ("a.b.dora_scale", "a.b"),
    ],
)
def test_keys_are_taken_apart(key, module):
    assert ENDING.fullmatch(key)["module"] == module


@pytest.mark.parametrize("key", ["a.b.weight", "a.lora_B.bias", "lora_unet_a", "alpha", "a.lora_embedding_A", ""])
def test_other_keys_are_none_of_an_adapters(key):
    assert ENDING.fullmatch(key) is None

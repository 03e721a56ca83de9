"""EasyAnimate's card: sizes against published numbers, modes, what a base may say, the lines of model cards."""

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import huggingface_hub
import pytest
import torch
from easyanimate_bases import write_base

from cinelora.base.errors import WeightsError
from cinelora.families import registry
from cinelora.families.easyanimate.card import CARD, TINY, TINY_INPAINT
from cinelora.families.easyanimate.denoise import check_base, open_denoiser, schedule, skeleton
from cinelora.families.easyanimate.encode import open_encoder, rules_of
from cinelora.families.easyanimate.layouts import LORA_LAYOUTS
from cinelora.families.easyanimate.usage import PEFT_LINES
from cinelora.lora.files import write_adapter
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions

WEIGHTS = {
    "v5.1-12b-inp": 11_799_265_856,
    "v5-12b-inp": 11_797_692_480,
    "v5.1-7b-inp": 6_814_670_912,
    "v5-7b-inp": 6_813_097_536,
    "v4-inp": 1_982_894_112,
    "v3-512-inp": 1_802_605_856,
}
"""As the Hub counts the weights of the published denoisers."""
ALL_TINY = [*TINY.values(), *TINY_INPAINT.values()]


def names(variant):
    return [tower.name for tower in open_encoder("random", variant, "fp32").towers()]


@pytest.mark.parametrize(("name", "count"), WEIGHTS.items())
def test_denoisers_have_as_many_weights_as_the_published_ones(name, count):
    assert sum(weight.numel() for weight in skeleton(CARD.variants[name])["transformer"].state_dict().values()) == count


def test_adapters_of_all_linears_are_as_large_as_the_originals():
    """677 modules and 915 million numbers at rank 128 for v5.1 12B; 254 million for v2, as its published file."""
    counts = {}
    for name in ("v5.1-12b", "v2-512"):
        part = skeleton(CARD.variants[name])["transformer"]
        linears = [module for module in part.modules() if isinstance(module, torch.nn.Linear)]
        counts[name] = len(linears), sum(128 * (one.in_features + one.out_features) for one in linears) / 1e6
    assert counts["v5.1-12b"] == (677, pytest.approx(915, abs=1))
    assert counts["v2-512"] == (635, pytest.approx(254, abs=1))


def test_variants_are_named_by_version_and_mode_and_stand_on_published_bases():
    published = {name: one for name, one in CARD.variants.items() if not name.startswith("tiny")}
    assert all(one.base.startswith("alibaba-pai/EasyAnimateV") for one in published.values())
    assert len({one.base for one in published.values()}) == len(published)
    for name, variant in CARD.variants.items():
        assert name.endswith("-inp") == ("inpaint" in variant.conditions), name
        assert ("InP" in variant.base) == (name.endswith("-inp") and not name.startswith("tiny")), name


def test_versions_have_their_towers():
    found = {variant.name: names(variant) for variant in ALL_TINY}
    assert found["tiny-v5.1"] == ["text", "vae"]
    assert found["tiny-v5"] == ["text", "vae", "text_t5"]
    assert found["tiny-v4"] == ["text", "vae", "text_t5"]
    assert found["tiny-v3"] == found["tiny-v2"] == ["text", "vae"]
    assert found["tiny-v5.1-inp"] == ["text", "vae", "inpaint"]
    assert found["tiny-v5-inp"] == ["text", "vae", "text_t5", "inpaint"]
    assert found["tiny-v4-inp"] == ["text", "vae", "text_t5", "inpaint", "clip"]
    assert found["tiny-v3-inp"] == ["text", "vae", "inpaint", "clip"]


def test_versions_tell_their_inpaint_networks_in_their_own_way():
    for version, variant in TINY_INPAINT.items():
        rules, channels = rules_of(variant), variant.network["transformer"]["in_channels"]
        assert rules.direct_mask == (version in ("v5.1", "v5"))
        # The class of v3 says no to enable_zero_in_inpaint; the later ones do not know it, which counts as yes.
        assert rules.zeros == (version != "v3")
        latents = variant.geometry.latent_channels
        assert channels == latents + rules.channels(latents)


def test_control_weights_are_read_and_take_zeros_for_the_control_video():
    for name, channels in (("v5.1-12b-control", 48), ("v5-12b-control", 32)):
        assert skeleton(CARD.variants[name])["transformer"].config.in_channels == channels
    tiny = TINY["v5.1"]
    for channels, mode in ((32, "control"), (48, "control with a reference")):
        network = {**tiny.network, "transformer": {**tiny.network["transformer"], "in_channels": channels}}
        denoiser = open_denoiser("random", replace(tiny, network=network), "fp32")
        assert denoiser.mode == mode
        x = torch.randn(1, 16, 2, 4, 4)
        assert denoiser.predict(x, torch.tensor([500.0]), {"text": torch.randn(1, 5, 32)}).shape == x.shape


@pytest.mark.parametrize("variant", ALL_TINY, ids=lambda variant: variant.name)
def test_written_bases_are_their_own_variants_and_no_others(variant, tmp_path):
    base = str(write_base(tmp_path / "base", variant))
    check_base(base, variant)
    denoiser = open_denoiser(base, variant, "fp32")
    drawn = open_denoiser("random", variant, "fp32")
    kept = drawn.net.state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in denoiser.net.state_dict().items())
    # v2 and v3 differ in what their motion modules look at, which no weight's name or shape says; v3 was published for
    # inpainting alone, so that the channels tell them apart.
    alike = {"tiny-v2", "tiny-v3"}
    for other in ALL_TINY:
        if other is not variant and {other.name, variant.name} != alike:
            with pytest.raises(WeightsError) as caught:
                check_base(base, other)
            assert str(caught.value)


def test_weights_of_the_other_mode_are_refused_with_the_mode_that_fits(tmp_path):
    """Issue 82 of the original: inpaint weights trained in normal mode, and the other way round."""
    for version, inpaint in TINY_INPAINT.items():
        plain, folder = TINY[version], tmp_path / version
        with pytest.raises(WeightsError, match=r"these are inpaint weights: set model\.variant to the inpaint variant"):
            check_base(str(write_base(folder / "inp", inpaint)), plain)
        with pytest.raises(WeightsError, match=r"these are normal weights"):
            check_base(str(write_base(folder / "plain", plain)), inpaint)


def test_the_originals_yaml_files_stand_over_what_configs_say_of_time(tmp_path):
    variant = TINY["v3"]
    base = write_base(tmp_path / "base", variant)
    file = base / "vae" / "config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({**told, "mini_batch_encoder": 9, "slice_compression_vae": False}))
    config = open_encoder(str(base), variant, "fp32").vae.config
    assert (config.way, config.mini_batch_encoder) == ("slice_compression_vae", 8)
    file.write_text(json.dumps({**told, "block_out_channels": [8, 8, 16, 32]}))
    with pytest.raises(WeightsError, match="block_out_channels"):
        _ = open_encoder(str(base), variant, "fp32").vae.config


def test_the_base_says_what_the_card_only_assumes(tmp_path):
    variant = TINY["v2"]
    base = write_base(tmp_path / "base", variant)
    file = base / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sample_size": 96}))
    assert open_denoiser(str(base), variant, "fp32").net.config.sample_size == 96
    assert skeleton(variant)["transformer"].config.sample_size == 64


def test_a_base_tells_its_schedule(tmp_path):
    for version, variant in TINY.items():
        base = write_base(tmp_path / version, variant)
        stated = schedule(str(base), variant)
        if version == "v5.1":
            assert stated == {"kind": "flow"}
            continue
        process = variant.process
        assert {name: stated[name] for name in ("betas", "beta_start", "beta_end")} == {
            name: process[name] for name in ("betas", "beta_start", "beta_end")
        }
        assert stated["prediction"] == ("eps" if version in ("v3", "v2") else "v")
        shutil.rmtree(base / "scheduler")
        assert schedule(str(base), variant) == {}
    assert schedule("random", TINY["v4"]) == {}


def test_the_lines_of_the_model_card_put_the_file_into_diffusers_network(tmp_path, monkeypatch):
    variant = TINY["v5.1"]
    trained = open_denoiser("random", variant, "fp32")
    options = LoraOptions(rank=4, alpha=2.0, rank_pattern={"proj_out": 2})
    adapters = inject(trained.parts(), options, presets=CARD.lora_presets, default_preset=CARD.default_preset)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in adapters.parameters().values():
            weight.copy_(torch.randn_like(weight))
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, adapters.file({}), LORA_LAYOUTS[0])
    net, asked = open_denoiser("random", variant, "fp32").net, []

    class Pipe:
        transformer = net

        def to(self, device):
            return self

        def __call__(self, **words):
            asked.append(words)
            return SimpleNamespace(frames=["clip"])

    monkeypatch.setattr(diffusers.EasyAnimatePipeline, "from_pretrained", lambda *place, **how: Pipe())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *place: str(path))
    monkeypatch.setattr(diffusers.utils, "export_to_video", lambda *clip, **how: None)
    numbers = dict(frames=9, height=64, width=64, fps=8, guidance=6.0, num_steps=4)
    exec(PEFT_LINES.format(base="b", repository="me/r", file="f", prompt='"p"', **numbers), {})
    assert asked[0]["prompt"] == "p"
    x, t, conditions = torch.randn(1, 16, 2, 4, 4), torch.tensor([500.0]), {"text": torch.randn(1, 5, 32)}
    again = open_denoiser("random", variant, "fp32")
    base = again.predict(x, t, conditions)
    again.net = net
    found, wanted = again.predict(x, t, conditions), trained.predict(x, t, conditions)
    assert (wanted - base).norm() > 0.01 * base.norm()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("version", ["v4", "v3", "v2"])
def test_adapters_on_attention_alone_are_read_as_their_own_versions(version):
    """The text's side of v5 and the second attention of v2 and v3 are spelt alike in the original's files."""
    variant = TINY[version]
    part = skeleton(variant)["transformer"]
    names = [name for name, one in part.named_modules() if isinstance(one, torch.nn.Linear)]
    chosen = [name for name in names if re.fullmatch(r"(transformer_)?blocks\.\d+\.attn[12]\.to_[qkv]", name)]
    native = {f"transformer.{name}.lora_A.weight": torch.ones(1) for name in chosen}
    layouts = registry.lora_layouts(CARD, variant)
    for layout in layouts:
        spelt = layout.from_native(native)
        assert next(one for one in layouts if one.reads(list(spelt))) is layout
        assert layout.to_native(spelt).keys() == native.keys()
    assert "lora_unet__transformer_blocks_0_attn2_to_q.lora_down.weight" in layouts[1].from_native(native) or (
        version == "v4"
    )


def test_a_config_that_is_not_built_is_named(tmp_path):
    base = write_base(tmp_path / "base", TINY["v3"])
    file = base / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "foo": 1, "after_norm": "yes"}))
    with pytest.raises(WeightsError) as caught:
        check_base(str(base), TINY["v3"])
    assert [problem.where for problem in caught.value.problems] == [str(file)] * 2
    assert "no setting foo" in str(caught.value)
    assert "after_norm" in str(caught.value)

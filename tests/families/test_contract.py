"""What every family must keep, whatever it is; a new one needs only an entry in BASES."""

import ast
import gc
import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.flow import Batch, Bucket, Clip, Record, Slot
from cinelora.contracts.roles import AdapterLayout, Denoiser, Encoder, Layout, Tower
from cinelora.families import registry
from cinelora.families.wan.places import EMBEDDED
from cinelora.lora.files import read_adapter, write_adapter
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import DORA_FILES, LoraOptions
from cinelora.lora.prove import prove, take_probe
from cinelora.lora.targets import linears, planned, sizes
from cinelora.nets.usage import with_folders
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.preview.pictures import check_pictures

BASES = {
    "fake": None,
    "wan": "tiny_base",
    "cogvideox": "cogvideox_base",
    "dynamicrafter": "dynamicrafter_base",
    "framer": "framer_base",
}
"""The fixture that writes a base for the family's variant "tiny", or None where it needs none."""
VERSIONS = {f"easyanimate/tiny-v{version}": "easyanimate_bases_of" for version in ("5.1", "5", "4", "3", "2")}
"""Of families whose versions are networks of their own: a fixture with a base for each of these variants."""
ONLY_FOR_GUIDANCE = {"grey"}
"""Conditions that stand ready to take the place of others; `predict` does not read them."""


@dataclass
class Subject:
    """A family under test."""

    family: Family
    variant: Variant
    base: str

    def encoder(self) -> Encoder:
        return registry.open_encoder(self.family, self.variant, base=self.base, dtype="fp32")

    def denoiser(self, dtype="fp32") -> Denoiser:
        denoiser = registry.open_denoiser(self.family, self.variant, base=self.base, dtype=dtype)
        denoiser.blank = {name: torch.zeros(shape) for name, shape in self.shapes().items()}
        denoiser.text_dropout = 0.1
        return denoiser

    @property
    def lora_layouts(self):
        return registry.lora_layouts(self.family, self.variant)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of stored conditions; K is 1 where nothing is drawn."""
        frames, height, width = self.latents[1:]
        letters = {"F": self.bucket.frames, "T": frames, "H": height, "W": width, "K": 1}
        told = {name: shape.split() for name, shape in self.variant.conditions.items()}
        return {name: tuple(letters.get(word) or int(word) for word in words) for name, words in told.items()}

    @property
    def blanks(self) -> dict[str, tuple[int, ...]]:
        """Of what the empty caption gives: all conditions, unless some are made of pixels."""
        spoken = {name for tower in self.encoder().towers() if tower.reads == "caption" for name in tower.gives}
        return {name: shape for name, shape in self.shapes().items() if name in spoken}

    def adapt(self, denoiser, **options):
        presets, default = self.family.lora_presets, self.family.default_preset
        return inject(denoiser.parts(), LoraOptions(rank=4, **options), presets=presets, default_preset=default)

    @property
    def latents(self) -> tuple[int, ...]:
        return self.variant.geometry.latent_shape(self.bucket)

    @property
    def bucket(self) -> Bucket:
        geometry = self.variant.geometry
        return Bucket(max(geometry.few_frames, geometry.floor_frames(3)), 32, 48)

    def clip(self, caption="a small red circle", seed=0) -> Clip:
        record = Record(f"clips/{seed}", "clips", "video", (Path("a.mp4"),), caption, "a.mp4")
        shape = (3, self.bucket.frames, self.bucket.height, self.bucket.width)
        pixels = torch.rand(shape, generator=torch_rng(seed)) * 2 - 1
        return Clip(Slot(record, self.bucket), pixels, caption, self.variant.geometry.fps)

    def inputs(self, count=2) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """What `predict` gets: of the conditions what `condition` makes of them."""
        batch = self.batch(count)
        conditions = self.denoiser().condition(batch, None)
        return batch.latents, torch.tensor([120.0, 800.0])[:count], conditions

    def batch(self, count=8) -> Batch:
        rng = torch_rng("inputs")
        conditions = {name: torch.randn(count, *shape, generator=rng) for name, shape in self.shapes().items()}
        for name in conditions:
            if name.endswith("_mask"):  # another length for each clip
                lengths = conditions[name].shape[1] // 2 + torch.arange(count)[:, None] % 3
                conditions[name] = (torch.arange(conditions[name].shape[1]) < lengths).float()
        x = torch.randn(count, *self.latents, generator=rng)
        return Batch(x, conditions, tuple(f"clip {k}" for k in range(count)))

    @property
    def reads(self) -> bool:
        """True where captions are read."""
        return "text" in self.variant.conditions


@pytest.fixture(scope="module", params=sorted((BASES | VERSIONS).keys()))
def subject(request) -> Subject:
    name, _, version = request.param.partition("/")
    family, fixture = registry.FAMILIES[name], (BASES | VERSIONS)[request.param]
    made = request.getfixturevalue(fixture) if fixture else "embedded"
    variant = family.variants[version or "tiny"]
    return Subject(family, variant, str(made[variant.name] if version else made))


def test_every_family_is_under_test():
    assert {name.partition("/")[0] for name in BASES | VERSIONS} == set(registry.FAMILIES)


def stir(adapters) -> None:
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in adapters.parameters().values():
            weight.add_(0.1 * torch.randn_like(weight))


def test_card_is_read_without_torch(subject):
    module = f"cinelora.families.{subject.family.name}.card"
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_card_names_things_that_exist(subject):
    family = subject.family
    for target in (family.open_encoder, family.open_denoiser, family.skeleton, *filter(None, [family.pipeline])):
        assert callable(registry.named(target))
    for variant in family.variants.values():
        layouts = registry.lora_layouts(family, variant)
        assert all(isinstance(one, AdapterLayout) for one in layouts)
        assert tuple(one.name for one in layouts) == family.adapter_files
        assert {one.name for one in layouts if one.dora} <= set(DORA_FILES)
        weights = registry.named(variant.weight_layouts or family.weight_layouts)
        assert all(isinstance(one, Layout) for one in weights)
    assert family.default_files
    assert set(family.default_files) <= set(family.adapter_files)
    assert {variant.name for variant in family.variants.values()} == set(family.variants)
    json.dumps({name: [dict(v.process), dict(v.sampling)] for name, v in family.variants.items()})


def test_every_variant_has_sound_defaults(subject):
    for variant in subject.family.variants.values():
        process = open_process(NoiseOptions(**variant.process))
        process.sampler(variant.sampling["num_steps"], variant.sampling.get("sampler", "euler"))
        geometry = variant.geometry
        assert geometry.fits_frames(geometry.frames)
        assert geometry.height % geometry.size_multiple == geometry.width % geometry.size_multiple == 0
        assert geometry.size_multiple % geometry.latent_cell == 0


def test_the_lines_of_a_model_card_are_python_and_begin_with_the_picture_that_the_variant_needs(subject):
    places = dict(base="b", repository="me/r", file="f", second_file="g", prompt='"p"', guidance=1.0, num_steps=4)
    places |= dict(frames=9, height=64, width=64, fps="8")
    for variant in subject.family.variants.values():
        usage = variant.usage or subject.family.usage
        if not usage:
            continue
        for folders in ((), ("unet_lora",), ("unet", "controlnet"), ("controlnet_lora", "unet_lora")):
            code = with_folders(usage, folders).format(**places)
            ast.parse(code)
        encoder = registry.open_encoder(subject.family, variant, base=subject.base, dtype="fp32")
        try:
            check_pictures(encoder, 0)
        except RecipeError:
            assert "image=load_image(" in code or 'images=("start.png",)' in code, variant.name
            assert "import export_to_video, load_image" in code or "from diffusers" not in code, variant.name
        else:
            assert "image" not in code, variant.name
    assert subject.family.usage or subject.family.name == "fake"


def test_every_variant_has_its_parts_and_every_preset_matches(subject):
    for variant in subject.family.variants.values():
        parts = registry.skeleton(subject.family, variant)
        assert tuple(parts) == variant.parts
        assert all(weight.is_meta for part in parts.values() for weight in part.parameters())
        for preset in subject.family.lora_presets:
            options, presets = LoraOptions(targets=preset), subject.family.lora_presets
            plan = planned(parts, options, presets)
            assert any(plan.values())
            assert all(sizes(name, parts[name], options, presets) == chosen for name, chosen in plan.items())


def test_roles_are_played(subject):
    encoder = subject.encoder()
    assert isinstance(encoder, Encoder)
    assert all(isinstance(tower, Tower) for tower in encoder.towers())
    assert isinstance(subject.denoiser(), Denoiser)
    assert tuple(subject.denoiser().parts()) == subject.variant.parts


def test_towers_give_the_moments_and_the_declared_conditions(subject):
    given = [name for tower in subject.encoder().towers() for name in tower.gives]
    assert sorted(given) == sorted(["mean", "logvar", *subject.variant.conditions])
    assert {tower.reads for tower in subject.encoder().towers()} <= {"pixels", "caption", "both"}


def test_encoding_has_the_declared_shapes(subject):
    encoded = subject.encoder().encode([subject.clip(), subject.clip("", seed=1)])
    for one in encoded:
        assert one.mean.shape == one.logvar.shape == subject.latents
        assert {name: tuple(tensor.shape) for name, tensor in one.conditions.items()} == subject.shapes()
        tensors = (one.mean, one.logvar, *one.conditions.values())
        assert all(t.isfinite().all() and t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


def test_image_is_one_latent_frame(subject):
    slot = replace(subject.clip().slot, bucket=Bucket(1, 32, 48))
    image = replace(subject.clip(), slot=slot, pixels=subject.clip().pixels[:, :1])
    assert subject.encoder().encode([image])[0].mean.shape == subject.variant.geometry.latent_shape(slot.bucket)


def test_clips_are_encoded_each_for_itself(subject):
    encoder, clips = subject.encoder(), [subject.clip(), subject.clip("another", seed=1)]
    together, alone = encoder.encode(clips), [encoder.encode([clip])[0] for clip in clips]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.logvar, other.logvar, rtol=1e-5, atol=1e-5)
        for name in one.conditions:
            torch.testing.assert_close(one.conditions[name], other.conditions[name], rtol=1e-4, atol=1e-4)
    assert not torch.equal(together[0].mean, together[1].mean)
    for name in ("text",) if subject.reads else ("embeds", "ends"):
        assert not torch.equal(together[0].conditions[name], together[1].conditions[name])


def test_decoding_gives_pixels_of_the_clips_shape(subject):
    encoder, clips = subject.encoder(), [subject.clip(), subject.clip(seed=1)]
    pixels = encoder.decode(torch.stack([one.mean for one in encoder.encode(clips)]))
    assert pixels.shape == torch.stack([clip.pixels for clip in clips]).shape
    assert pixels.abs().max() <= 1


def test_blank_is_the_empty_caption(subject):
    blank = subject.encoder().blank()
    if not subject.reads:
        x, t, conditions = subject.inputs()
        assert blank.keys() < conditions.keys()
        nothing = {name: torch.stack([value] * len(x)) for name, value in blank.items()}
        assert subject.denoiser().predict(x, t, {**conditions, **nothing}).isfinite().all()
        return
    assert {name: tuple(tensor.shape) for name, tensor in blank.items()} == subject.blanks
    encoded = subject.encoder().encode([subject.clip("")])[0]
    assert all(torch.equal(blank[name], encoded.conditions[name]) for name in blank)


def test_fingerprints_hold_still(subject):
    first, second = ([tower.fingerprint() for tower in subject.encoder().towers()] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first)


@pytest.mark.parametrize(
    "subject", sorted(name for name, fixture in (BASES | VERSIONS).items() if fixture), indirect=True
)
def test_fingerprints_follow_the_weights_and_not_the_folder(subject, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(subject.base, copy)
    other = replace(subject, base=str(copy))
    before = {tower.name: tower.fingerprint() for tower in subject.encoder().towers()}
    assert {tower.name: tower.fingerprint() for tower in other.encoder().towers()} == before
    for file in copy.rglob("*.safetensors"):
        tensors = load_file(file)
        middle = sorted(tensors)[len(tensors) // 2]
        save_file({**tensors, middle: tensors[middle] + 1}, file, {"format": "pt"})
    after = {tower.name: tower.fingerprint() for tower in other.encoder().towers()}
    assert all(after[name] != before[name] for name in before)


def test_unloading_frees_the_network(subject):
    for tower in subject.encoder().towers():
        if not hasattr(tower, "net"):
            continue
        assert tower.net is None
        tower.load("cpu")
        held: Any = weakref.ref(tower.net)
        tower.load("cpu")
        assert tower.net is held()
        tower.unload()
        tower.unload()
        gc.collect()
        assert held() is None


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_prediction_has_the_shape_and_format_of_x(subject, dtype):
    x, t, conditions = subject.inputs()
    out = subject.denoiser(dtype).predict(x, t, conditions)
    doubled = (x.shape[0], 2 * x.shape[1], *x.shape[2:])  # a network that says how sure it is
    assert out.shape in (x.shape, doubled)
    assert out.dtype == x.dtype
    assert out.isfinite().all()


def test_prediction_depends_on_everything_and_clips_do_not_mix(subject):
    denoiser, (x, t, conditions) = subject.denoiser(), subject.inputs()
    out = denoiser.predict(x, t, conditions)
    assert not torch.allclose(out, denoiser.predict(x, t.flip(0), conditions))
    for name in conditions.keys() - ONLY_FOR_GUIDANCE:
        assert not torch.equal(out, denoiser.predict(x, t, {**conditions, name: conditions[name].flip(0)})), name
    alone = denoiser.predict(x[:1], t[:1], {name: tensor[:1] for name, tensor in conditions.items()})
    torch.testing.assert_close(alone, out[:1], rtol=1e-4, atol=1e-5)


def test_conditions_come_from_the_generator_and_leave_the_batch_alone(subject):
    denoiser, batch = subject.denoiser(), subject.batch()
    kept = {name: tensor.clone() for name, tensor in batch.conditions.items()}
    drawn = [denoiser.condition(batch, torch_rng("step", k)) for k in (1, 1, *range(2, 40))]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    varies = "text" if subject.reads else "ends"
    assert any(not torch.equal(drawn[0][varies], other[varies]) for other in drawn)
    if subject.reads:
        assert torch.equal(denoiser.condition(batch, None)["text"], batch.conditions["text"])
    assert all(torch.equal(batch.conditions[name], kept[name]) for name in kept)
    assert all(one.keys() == drawn[0].keys() and one[varies].shape == drawn[0][varies].shape for one in drawn)


def test_adapters_start_as_nothing_and_gradients_reach_all_of_them(subject):
    denoiser, (x, t, conditions) = subject.denoiser("bf16"), subject.inputs()
    base = subject.denoiser("bf16").predict(x, t, conditions)
    adapters = subject.adapt(denoiser)
    assert torch.equal(denoiser.predict(x, t, conditions), base)
    stir(adapters)
    denoiser.predict(x, t, conditions).square().mean().backward()
    silent = [name for name, weight in adapters.parameters().items() if weight.grad is None or not weight.grad.any()]
    assert silent == []
    assert {weight.grad.dtype for weight in adapters.parameters().values()} == {torch.float32}
    learning = {name for part in denoiser.parts().values() for name, w in part.named_parameters() if w.grad is not None}
    assert len(learning) == len(adapters.parameters())


def test_gradient_checkpointing_changes_no_gradient(subject):
    gradients = []
    for checkpointing in (False, True):
        denoiser, (x, t, conditions) = subject.denoiser(), subject.inputs()
        adapters = subject.adapt(denoiser)
        stir(adapters)
        for part in denoiser.parts().values():
            part.train()
            if checkpointing:
                part.enable_gradient_checkpointing()
        denoiser.predict(x, t, conditions).square().mean().backward()
        gradients.append([weight.grad for weight in adapters.parameters().values()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_adapter_files_in_every_layout(subject, tmp_path):
    denoiser, (x, t, conditions) = subject.denoiser(), subject.inputs()
    adapters = subject.adapt(denoiser, alpha=3.0)
    stir(adapters)
    probe, layouts = take_probe(denoiser, x, t, conditions), subject.lora_layouts
    pipeline = registry.named(subject.family.pipeline) if subject.family.pipeline else None
    for layout in layouts:
        path = tmp_path / f"{layout.name}.safetensors"
        write_adapter(path, adapters.file({"steps": "5"}), layout)
        proof = prove(path, layout, probe, reopen=subject.denoiser, pipeline=pipeline)
        assert proof.effect > 0
        assert proof.difference < 1e-3 * proof.effect
        file = read_adapter(path, layouts)
        assert file.metadata["steps"] == "5"
        fresh = subject.denoiser()
        attach(fresh.parts(), file)
        torch.testing.assert_close(fresh.predict(x, t, conditions), probe.expected, rtol=1e-3, atol=1e-4)


def test_adapter_layouts_are_inverse_and_know_their_own(subject):
    layouts = subject.lora_layouts
    native = subject.adapt(subject.denoiser(), targets=list(subject.family.lora_presets)[-1]).tensors()
    spellings = {layout.name: layout.from_native(native) for layout in layouts}
    assert len({tuple(sorted(keys)) for keys in spellings.values()}) == len(layouts)
    for layout in layouts:
        keys = spellings[layout.name]
        assert next(one for one in layouts if one.reads(list(keys))) is layout
        back = layout.to_native(keys)
        assert back.keys() == native.keys()
        assert all(back[name] is native[name] for name in native)


def test_weight_layouts_are_inverse_and_know_their_own(subject):
    layouts = registry.named(subject.variant.weight_layouts or subject.family.weight_layouts)
    native = next(iter(subject.denoiser().parts().values())).state_dict()
    for layout in layouts:
        keys = layout.from_native(native)
        assert next(one for one in layouts if one.reads(list(keys))) is layout
        assert layout.to_native(keys).keys() == native.keys()


def test_targets_are_linear_modules_of_the_parts(subject):
    adapters = subject.adapt(subject.denoiser())
    known = {f"{name}.{module}" for name, part in subject.denoiser().parts().items() for module in linears(part)}
    assert adapters.facts()["modules"].keys() <= known


@pytest.mark.skipif(not (EMBEDDED / "transformer").is_dir(), reason="the embedded base is not there yet")
def test_embedded_base_is_what_the_card_says():
    family = registry.FAMILIES["wan"]
    embedded = Subject(family, family.variants["tiny"], "embedded")
    encoded = embedded.encoder().encode([embedded.clip()])[0]
    assert encoded.mean.shape == embedded.latents
    assert {name: tuple(tensor.shape) for name, tensor in encoded.conditions.items()} == embedded.shapes()
    x, t, _ = embedded.inputs(1)
    out = embedded.denoiser().predict(x, t, {"text": encoded.conditions["text"][None]})
    assert out.isfinite().all()

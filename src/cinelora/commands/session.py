"""Owns a denoiser that is ready to learn: adapters in it, its process and method, previews and files of it.

In: a Loaded recipe, where to compute, what nothing said looks like. Out: `Session`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import cinelora
from cinelora.base.errors import Problem, RecipeError
from cinelora.base.files import write_text
from cinelora.base.log import console
from cinelora.commands.clips import cache_of, words_of
from cinelora.commands.early import pictures_of
from cinelora.commands.run_folder import RunFolder
from cinelora.config.load import Loaded
from cinelora.config.write import resolved
from cinelora.contracts.flow import Batch, Bucket
from cinelora.contracts.roles import AdapterLayout, Denoiser, Encoder, Process
from cinelora.data.encoding import Encoding
from cinelora.families import registry
from cinelora.lora.adapters import Adapters
from cinelora.lora.files import cannot_carry, write_adapter, write_tensors
from cinelora.lora.inject import inject
from cinelora.lora.prove import Probe, prove, take_probe
from cinelora.methods.options import adapters_of
from cinelora.noise.registry import open_process
from cinelora.preview.options import preview_bucket
from cinelora.preview.sample import decode, picture_conditions, prompt_conditions, walk, walk_of
from cinelora.report.versions import versions
from cinelora.train.place import Place, settle


@dataclass(frozen=True)
class Spoken:
    """Prompts as conditions, made before the denoiser is loaded.

    `negative` is what the guidance of previews leads away from, `against` what that of the method does.
    """

    prompts: Sequence[str]
    conditions: Sequence[Mapping[str, Tensor]]
    blank: Mapping[str, Tensor]
    negative: Mapping[str, Tensor]
    against: Mapping[str, Tensor]


def speak(loaded: Loaded, encoding: Encoding) -> Spoken:
    """The recipe's prompts, the negative prompts and the empty caption as conditions; no tower stays in memory.

    With a cache they come from it, so that a second start does not load a text encoder.
    """
    options, encoder = loaded.recipe.preview, encoding.encoder
    words = words_of(loaded)
    if loaded.recipe.data.cache == "on":
        *conditions, negative, against, blank = cache_of(loaded).captions(words, encoding)
    else:
        *conditions, negative, against, blank = prompt_conditions(encoder, words, device=encoding.device)
    seen = see(loaded, encoder, device=encoding.device)
    conditions = [{**said, **shown} for said, shown in zip(conditions, seen, strict=True)]
    unload(encoder)
    return Spoken(list(options.prompts), conditions, blank, negative, against)


def see(loaded: Loaded, encoder: Encoder, *, device: str) -> list[dict[str, Tensor]]:
    """What the recipe's pictures become, one table for each prompt; empty ones where the variant takes none."""
    options = loaded.recipe.preview
    if not options.images or not options.prompts:
        return [{} for _ in options.prompts]
    pictures = pictures_of(loaded)
    bucket = preview_bucket(options, loaded.variant.geometry)
    seen = picture_conditions(encoder, pictures, bucket, device=device)
    return seen * len(options.prompts) if len(seen) == 1 else seen


def unload(encoder: Encoder) -> None:
    """Give back the memory of every tower."""
    for tower in encoder.towers():
        tower.unload()


def open_denoiser(loaded: Loaded, place: Place, blank: Mapping[str, Tensor]) -> Denoiser:
    """The base on its device. Raises WeightsError with all keys that are missing or too many."""
    recipe = loaded.recipe
    denoiser = registry.open_denoiser(loaded.family, loaded.variant, base=loaded.base, dtype=recipe.model.dtype)
    denoiser.text_dropout, denoiser.blank = recipe.model.text_dropout, blank
    set_image_dropout(loaded, denoiser)
    settle(denoiser.parts(), place, gradient_checkpointing=recipe.train.gradient_checkpointing)
    return denoiser


def set_image_dropout(loaded: Loaded, denoiser: Denoiser) -> None:
    """Take over model.image_dropout. Raises RecipeError where the variant takes no pictures."""
    share = loaded.recipe.model.image_dropout
    if share is None:
        return
    if not hasattr(denoiser, "image_dropout"):
        where = loaded.source.where(("model", "image_dropout"))
        what, do = "this family takes no pictures to start from", "remove model.image_dropout"
        raise RecipeError(Problem(what, found=f"image_dropout = {share:g}", where=where, do=do))
    denoiser.image_dropout = share


@dataclass
class Session:
    """A denoiser in training; `denoiser` and `players` are given back (`release`) before files are proven.

    `players` are the adapters of all that the method trains; the first one is drawn with, saved and proven.
    """

    loaded: Loaded
    place: Place
    folder: RunFolder
    encoder: Encoder
    spoken: Spoken
    denoiser: Denoiser
    players: Mapping[str, Adapters]

    @classmethod
    def open(cls, loaded: Loaded, place: Place, folder: RunFolder, *, encoder: Encoder, spoken: Spoken) -> "Session":
        """Read the base and put fresh adapters into it. Raises WeightsError, RecipeError."""
        denoiser = open_denoiser(loaded, place, spoken.blank)
        names = adapters_of(loaded.recipe.method)
        players = {name: _inject(loaded, denoiser, "default" if name == names[0] else name) for name in names}
        for name, adapters in players.items():
            label = "adapters" if len(names) == 1 else f"adapters of the {name}"
            console.print(f"{label}: {adapters.num_parameters():,} parameters in {len(adapters.layers)} modules")
        return cls(loaded, place, folder, encoder, spoken, denoiser, players)

    @property
    def adapters(self) -> Adapters:
        """Those that are drawn with, saved and proven."""
        return next(iter(self.players.values()))

    @cached_property
    def process(self) -> Process:
        """The one object that knows time, for training and previews."""
        return open_process(self.loaded.recipe.noise, rank=self.place.rank, world=self.place.world)

    def draw(self, conditions: Sequence[Mapping[str, Tensor]], seeds: Sequence[int]) -> "torch.Tensor":
        """Sample latents B C T H W of conditions from the noise of seeds, as [preview] says."""
        self.adapters.activate()  # another player may have learned last
        how = walk_of(self.loaded.recipe.preview, self.loaded.variant.geometry, precision=self.place.precision)
        return walk(self.denoiser, self.process, conditions, blank=self.spoken.negative, seeds=seeds, how=how)

    def preview(self, label: str) -> list[str]:
        """Draw every prompt and write samples/LABEL/NN.mp4; gives back the files, none without prompts."""
        options = self.loaded.recipe.preview
        if not self.spoken.prompts:
            return []
        shots = [(k, options.seed + n) for k in range(len(self.spoken.prompts)) for n in range(options.num_seeds)]
        latents = self.draw([self.spoken.conditions[k] for k, _ in shots], [seed for _, seed in shots])
        videos = decode(self.encoder, latents, device=str(self.place.device))
        unload(self.encoder)
        named = [{"prompt": self.spoken.prompts[k], "seed": seed} for k, seed in shots]
        write_text(self.folder.samples / "prompts.json", json.dumps(named, indent=1))
        return self.folder.save_videos(label, videos, self.loaded.variant.geometry.fps)

    def probe(self) -> Probe:
        """A small fixed input and what the denoiser says to it now."""
        self.adapters.activate()
        geometry = self.loaded.variant.geometry
        side = 2 * geometry.size_multiple
        bucket = Bucket(geometry.floor_frames(geometry.frames_per_latent + geometry.frames_offset), side, side)
        x = torch.randn((1, *geometry.latent_shape(bucket)), generator=torch.Generator().manual_seed(0))
        first = self.spoken.conditions[0] if self.spoken.conditions else self.spoken.blank
        device = self.place.device
        # What is made of pictures has a preview's size, so the probe goes without.
        said = {name: first[name][None].to(device) for name in self.spoken.blank}
        batch = Batch(x.to(device), said, ("probe",))
        conditions, x = self.denoiser.condition(batch, None), self.denoiser.arranged(batch.latents)
        with self.place.autocast():
            return take_probe(self.denoiser, x, torch.tensor([500.0], device=device), conditions)

    def metadata(self, steps: int) -> dict[str, str]:
        """What an adapter file says of itself."""
        recipe, family = self.loaded.recipe, self.loaded.family
        return {
            "family": family.name,
            "variant": self.loaded.variant.name,
            "base": self.loaded.base_anywhere,
            "rank": str(recipe.lora.rank),
            "alpha": str(recipe.lora.alpha or recipe.lora.rank),
            "targets": recipe.lora.targets or family.default_preset,
            "steps": str(steps),
            "recipe": resolved(recipe),
            "versions": json.dumps(versions()),
            "made_by": f"cinelora {cinelora.__version__}",
        }

    def write_files(self, name: str, steps: int) -> None:
        """Write adapter/NAME.LAYOUT.safetensors as diffusers and ComfyUI read it, and parts that learned in full."""
        metadata = self.metadata(steps)
        if self.adapters.layers:
            file = self.adapters.file(metadata)
            for layout in consumed_layouts(self.loaded):
                if reason := cannot_carry(file, layout):
                    console.print(f"no {layout.name} file: {reason}")
                else:
                    write_adapter(self.folder.adapter / f"{name}.{layout.name}.safetensors", file, layout)
        for part in self.adapters.full:
            tensors = {
                k.removeprefix(f"{part}."): v
                for k, v in self.adapters.full_tensors().items()
                if k.startswith(f"{part}.")
            }
            path = self.folder.path / "weights" / f"{name}.{part}.safetensors"
            write_tensors(path, tensors, metadata)

    def release(self) -> None:
        """Let go of the denoiser, so that a fresh one fits into memory."""
        del self.denoiser, self.players


def _inject(loaded: Loaded, denoiser: Denoiser, adapter_name: str) -> Adapters:
    return inject(
        denoiser.parts(),
        loaded.recipe.lora,
        presets=loaded.family.lora_presets,
        default_preset=loaded.family.default_preset,
        seed=loaded.recipe.train.seed,
        adapter_name=adapter_name,
    )


def consumed_layouts(loaded: Loaded) -> list[AdapterLayout]:
    """The spellings that a run writes: diffusers' and ComfyUI's."""
    return [layout for layout in registry.lora_layouts(loaded.family) if layout.name in ("diffusers", "comfyui")]


def prove_files(
    loaded: Loaded, place: Place, folder: RunFolder, *, spoken: Spoken, probes: Mapping[str, Probe]
) -> None:
    """Load every written file onto a fresh base and compare it with its probe. Raises RunError where one is off."""
    pipeline = registry.named(loaded.family.pipeline) if loaded.family.pipeline else None
    for name, probe in probes.items():
        for layout in consumed_layouts(loaded):
            path = folder.adapter / f"{name}.{layout.name}.safetensors"
            if not path.exists():
                continue
            with place.autocast():
                proof = prove(
                    path, layout, probe, reopen=lambda: open_denoiser(loaded, place, spoken.blank), pipeline=pipeline
                )
            share = proof.difference / proof.effect if proof.effect else 0.0
            console.print(f"proven: {path} loads and gives what was trained (off by {share:.1e} of its effect)")

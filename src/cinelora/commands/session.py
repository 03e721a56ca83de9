"""Owns a denoiser that is ready to learn: adapters in it, its process, previews of it.

In: a Loaded recipe, where to compute, what nothing said looks like. Out: `Session`.
"""

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.base.files import write_text
from cinelora.base.log import console
from cinelora.commands.clips import cache_of, set_if_said, words_of
from cinelora.commands.early import starts_of
from cinelora.commands.memory import fitted_out, prepared
from cinelora.commands.plan_memory import Encoders
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.tiling import decoding_needs_tiles, tiled
from cinelora.config.load import Loaded
from cinelora.contracts.card import Expert
from cinelora.contracts.roles import Denoiser, Encoder, Process
from cinelora.data.encoding import Encoding
from cinelora.engine.fit_out import Fitted
from cinelora.engine.sharded import shard, spread_of
from cinelora.families import registry
from cinelora.lora.adapters import Adapters
from cinelora.lora.inject import inject
from cinelora.methods.options import adapters_of, drawn_of
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.preview.options import PreviewOptions, preview_bucket
from cinelora.preview.pictures import film_latents, picture_conditions, shared, unshown_conditions
from cinelora.preview.sample import decode, prompt_conditions, walk, walk_of
from cinelora.train.place import Place


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
    if not loaded.variant.reads_text:
        negative = encoder.blank()  # guidance leads away from what is not shown
    seen = see(loaded, encoder, device=encoding.device)
    conditions = [{**said, **shown} for said, shown in zip(conditions, seen, strict=True)]
    unload(encoder)
    return Spoken(list(options.prompts), conditions, blank, negative, against)


def see(loaded: Loaded, encoder: Encoder, *, device: str) -> list[dict[str, Tensor]]:
    """What the recipe's pictures and videos become, one table for each prompt; empty ones where there are none."""
    options, geometry = loaded.recipe.preview, loaded.variant.geometry
    found: list[dict[str, Tensor]] = [{} for _ in options.prompts]
    pictures, ends, videos = (starts_of(loaded, name) for name in ("images", "end_images", "videos"))
    bucket = preview_bucket(options, geometry)
    ends = pictures if options.loop else ends
    seen: list[dict[str, Tensor]] = []
    if found and pictures:
        seen = picture_conditions(encoder, pictures, bucket, ends=ends, device=device)
    elif found:
        seen = [unshown_conditions(encoder, bucket, device=device)]
    filmed = film_latents(encoder, videos, bucket, geometry.fps, device=device) if found and videos else []
    for tables in filter(None, (seen, filmed)):
        for mine, (_, table) in zip(found, shared(found, tables), strict=True):
            mine |= table
    if options.pace is not None:  # only of variants that are told of it (`config.told`)
        for table in found:
            table["fps"] = torch.full_like(table["fps"], options.pace)
    return found


def unload(encoder: Encoder) -> None:
    """Give back the memory of every tower."""
    for tower in encoder.towers():
        tower.unload()


def open_denoiser(loaded: Loaded, place: Place, blank: Mapping[str, Tensor], *, whole: bool = True) -> Denoiser:
    """The base in its number format, on its device where it is to be there as a `whole`.

    Raises WeightsError with all keys that are missing or too many.
    """
    recipe = loaded.recipe
    denoiser = registry.open_denoiser(
        loaded.family,
        loaded.variant,
        base=loaded.base,
        dtype=recipe.model.dtype,
        one_in_memory=recipe.model.experts_in_memory == "one",
    )
    denoiser.text_dropout, denoiser.blank = recipe.model.text_dropout, blank
    set_image_dropout(loaded, denoiser)
    set_if_said(loaded, [denoiser], "image_noise", recipe.model.image_noise, option="image_noise")
    if hasattr(denoiser, "compat"):  # of Framer, whose script gives other conditions too
        denoiser.compat = recipe.noise.compat
    if hasattr(denoiser, "motion_bucket"):
        denoiser.motion_bucket = recipe.model.motion_bucket
    # One that moves by itself does; what is to stream or to be spread goes to its device piece by piece.
    prepared(loaded, denoiser.parts(), place, move=whole and not getattr(denoiser, "moves_itself", False))
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
    """A denoiser in training; it, `players` and `fitted` are given back (`release`) before files are proven.

    `players` are the adapters of all that the method trains; those of `drawn` are drawn with, saved and proven.
    """

    loaded: Loaded
    place: Place
    folder: RunFolder
    encoder: Encoder
    spoken: Spoken
    denoiser: Denoiser
    players: Mapping[str, Adapters]
    fitted: Fitted = field(default_factory=Fitted)

    @classmethod
    def open(cls, loaded: Loaded, place: Place, folder: RunFolder, *, encoder: Encoder, spoken: Spoken) -> "Session":
        """Read the base and put fresh adapters into it. Raises WeightsError, RecipeError."""
        whole = not place.sharded and loaded.recipe.memory.base == "resident"
        denoiser = open_denoiser(loaded, place, spoken.blank, whole=whole)
        players = _players(loaded, denoiser)
        for name, adapters in players.items():
            for weight in adapters.parameters().values():
                weight.data = weight.data.to(place.device)  # also where the base is fetched only when it is asked
            label = "adapters" if len(players) == 1 else f"adapters of the {name}"
            console.print(f"{label}: {adapters.num_parameters():,} parameters in {len(adapters.layers)} modules")
        fitted = fitted_out(loaded, denoiser.parts(), players.values(), place)
        spread(denoiser.parts(), players, place)
        return cls(loaded, place, folder, encoder, spoken, denoiser, players, fitted)

    @property
    def drawn(self) -> dict[str, Adapters]:
        """The adapters that are drawn with, saved and proven, by player."""
        names = drawn_of(self.loaded.recipe.method, tuple(learning_experts(self.loaded)))
        return {name: self.players[name] for name in names}

    @property
    def adapters(self) -> Adapters:
        """The first of `drawn`, which is all of them but for experts."""
        return next(iter(self.drawn.values()))

    def activate(self) -> None:
        """Let those work that are drawn with: another player may have learned last."""
        for adapters in self.drawn.values():
            adapters.activate()

    @cached_property
    def process(self) -> Process:
        """The one object that knows time, for training and previews."""
        return self._process(self.loaded.recipe.noise)

    def levels(self) -> dict[str, Process]:
        """The process of each expert that learns by itself, over its own noise levels within those of [noise]."""
        noise = self.loaded.recipe.noise
        return {
            name: self._process(noise.model_copy(update=one.within(noise.t_min, noise.t_max)))
            for name, one in learning_experts(self.loaded).items()
            if name in self.players
        }

    def _process(self, noise: NoiseOptions) -> Process:
        return open_process(noise, rank=self.place.rank, world=self.place.world)

    def draw(
        self,
        conditions: Sequence[Mapping[str, Tensor]],
        seeds: Sequence[int],
        options: PreviewOptions | None = None,
    ) -> "torch.Tensor":
        """Sample latents B C T H W of conditions from the noise of seeds, as `options` or else [preview] say."""
        self.activate()
        variant, options = self.loaded.variant, options or self.loaded.recipe.preview
        how = walk_of(options, variant.geometry, precision=self.place.precision, boundary=variant.boundary)
        return walk(self.denoiser, self.process, conditions, blank=self.spoken.negative, seeds=seeds, how=how)

    def preview(self, label: str) -> list[str]:
        """Draw every prompt and write samples/LABEL/NN.mp4; gives back the files, none without prompts.

        Only the first rank writes; others draw along while they hold pieces of the base.
        """
        options = self.loaded.recipe.preview
        if not self.spoken.prompts:
            return []
        shots = [(k, options.seed + n) for k in range(len(self.spoken.prompts)) for n in range(options.num_seeds)]
        latents = self.draw([self.spoken.conditions[k] for k, _ in shots], [seed for _, seed in shots])
        if not self.place.first:
            return []
        with tiled(self.encoder, self._tiles()):
            videos = decode(self.encoder, latents, device=str(self.place.device), loop=options.loop)
        unload(self.encoder)
        named = [{"prompt": self.spoken.prompts[k], "seed": seed} for k, seed in shots]
        write_text(self.folder.samples / "prompts.json", json.dumps(named, indent=1))
        return self.folder.save_videos(label, videos, self.loaded.variant.geometry.fps)

    def _tiles(self) -> bool:
        """Whether a preview is decoded in tiles though clips are not encoded in them."""
        if self.loaded.recipe.memory.vae_tiling != "auto":
            return False
        return decoding_needs_tiles(self._decoding_bytes, device=str(self.place.device))

    @cached_property
    def _decoding_bytes(self) -> int:
        loaded = self.loaded
        return Encoders(loaded).decoding(preview_bucket(loaded.recipe.preview, loaded.variant.geometry))[0]

    def release(self) -> None:
        """Let go of the denoiser, so that a fresh one fits into memory."""
        del self.denoiser, self.players, self.fitted
        gc.collect()  # modules whose forward is replaced hold themselves


def spread(parts: Mapping[str, nn.Module], players: Mapping[str, Adapters], place: Place) -> None:
    """Spread the base over the ranks where that is wanted, and tell what holds in truth. Raises RunError if other."""
    if place.sharded:
        whole = [weight for adapters in players.values() for weight in adapters.resident()]
        for weight in whole:
            weight.data = weight.data.to(place.device)
        shard(parts, whole, device_type=place.device.type, within_machine=place.sharding == "machine")
    found = spread_of(parts)
    if bool(found.num_sharded) != place.sharded:
        what, do = "the base is not held as was asked for", "set train.sharding to what you want, and report this"
        raise RunError(Problem(what, found=str(found), allowed=f"train.sharding = {place.sharding!r}", do=do))
    console.print(f"{place.told}: {found}")
    for line in place.zero.told if place.zero else ():
        console.print(line)


def _players(loaded: Loaded, denoiser: Denoiser) -> dict[str, Adapters]:
    """Fresh adapters for each player: in the part of its expert, or in all parts."""
    recipe, parts = loaded.recipe, denoiser.parts()
    learning = learning_experts(loaded)
    drawn = drawn_of(recipe.method, tuple(learning))
    players: dict[str, Adapters] = {}
    for name in adapters_of(recipe.method, tuple(learning)):
        own = {part: parts[part] for part in parts if name not in learning or part == learning[name].part}
        players[name] = inject(
            own,
            recipe.lora.model_copy(update={"parts": {k: v for k, v in recipe.lora.parts.items() if k in own}}),
            presets=loaded.family.lora_presets,
            default_preset=loaded.family.default_preset,
            seed=recipe.train.seed,
            adapter_name="default" if name in drawn else name,
        )
    return players


def learning_experts(loaded: Loaded) -> dict[str, Expert]:
    """The variant's experts but those whose part the recipe freezes."""
    modes = loaded.recipe.lora.parts
    return {name: one for name, one in loaded.variant.experts.items() if modes.get(one.part) != "frozen"}

"""Owns how much memory each phase of a recipe takes, worked out without weights and without a GPU.

In: a Loaded recipe, buckets. Out: `Phase`s and, of training, FLOPs. Networks have no weights here, but shapes.
Acted out on fake tensors (`engine.account`): predictions with loss and backward pass, previews, the autoencoder.
By formula: the frozen base as [memory] holds it, the optimizer's state, what text towers hold for a caption.
Of networks of many equal blocks two short ones are acted out and the rest is drawn in a line: each block adds the same.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from cinelora.base.dtypes import torch_dtype
from cinelora.base.seeds import torch_rng
from cinelora.commands.clips import encoder_of
from cinelora.config.load import Loaded
from cinelora.contracts.flow import Batch, Bucket, Clip, Record, Slot
from cinelora.contracts.roles import Denoiser, Tower
from cinelora.engine.account import (
    Account,
    accounting,
    bytes_of,
    empty_weights,
    fake_mode,
    faked,
    give_up_weights,
    offloading,
    without_weights,
)
from cinelora.engine.blocks import blocks_of
from cinelora.engine.flops import tokens_of
from cinelora.engine.options import MemoryOptions
from cinelora.engine.recompute import keep, recompute
from cinelora.families import registry
from cinelora.lora.adapters import Adapters
from cinelora.lora.inject import FROM_BASE, inject
from cinelora.methods.denoising import arranged, learned, put_into_training
from cinelora.methods.options import adapters_of, drawn_of
from cinelora.nets.weights import RANDOM
from cinelora.noise.registry import open_process
from cinelora.train.options import TrainOptions

STATE_BYTES = {"adamw": 8.0, "adam": 8.0, "adamw_8bit": 2.1, "adam_8bit": 2.1, "prodigy": 16.0}
"""What an optimizer keeps for each number that learns."""
_QUANTISED = {"none": 1.0, "int8": 0.5, "fp8": 0.5, "nf4": 0.5 / 2 + 4 / 64 / 2}
"""Share of a weight's bytes in bf16."""
_SHORT, _EQUAL = 4, 8
_CANNOT = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
"""What fake tensors raise where shapes hang on numbers."""
_KNOWN_SIDES = {"K": 1, "Q": 1}
"""Tellings of a clip, of which a step takes one."""


@dataclass(frozen=True)
class Phase:
    """What one phase holds on the device at the most, and how that is known."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True)
class Micro:
    """One micro of training, at the most: bytes of the frozen base, of what learns, of all; FLOPs, tokens."""

    bucket: Bucket
    base: int
    learning: int
    bytes: int
    flops: int
    tokens: int


class Acted:
    """A recipe's denoiser without weights, its adapters in it."""

    def __init__(self, loaded: Loaded, *, world: int = 1):
        self.loaded, self.mode = loaded, fake_mode()
        recipe = loaded.recipe
        self.num_sharing = world if recipe.train.sharding != "none" else 1
        self.world = world
        with without_weights(self.mode):
            self.denoiser: Denoiser = registry.open_denoiser(
                loaded.family, loaded.variant, base=RANDOM, dtype=recipe.model.dtype
            )
        self.denoiser.text_dropout = 0.0
        self.parts = self.denoiser.parts()
        empty_weights(self.parts)
        self.players = self._players()
        give_up_weights(self.parts, self.mode)
        self.process = open_process(recipe.noise)
        self._known: dict[tuple[object, ...], tuple[int, int, int]] = {}
        self._walked: dict[Bucket, int] = {}

    def _players(self) -> dict[str, Adapters]:
        recipe, family, variant = self.loaded.recipe, self.loaded.family, self.loaded.variant
        experts = {name: one for name, one in variant.experts.items() if recipe.lora.parts.get(one.part) != "frozen"}
        drawn = drawn_of(recipe.method, tuple(experts))
        lora = recipe.lora
        if lora.init in FROM_BASE:  # there is no base; the start is as large as the adapter
            lora = lora.model_copy(update={"init": "default"})
        found = {}
        for name in adapters_of(recipe.method, tuple(experts)):
            own = {part: net for part, net in self.parts.items() if name not in experts or part == experts[name].part}
            modes = {part: mode for part, mode in lora.parts.items() if part in own}
            found[name] = inject(
                own,
                lora.model_copy(update={"parts": modes}),
                presets=family.lora_presets,
                default_preset=family.default_preset,
                adapter_name="default" if name in drawn else name,
            )
        return found

    @cached_property
    def num_learning(self) -> int:
        """How many numbers learn, of all players."""
        return sum(one.num_parameters() for one in self.players.values())

    def learning_bytes(self, train: TrainOptions, memory: MemoryOptions) -> int:
        """Adapters in fp32, their gradients where several micros add to them, the optimizer's state, the average."""
        each = 4.0 + (4.0 if train.accumulation > 1 else 0.0) + (4.0 if train.ema_decay else 0.0)
        state = 0.0 if memory.optimizer == "cpu" else STATE_BYTES[train.optimizer]
        # DeepSpeed's share of the state comes with its own copy of the numbers that are stepped.
        each += (state + 4.0) / self.world if train.zero and self.world > 1 and state else state
        starts = self.loaded.recipe.lora.init in FROM_BASE
        return int(self.num_learning * (each + (4.0 if starts else 0.0)))

    def base_bytes(self, memory: MemoryOptions) -> int:
        """The frozen base on the device, as [memory], train.sharding and model.experts_in_memory hold it."""
        held = [self._part_bytes(part, memory) for part in self.parts.values()]
        return max(held) if self.loaded.recipe.model.experts_in_memory == "one" and len(held) > 1 else sum(held)

    def _part_bytes(self, part: nn.Module, memory: MemoryOptions) -> int:
        blocks = list(blocks_of(part).values())
        in_blocks = [_frozen_bytes(block, memory.quantise) for block in blocks]
        rest = _frozen_bytes(part, "none") - sum(_frozen_bytes(block, "none") for block in blocks)
        largest = max((w.nbytes for block in blocks for w in block.parameters() if not w.requires_grad), default=0)
        whole = largest if memory.quantise != "none" else 0
        if memory.base == "streamed":
            in_blocks = sorted(in_blocks)[-memory.ring_blocks :]
        if self.num_sharing > 1:  # a piece of all, and two blocks put together
            return (rest + sum(in_blocks)) // self.num_sharing + sum(sorted(in_blocks)[-2:])
        return rest + sum(in_blocks) + whole

    def host_bytes(self, memory: MemoryOptions) -> int:
        """Main memory that stays taken: streamed blocks, the optimizer's state."""
        state = STATE_BYTES["adamw"] * self.num_learning if memory.optimizer == "cpu" else 0
        streamed = memory.base == "streamed"
        return int(state) + sum(
            _frozen_bytes(block, memory.quantise)
            for part in self.parts.values()
            for block in (blocks_of(part).values() if streamed else ())
        )

    def micro(self, bucket: Bucket, train: TrainOptions, memory: MemoryOptions, *, num_clips: int) -> Micro:
        """One micro of `num_clips` of a bucket: prediction, loss, backward pass."""
        every = memory.recompute_every if memory.recompute == "every" else 1
        twice = (memory.recompute, every) if train.gradient_checkpointing else None
        key = (bucket, num_clips, twice, memory.activations)
        if key not in self._known:  # all else is by formula
            self._known[key] = self._micro(bucket, num_clips, twice, offload=memory.activations == "offload")
        most, flops, tokens = self._known[key]
        base, learning = self.base_bytes(memory), self.learning_bytes(train, memory)
        return Micro(bucket, base, learning, base + learning + most, flops, tokens)

    def _micro(
        self, bucket: Bucket, num_clips: int, twice: tuple[str, int] | None, *, offload: bool
    ) -> tuple[int, int, int]:
        """Bytes beside weights and state, FLOPs and tokens of one micro."""
        next(iter(self.players.values())).activate()
        put_into_training(self.denoiser, True)
        keep(self.parts)
        batch, asked = self._batch(bucket, num_clips), self._asked()

        def work() -> object:
            if twice is not None:
                recompute(self.parts, twice[0], every=twice[1])
            try:
                with offloading() if offload else nullcontext():
                    return self._learn(asked, batch)
            finally:
                keep(self.parts)

        with self.mode:
            most, flops = self._drawn_out(work, twice[1] if twice else 1)
        return most, flops, tokens_of(self.parts, batch.latents)

    def walk(self, bucket: Bucket) -> int:
        """What a step of a preview holds beside the base: one prediction of one clip without gradients."""
        if bucket not in self._walked:
            self._walked[bucket] = self._walk(bucket)
        return self._walked[bucket]

    def _walk(self, bucket: Bucket) -> int:
        batch, asked = self._batch(bucket, 1), self._asked()
        put_into_training(self.denoiser, False)

        def work() -> object:
            with torch.no_grad(), self._autocast():
                x, t = batch.latents, torch.full((1,), 500.0)
                return asked.predict(x, t, batch.conditions), x

        return self._drawn_out(work, 1)[0]

    def _learn(self, asked: Denoiser, batch: Batch) -> object:
        with self._autocast():
            noised = self.process.noise(batch.latents, torch_rng(0))
            noised = replace(noised, **faked(vars(noised), self.mode))
            prediction = asked.predict(noised.x, noised.t, batch.conditions)
            loss = self.process.loss(prediction, noised, learned(batch, batch.conditions))
        torch.autograd.backward([loss.value])
        return loss

    def _autocast(self) -> torch.autocast:
        precision = self.loaded.recipe.train.precision
        lower = precision != "fp32"
        return torch.autocast("cpu", torch_dtype(precision) if lower else None, enabled=lower)

    def _asked(self) -> Denoiser:
        """The denoiser, of several experts the first: which one is asked hangs on numbers, and they are alike."""
        members = getattr(self.denoiser, "members", None)
        return next(iter(members.values())).denoiser if members else self.denoiser

    def _batch(self, bucket: Bucket, num_clips: int) -> Batch:
        """Nothing in the right shapes, as the denoiser takes it."""
        variant, data = self.loaded.variant, self.loaded.recipe.data
        shape = variant.geometry.latent_shape(bucket)
        sides = {**_KNOWN_SIDES, **dict(zip("CTHW", shape, strict=True)), "S": variant.text_length, "F": bucket.frames}
        kind = torch_dtype(data.encoded_dtype)
        told = {
            name: torch.zeros(num_clips, *(int(w) if w.isdigit() else sides[w] for w in said.split()), dtype=kind)
            for name, said in variant.conditions.items()
        }
        batch = Batch(torch.zeros(num_clips, *shape), told, tuple(map(str, range(num_clips))))
        asked = self._asked()
        conditions = asked.condition(batch, None)
        batch = arranged(batch, asked)
        return replace(
            batch,
            latents=faked(batch.latents, self.mode),
            conditions={k: faked(v, self.mode) for k, v in conditions.items()},
        )

    def _drawn_out(self, work: Callable[[], object], every: int) -> tuple[int, int]:
        """Bytes beside the weights, and FLOPs, of all blocks: acted out, or of two short networks and in a line on."""
        lists = [found for part in self.parts.values() if (found := _equal_blocks(part)) is not None]
        whole = max((len(one[1]) for one in lists), default=0)
        low = max(_SHORT, 2 * every)
        high = low + max(2, every)
        if whole < max(_EQUAL, high + 1) or len({len(one[1]) for one in lists}) > 1:
            return self._acted(work)
        (most, flops), (more, further) = (self._shortened(work, lists, num) for num in (low, high))
        times = (whole - high) / (high - low)
        return more + int((more - most) * times), further + int((further - flops) * times)

    def _shortened(self, work: Callable[[], object], lists: Any, num: int) -> tuple[int, int]:
        for owner, blocks, name in lists:
            setattr(owner, name, nn.ModuleList(list(blocks)[:num]))
        try:
            return self._acted(work)
        finally:
            for owner, blocks, name in lists:
                setattr(owner, name, blocks)

    def _acted(self, work: Callable[[], object]) -> tuple[int, int]:
        held = [w for part in self.parts.values() for w in (*part.parameters(), *part.buffers())]
        account = Account()
        account.hold(held)
        before = account.now
        with accounting(account, self.mode):
            work()
        for weight in held:
            weight.grad = None
        gc.collect()
        return account.most - before, account.flops.total


def _frozen_bytes(module: nn.Module, quantise: str) -> int:
    """Frozen weights and buffers; of linear layers in a number format of their own."""
    share = _QUANTISED[quantise]
    linear = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)} if share < 1 else set()
    return int(
        sum(
            (share * 2 * w.numel() if id(w) in linear and w.ndim == 2 else w.nbytes)
            for w in (*module.parameters(), *module.buffers())
            if not w.requires_grad
        )
    )


def _equal_blocks(part: nn.Module) -> tuple[nn.Module, nn.ModuleList, str] | None:
    """The list of equal blocks that a transformer is made of: its owner, itself, its name there."""
    for name, child in part.named_children():
        if isinstance(child, nn.ModuleList) and len(child) >= _EQUAL:
            looks = {(type(one), tuple(tuple(w.shape) for w in one.parameters())) for one in child}
            if len(looks) == 1:
                return part, child, name
    return None


class Encoders:
    """A recipe's towers without weights."""

    def __init__(self, loaded: Loaded):
        self.loaded, self.mode = loaded, fake_mode()
        model = loaded.recipe.model.model_copy(update={"base": RANDOM})
        self.encoder = encoder_of(replace(loaded, recipe=loaded.recipe.model_copy(update={"model": model})))
        self.towers = self.encoder.towers()
        self.weights: dict[str, int] = {}
        """Bytes of the towers that were looked at, by name."""
        self._decoded: dict[Bucket, tuple[int, str]] = {}

    def phases(self, largest: Bucket) -> Iterator[Phase]:
        """One for each tower, as one at a time is in memory; those that look at pixels with the largest bucket."""
        for tower in self.towers:
            weights = self._weights(tower)
            if tower.reads == "caption":
                held = _layer_bytes(tower, self.loaded.variant.text_length)
                yield Phase(f"encoding: {tower.name}", weights + held, "weights counted, a caption by formula")
                continue
            held_of = self._encoded(tower, largest)
            how = "acted out" if held_of is not None else "weights counted, activations by formula"
            held = _pixel_bytes(largest) if held_of is None else held_of
            yield Phase(f"encoding: {tower.name}, {largest}", weights + held, how)

    def decoding(self, bucket: Bucket) -> tuple[int, str]:
        """Bytes of the autoencoder while it draws one clip, and how that is known."""
        if bucket not in self._decoded:
            self._decoded[bucket] = self._decoding(bucket)
        return self._decoded[bucket]

    def _decoding(self, bucket: Bucket) -> tuple[int, str]:
        tower = next(one for one in self.towers if "mean" in one.gives)
        weights = self._weights(tower)
        shape = self.loaded.variant.geometry.latent_shape(bucket)
        found = self._most(lambda: self.encoder.decode(faked(torch.zeros(1, *shape), self.mode)))
        return (weights + _pixel_bytes(bucket), "by formula") if found is None else (weights + found, "acted out")

    def _weights(self, tower: Tower) -> int:
        with without_weights(self.mode):
            tower.load("cpu")
        found = bytes_of([[*net.parameters(), *net.buffers()] for net in _networks(tower)])
        self.weights[tower.name] = found
        return found

    def _encoded(self, tower: Tower, bucket: Bucket) -> int | None:
        pixels = faked(torch.zeros(3, bucket.frames, bucket.height, bucket.width), self.mode)
        record = Record("plan/0", "plan", "video", (), "", "plan")
        clip = Clip(Slot(record, bucket), pixels, "", self.loaded.variant.geometry.fps)
        return self._most(lambda: tower.encode([clip], torch_rng(0)))

    def _most(self, work: Callable[[], object]) -> int | None:
        """Bytes beside the weights; None where shapes hang on numbers, so that it cannot be acted out."""
        account = Account()
        account.hold([[*net.parameters(), *net.buffers()] for tower in self.towers for net in _networks(tower)])
        before = account.now
        try:
            with torch.no_grad(), without_weights(self.mode), accounting(account, self.mode):
                work()
        except _CANNOT:
            return None
        return account.most - before


def _networks(tower: object) -> list[nn.Module]:
    return [value for value in vars(tower).values() if isinstance(value, nn.Module)]


def _layer_bytes(tower: Tower, tokens: int) -> int:
    """A caption in a text tower: in its widest layer some sixteen tensors in fp32, as long as the text."""
    layers = [m for net in _networks(tower) for m in net.modules() if isinstance(m, nn.Linear)]
    return 16 * 4 * tokens * max((layer.out_features for layer in layers), default=0)


def _pixel_bytes(bucket: Bucket) -> int:
    """An autoencoder's widest layer: some 3 tensors of 128 channels of all pixels in bf16."""
    return 3 * 128 * 2 * bucket.frames * bucket.height * bucket.width

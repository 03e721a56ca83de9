"""Owns the six roles that a run is made of; whoever has the methods plays the role (PEP 544).

Reader -> records        Encoder -> latents, conditions     Denoiser -> prediction
Process -> noise, loss   Method -> whose loss, when         Layout -> keys of files
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from cinelora.contracts.flow import Batch, Clip, Encoded, LeftOut, Loss, Noised, Record, Seat

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


@runtime_checkable
class Reader(Protocol):
    """Finds the records of one source. Implemented in `data/readers/`."""

    def read(self) -> Iterator[Record | LeftOut]:
        """Records in a stable order, and in their place the entries that cannot be used.

        Raises DataError where nothing can be listed at all.
        """
        ...


@runtime_checkable
class Tower(Protocol):
    """One network of an Encoder, loaded on its own so that only one is in memory at a time.

    `reads` says what its result depends on (the cache keys it by that alone), `gives` which names it fills:
    "mean" and "logvar", or names of conditions. A tower whose result depends on `rng` says so with a further attribute
    `draws = True`: its entries are then keyed by seed and slot too; one of pictures that previews can do without, with
    `optional = True`, and where the network is to hear that there are none, with `tells_unshown = True` and
    `unshown(bucket)`, the conditions that say so; one whose pictures can have one to end at, with `takes_end`, or must,
    with `needs_end`. One of captions may say how long they are, with `tokens(captions) -> list[int]` (each caption's
    tokens before any are cut, special ones included; no weights are read) and `max_tokens`, how many it keeps; see
    `CountsTokens`.
    """

    name: str
    reads: Literal["pixels", "caption", "both"]
    gives: tuple[str, ...]

    def fingerprint(self) -> str:
        """Changes whenever the same input could give another result: weights and settings, without loading them."""
        ...

    def load(self, device: str) -> None:
        """Bring the weights into memory on a device. Idempotent."""
        ...

    def unload(self) -> None:
        """Give the memory back. Idempotent."""
        ...

    def encode(self, clips: Sequence[Clip], rng: "Generator | None" = None) -> "list[dict[str, Tensor]]":
        """One dict per clip with the names in `gives`. Loads first if need be. Clips share one bucket."""
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """What a Tower of captions may have on top: the length of captions, for reports. Reads the tokenizer alone."""

    @property
    def max_tokens(self) -> int:
        """How many tokens are kept, special ones included."""
        ...

    def tokens(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has uncut, special ones included."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """All that turns clips into what the denoiser takes, and latents back into pixels. `families/X/encode.py`."""

    def towers(self) -> tuple[Tower, ...]:
        """The encoding networks, in the order in which they run."""
        ...

    def encode(self, clips: Sequence[Clip], rng: "Generator | None" = None) -> list[Encoded]:
        """Run every tower. Clips share one bucket."""
        ...

    def decode(self, latents: "Tensor") -> "Tensor":
        """Latents B C T H W to pixels B C F H W in [-1, 1]."""
        ...

    def blank(self) -> "Mapping[str, Tensor]":
        """The conditions of nothing said (the empty caption), for dropout and guidance; no batch dimension."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """The network that learns, with its family's token layout. `families/X/denoise.py`. No encoder behind it.

    `text_dropout` is the share of clips that `condition` gives the `blank` (the encoder's) in place of their text.
    """

    text_dropout: float
    blank: "Mapping[str, Tensor]"

    def parts(self) -> "dict[str, nn.Module]":
        """Modules by the names that `[lora.parts]` uses."""
        ...

    def arranged(self, latents: "Tensor") -> "Tensor":
        """Clean latents B C T H W as the network takes them, such as with frames put in front: what is noised."""
        ...

    def restored(self, latents: "Tensor", frames: int) -> "Tensor":
        """The way back: arranged latents to those of `frames` latent frames."""
        ...

    def condition(self, batch: Batch, rng: "Generator | None") -> "dict[str, Tensor]":
        """The batch's conditions after this step's random choices, such as dropping the text; none without `rng`.

        A "loss_mask" among them, as of arranged latents, is 0 where they are given and nothing is to be learned.
        """
        ...

    def predict(self, x: "Tensor", t: "Tensor", conditions: "Mapping[str, Tensor]") -> "Tensor":
        """x B C T H W, t B -> prediction B C T H W in x's number format.

        A network that says how sure it is gives B 2C T H W, its mean first; processes and samplers take both.
        """
        ...


@runtime_checkable
class Sampler(Protocol):
    """A walk from noise to latents; made by a Process so that training and preview share one idea of time."""

    def start(self, shape: tuple[int, ...], rng: "Generator") -> "Tensor":
        """The first x, B C T H W."""
        ...

    def enter(self, clean: "Tensor", noise: "Tensor") -> "Tensor":
        """The first x of a walk from given latents B C T H W, with noise as strong as its first step has."""
        ...

    def times(self) -> "Tensor":
        """The t of each step, in order."""
        ...

    def step(self, prediction: "Tensor", t: "Tensor", x: "Tensor") -> "Tensor":
        """The next x."""
        ...


@runtime_checkable
class Process(Protocol):
    """What noise is and what is learned from it. `noise/`."""

    def noise(self, clean: "Tensor", rng: "Generator", seat: Seat | None = None) -> Noised:
        """Draw a time for each clip of clean latents B C T H W, spread over the micros of its step, and noise them."""
        ...

    def at(self, clean: "Tensor", t: "Tensor", rng: "Generator") -> Noised:
        """Noise to given quantiles `t` B in [0, 1] of this process' time (0 = least noise); for held-out losses."""
        ...

    def loss(self, prediction: "Tensor", noised: Noised, batch: Batch) -> Loss:
        """Compare in fp32; the batch's weights and loss mask apply."""
        ...

    def sampler(self, num_steps: int, kind: str, places: Sequence[float] = (), *, strength: float = 1.0) -> Sampler:
        """A walk of `num_steps`, even ones unless `places` says where: thousandths of the trained range, falling.

        Below strength 1 only the last share of them is walked, from given latents (`Sampler.enter`).
        """
        ...


@dataclass(frozen=True)
class Player:
    """Somebody whose parameters a method trains: a name, and its parameters by name.

    Its own largest rate, schedule and warm-up, where they are not those of [train]; `averaged` says whether
    train.ema_decay concerns it, as it does whoever is drawn with and saved. `whole` names those parameters that are
    weights of a part that learns in full, which train.lr_full concerns.
    """

    name: str
    parameters: "Mapping[str, nn.Parameter]"
    lr: float | None = None
    schedule: str | None = None
    warmup_steps: int | None = None
    averaged: bool = True
    whole: frozenset[str] = frozenset()


@runtime_checkable
class Method(Protocol):
    """Which losses are taken, of whom, and when. `methods/`."""

    def players(self) -> tuple[Player, ...]:
        """Everyone with parameters to train; each gets its own optimizer and schedule."""
        ...

    def turns(self, step: int) -> tuple[str, ...]:
        """Names of the players that learn in this optimizer step, in order."""
        ...

    def loss(self, player: str, batch: Batch, rng: "Generator", shared: "Generator") -> Loss:
        """The loss of one player on one batch; every random draw comes from `rng`, whose numbers are this rank's own.

        What decides how often the denoiser is asked comes from `shared`, which gives all ranks the same numbers: ranks
        that hold shards of one network must ask it equally often. Such a method says so with `asks_vary = True`.
        """
        ...

    def held_out_loss(self, batch: Batch, quantiles: "Tensor", rng: "Generator") -> Loss:
        """The loss on clips that are not trained on, at given quantiles of time, no dropout, no gradient."""
        ...


@runtime_checkable
class Layout(Protocol):
    """One way to spell the keys of a state dict. Pure: dict in, dict out. `families/X/layouts.py`."""

    name: str

    def reads(self, keys: "Sequence[str]") -> bool:
        """True where the keys look like this layout."""
        ...

    def to_native(self, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Into the spelling that the project's networks use."""
        ...

    def from_native(self, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """Out of it."""
        ...


@runtime_checkable
class AdapterLayout(Layout, Protocol):
    """A Layout of adapter files. Its native keys start with the part: "transformer.blocks.0.attn1.to_q.lora_A.weight".

    `strength` says where a module's alpha stands: "key" (a tensor `<module>.alpha`), "header" (diffusers' JSON in
    the file's metadata) or "folded" (nowhere, so that it is multiplied into lora_B); `dora` whether its readers
    understand magnitude vectors. With a further attribute `alpha_is_strength = True` files of other programs
    say no strength, and the alpha of their training is the strength itself, not to be divided by the rank.
    """

    strength: Literal["key", "header", "folded"]
    dora: bool

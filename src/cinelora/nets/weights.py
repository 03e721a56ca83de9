"""Owns finding and reading a base: a diffusers folder, a folder or file in the original layout, a Hub id.

In: what the recipe's `model.base` says. Out: components' folders, tensors, and networks that are filled whole or
not at all. Nothing is read before it is asked for. What is a family's own (names of original files, layouts) comes in.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from cinelora.base.errors import Problem, Problems, WeightsError
from cinelora.base.files import sha256_text
from cinelora.base.seeds import torch_rng
from cinelora.contracts.roles import Layout
from cinelora.nets.files import file_fingerprint, one_checkpoint, read_json, read_outline, read_tensors, weights_of

RANDOM = "random"
"""The base whose weights are drawn: to try out a recipe and to test, never for results."""


@dataclass(frozen=True)
class Component:
    """One network of a base on disk: its files, and its config where the base has one. No files = drawn weights."""

    name: str
    files: tuple[Path, ...]
    config: Mapping[str, Any] | None
    layouts: Sequence[Layout]

    @property
    def where(self) -> str:
        """The file, or the folder of several."""
        if not self.files:
            return RANDOM
        return str(self.files[0] if len(self.files) == 1 else self.files[0].parent)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under native names, memory-mapped. Raises WeightsError where no layout reads the keys."""
        return self._native(read_tensors)

    def outline(self) -> dict[str, Tensor]:
        """The same on the meta device: names and shapes, from the files' headers."""
        return self._native(read_outline)

    def _native(self, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for file in self.files:
            found |= read(file)
        layout = next((layout for layout in self.layouts if layout.reads(list(found))), None)
        if layout is None:
            raise WeightsError(
                Problem(
                    f"the keys are of no layout that is known for the {self.name}",
                    found=", ".join(list(found)[:3]) or "no tensors",
                    allowed=", ".join(layout.name for layout in self.layouts),
                    where=self.where,
                    do="name a file or folder of this family as model.base",
                )
            )
        try:
            return layout.to_native(found)
        except WeightsError as error:
            raise WeightsError(*(replace(p, where=p.where or self.where) for p in error.problems)) from error

    def fingerprint(self) -> str:
        """Hash of the config and of the files' bytes: all of small ones, places spread over large ones."""
        return sha256_text(self.config, *(file_fingerprint(file) for file in self.files))


def may_be_on_hub(place: str) -> bool:
    """True where the name of a base is OWNER/NAME, and not plainly a path."""
    return place.count("/") == 1 and not place.startswith((".", "~", "/"))


@dataclass(frozen=True)
class Base:
    """A base checkpoint by the name that a recipe gives it: a folder, a file, or a Hub id (OWNER/NAME@REVISION).

    "#fp16" behind a folder or id takes the files of that kind (model.fp16.safetensors) where a component has some.
    `originals` names the files of each component in the family's original release, in the order of preference;
    `embedded` is the folder that the name "embedded" stands for, where the family has one.
    """

    name: str
    originals: Mapping[str, Sequence[str]] = field(default_factory=dict)
    embedded: Path | None = None

    @property
    def is_random(self) -> bool:
        """True where no files stand behind the base."""
        return self.name == RANDOM

    def component(self, name: str, layouts: Sequence[Layout]) -> Component:
        """Find a network of the base. Raises WeightsError that lists where was looked."""
        if self.is_random:
            return Component(name, (), None, layouts)
        root = self._root(name)
        folder = root / name
        if (folder / "config.json").is_file():
            return Component(name, weights_of(folder, self._split[1]), read_json(folder / "config.json"), layouts)
        if root.is_file() and name.startswith("transformer"):
            return Component(name, (root,), None, layouts)
        beside = root.parent if root.is_file() else root
        originals = self.originals.get(name, ())
        for pattern in originals:
            files = tuple(sorted(file for file in beside.glob(pattern) if file.is_file()))
            if files:
                files = one_checkpoint(files, files[0].parent) if name.startswith("transformer") else files
                return Component(name, files, None, layouts)
        raise WeightsError(
            Problem(
                f"the base has no {name}",
                found=str(root),
                allowed=" or ".join((f"{name}/config.json with its weights", *originals)),
                do="name a diffusers folder, a folder of the original release, a single file or a Hub id as model.base",
            )
        )

    def folder(self, name: str) -> Path:
        """The folder of what is no network, such as the tokenizer. Raises WeightsError."""
        root = self._root(name)
        beside = root.parent if root.is_file() else root
        places = (name, *self.originals.get(name, ()))
        for folder in (beside / place for place in places):
            if folder.is_dir():
                return folder
        raise WeightsError(
            Problem(
                f"the base has no {name}",
                found=str(beside),
                allowed=" or ".join(f"{place}/" for place in places),
                do=f"put the {name}'s folder beside the weights",
            )
        )

    @property
    def _split(self) -> tuple[str, str]:
        """The place, and the kind of files behind "#"; a path with a # in it is meant as it stands."""
        place, mark, kind = self.name.rpartition("#")
        return (place, kind) if mark and not Path(self.name).expanduser().exists() else (self.name, "")

    def _root(self, component: str) -> Path:
        if self.name == "embedded" and self.embedded is not None:
            return self.embedded
        place, _ = self._split
        path = Path(place).expanduser()
        if path.exists():
            return path
        if may_be_on_hub(place):
            return self._from_hub(component)
        raise WeightsError(
            Problem("the base does not exist", found=self.name, do="name a folder, a file or a Hub id (org/name)")
        )

    def _from_hub(self, component: str) -> Path:
        """Fetch one component of a Hub repository into the Hub's own cache."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

        repository, _, revision = self._split[0].partition("@")
        originals = [f"{name}*" for name in self.originals.get(component, ())[:1]]
        wanted = [f"{component}/*", "model_index.json", *originals]
        try:
            return Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
        except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
            raise WeightsError(
                Problem(
                    f"cannot fetch the {component} of {self.name} from the Hub",
                    found=f"{type(error).__name__}: {error}".splitlines()[0],
                    do="check the name and the connection, or name a folder as model.base",
                )
            ) from error


def build(make: Callable[[], nn.Module]) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return make()


@contextmanager
def settled(component: Component) -> Iterator[None]:
    """While a library makes a network of what a base's config says: raise WeightsError where it cannot."""
    try:
        yield
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        if component.config is None:
            raise
        lines = f"{type(error).__name__}: {error}".splitlines()
        where, do = str(component.files[0].parent / "config.json"), "fetch it anew, or name another base"
        what = f"no {component.name} can be made of what its config says"
        raise WeightsError(Problem(what, found=" ".join(lines[:2]), where=where, do=do)) from error


def network_of(component: Component, kind: type, network: Mapping[str, Any], *, title: str) -> dict[str, Any]:
    """The constructor arguments (of a network or of its configuration), and what the config beside the weights adds.

    Raises WeightsError where that config contradicts the variant.
    """
    if component.config is None:
        return dict(network)
    known = inspect.signature(kind).parameters
    stated = {key: value for key, value in component.config.items() if key in known}
    wrong = {key: stated[key] for key in network if key in stated and stated[key] != network[key]}
    if wrong:
        raise WeightsError(
            Problem(
                f"the base's {component.name} is not that of {title}",
                found=", ".join(f"{key} {value}" for key, value in wrong.items()),
                allowed=", ".join(f"{key} {network[key]}" for key in wrong),
                where=str(component.files[0].parent / "config.json"),
                do="set model.variant to the base's own, or name another base",
            )
        )
    return {**stated, **network}


def open_network(
    net: nn.Module,
    component: Component,
    *,
    of: str,
    dtype_of: Callable[[str], torch.dtype],
    mend: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors,
) -> None:
    """Give a network of `build` its component's weights and freeze it. Raises WeightsError as `refuse_other` does.

    `mend` adds what files may leave out, such as the second name of a tied table.
    """
    tensors = mend(component.tensors()) if component.files else _drawn(net)
    fill(net, tensors, of=of, dtype_of=dtype_of, where=component.where)


def check_network(net: nn.Module, component: Component, *, of: str) -> None:
    """See by the files' headers alone that a component fits. Raises WeightsError as `refuse_other` does."""
    if component.files:
        refuse_other(net, component.outline(), of=of, where=component.where)


def _drawn(net: nn.Module) -> dict[str, Tensor]:
    """Weights by name: matrices with deviation 1 / sqrt(inputs), scales 1, all else 0; the same in every process."""
    found = {}
    for name, weight in net.state_dict().items():
        if weight.ndim < 2:
            found[name] = torch.ones(weight.shape) if name.endswith("weight") else torch.zeros(weight.shape)
        else:
            drawn = torch.randn(weight.shape, generator=torch_rng("random base", name))
            found[name] = drawn / weight[0].numel() ** 0.5
    return found


def fill(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    of: str,
    dtype_of: Callable[[str], torch.dtype],
    where: str = "",
) -> None:
    """Give a network of `build` its weights, each in the format that `dtype_of` its name says; then freeze it.

    Raises WeightsError as `refuse_other` does.
    """
    refuse_other(network, tensors, of=of, where=where)
    wanted = network.state_dict()
    network.load_state_dict({name: tensors[name].to(dtype_of(name)) for name in wanted}, strict=True, assign=True)
    network.requires_grad_(False).eval()


def refuse_other(network: nn.Module, tensors: Mapping[str, Tensor], *, of: str, where: str) -> None:
    """See that tensors are just what a network takes.

    Raises WeightsError that lists every missing and extra key, by group, and every other shape; `where` is the file.
    """
    wanted = {name: weight.shape for name, weight in network.state_dict().items()}
    problems = Problems(WeightsError)
    missing, extra = wanted.keys() - tensors.keys(), tensors.keys() - wanted.keys()
    if missing:
        do = "the file is incomplete, or of another model: fetch it anew, or check model.base and model.variant"
        problems.add(f"the {of} lacks {_num(missing)}", found=_shown(missing), where=where, do=do)
    if extra:
        do = "the file is of another model: check model.base and model.variant"
        problems.add(f"the {of} has no place for {_num(extra)}", found=_shown(extra), where=where, do=do)
    other = [name for name in wanted if name in tensors and tensors[name].shape != wanted[name]]
    if other:
        name = other[0]
        problems.add(
            f"the {of} has another shape for {_num(other)}",
            found=f"{name} {tuple(tensors[name].shape)}",
            allowed=f"{name} {tuple(wanted[name])}",
            where=where,
            do="check model.variant",
        )
    problems.raise_if_any()


def _num(keys: Collection[str]) -> str:
    return "1 weight" if len(keys) == 1 else f"{len(keys)} weights"


def _shown(keys: Collection[str]) -> str:
    """Keys that differ in their numbers only stand together."""
    groups: dict[str, list[str]] = {}
    for key in sorted(keys):
        groups.setdefault(".".join(part for part in key.split(".") if not part.isdigit()), []).append(key)
    shown = [f"{group} x {len(members)}" if len(members) > 1 else members[0] for group, members in groups.items()]
    return ", ".join(shown[:8]) + (f" and {len(groups) - 8} more groups" if len(groups) > 8 else "")

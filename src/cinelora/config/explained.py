"""Owns all that can be told of one key: meaning, type, defaults of variants, cost, places in the source, old names.

In: what a person typed. Out: `Explained`, or a RecipeError with the nearest keys. No weight is read, no torch loaded.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from cinelora.base.errors import Problem, RecipeError, nearest
from cinelora.config.old_names import OldName, all_called, keys_called, old_names, plain, without_key
from cinelora.config.recipe import Recipe
from cinelora.config.schema import Key, keys_of, kind_of
from cinelora.config.uses import option_of, uses
from cinelora.config.write import as_toml
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.options import condition, noted
from cinelora.families import registry
from cinelora.methods.options import ADAPTERS, MethodOptions, sampling_of

_SURE, _APART = 0.82, 0.04
"""How alike a misspelt key and the one that is meant must be, and how much less alike all others."""
_ASIDE = re.compile(r"; |: |\. | \(|, such as |, so that ")
_SHORT = 90
_MOST, _WHO = 5, 3
"""Near keys, and trainers, that are told at once."""
_RULES = "data.source.rules."
_IDLE = {"preview": "preview.prompts not empty", "held_out": "data.held_out above 0"}
"""What a whole section needs to have an effect."""

_STATED: Mapping[str, Callable[[Family, Variant], Any]] = {
    "model.base": lambda family, variant: variant.base,
    "data.frames": lambda family, variant: [variant.geometry.frames],
    "data.size": lambda family, variant: [variant.geometry.height, variant.geometry.width],
    "data.fps": lambda family, variant: variant.geometry.fps,
    "lora.targets": lambda family, variant: family.default_preset,
    "lora.files": lambda family, variant: list(family.default_files),
    "preview.frames": lambda family, variant: variant.geometry.frames,
    "preview.size": lambda family, variant: [variant.geometry.height, variant.geometry.width],
}
"""What the card says in place of an option's default, of options that say so in their help."""


@dataclass(frozen=True)
class Explained:
    """What there is to tell of a key. `of_variants` pairs values with the variants whose card says them."""

    key: Key
    needs: tuple[str, ...]
    of_variants: list[tuple[Any, list[str]]]
    of_methods: list[tuple[Any, str]]
    declared: str
    used: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    old: tuple[OldName, ...] = ()

    @property
    def kind(self) -> str:
        """Its type and allowed values."""
        return ("list of tables" if self.key.is_list else "table") if self.key.table else kind_of(self.key.info)

    @property
    def unit(self) -> str:
        """What its numbers count."""
        return noted(self.key.info, "unit")

    @property
    def costs(self) -> str:
        """What setting it takes."""
        return noted(self.key.info, "costs")


def find(word: str) -> tuple[list[Key], str]:
    """The keys that a word means, and what to say of it where it is not spelt so.

    A whole key or the end of one, of which several sections may have one; a setting of another trainer; a misspelling
    of which there is no doubt. Raises RecipeError with the nearest keys.
    """
    wanted = plain(word.strip("[] ").partition("=")[0].strip().replace("-", "_").lower())
    note = f"{word} is as in [data], for one source alone" if wanted.startswith(_RULES) else ""
    wanted = wanted.replace(_RULES, "data.", 1) if note else wanted
    keys = [key for key in keys_of(Recipe) if "rules" not in key.names[:-1]]  # which has the keys of [data] over again
    if exact := [key for key in keys if f".{key.dotted}".endswith(f".{wanted}")]:
        return sorted(exact, key=lambda key: key.dotted != wanted), note
    if known := _called(wanted, keys) or _called(word.strip().lstrip("-"), keys):
        return known
    if keyless := without_key(wanted) or without_key(word.strip()):
        raise RecipeError(_keyless(keyless))
    if sure := _alike(wanted, keys):
        return sure
    raise RecipeError(_unknown(word, wanted, keys))


def _keyless(settings: list[OldName]) -> Problem:
    """What becomes of a setting of another trainer that no key stands for, in the words of its table."""
    who = f"{settings[0].name} of {', '.join(one.trainer for one in settings[:_WHO])}"
    why = "; ".join(dict.fromkeys(one.why for one in settings if one.why))
    return Problem("this setting of another trainer has no key here", found=who, do=why)


def _called(old: str, keys: list[Key]) -> tuple[list[Key], str] | None:
    """The keys that a setting of another trainer says, if there is one of this name."""
    called = keys_called(old)
    called = [(key, name) for key, name in called if " + " not in name.name] or called
    meant = {key for key, _ in called}
    who = list(dict.fromkeys(f"{name.name} of {name.trainer}" for _, name in called))
    known = [key for key in keys if key.dotted in meant or key.dotted in {one.rpartition(".")[0] for one in meant}]
    known = [key for key in known if key.table is None]
    more = f" and {len(who) - _WHO} others" if len(who) > _WHO else ""
    return (known, f"{old} is no key here; it is {', '.join(who[:_WHO])}{more}") if known else None


def _alike(wanted: str, keys: list[Key]) -> tuple[list[Key], str] | None:
    """The keys that are so much like a word that they must be meant, by whole name, last name or old name."""
    names: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        names[key.dotted if "." in wanted else key.names[-1]].append(key)
    likeness = sorted((SequenceMatcher(None, wanted, name).ratio(), name) for name in {*names, *all_called()})
    (second, _), (best, name) = likeness[-2:]
    if best < _SURE or best - second < _APART:
        return None
    note = f"there is no key {wanted}; the nearest is {name}"
    if name in names:
        return names[name], note
    found = _called(name, keys)
    return (found[0], f"{note}, which is {found[1].partition('; it is ')[2]}") if found else None


def _unknown(word: str, wanted: str, keys: list[Key]) -> Problem:
    last = wanted.rpartition(".")[2]
    near = nearest(wanted, [key.dotted for key in keys]).split(", ")
    near += [key.dotted for key in keys if key.names[-1] in nearest(last, {key.names[-1] for key in keys}).split(", ")]
    shown = ", ".join(list(dict.fromkeys(filter(None, near)))[:_MOST])
    allowed = "" if shown else f"a section ({', '.join(Recipe.model_fields)}), or a key of one"
    return Problem(
        "no such key", found=word, allowed=allowed, nearest=shown, do="`cinelora recipe explain` lists all keys"
    )


def in_short(key: Key) -> str:
    """The beginning of a key's help: what it is, without its values and exceptions."""
    text = _ASIDE.split(key.info.description or "", maxsplit=1)[0].rstrip(".")
    return text if len(text) <= _SHORT else text[:_SHORT].rpartition(" ")[0].rstrip(",") + " ..."


def listed() -> list[Key]:
    """The tables of a recipe: its sections and those within them, but for rules, which has the keys of [data] again."""
    return [key for key in keys_of(Recipe) if key.table is not None and "rules" not in key.names]


def explained(key: Key) -> Explained:
    """All that there is to tell of a key."""
    option, found = option_of(key.owner, key.names[-1]), uses()
    return Explained(
        key,
        _needs(key),
        _of_variants(key),
        _of_methods(key),
        found.declared.get(option, ""),
        found.used.get(option, []),
        found.checked.get(option, []),
        _old(key),
    )


def _old(key: Key) -> tuple[OldName, ...]:
    """The old names of a key, and of what stands in it where it holds a table of names, such as lora.parts."""
    inside = f"{key.dotted}." if key.table is None else key.dotted
    found = [one for name, one in old_names().items() if name == key.dotted or name.startswith(inside)]
    return tuple(dict.fromkeys(name for names in found for name in names))


def _needs(key: Key) -> tuple[str, ...]:
    """Under which other options the key has an effect, those of the tables around it first."""
    above = [one for one in keys_of(Recipe) if one.names == key.names[: len(one.names)]]
    found = []
    for one in above:
        needed = condition(one.info)
        if needed:
            section = ".".join(one.names[:-1])
            found.append(f"{section}.{needed[0]} = {' or '.join(map(as_toml, needed[1]))}")
    idle = _IDLE.get(key.names[0], "")
    return (idle, *found) if idle and len(key.names) > 1 and not idle.startswith(key.dotted) else tuple(found)


def _of_variants(key: Key) -> list[tuple[Any, list[str]]]:
    """Values that cards say in place of the default, each with its variants, "family/variant"."""
    by_value: dict[str, tuple[Any, list[str]]] = {}
    for family in registry.FAMILIES.values():
        for variant in family.variants.values() if family.name not in registry.HIDDEN else ():
            own = _own(key, family, variant)
            if own is not None:
                by_value.setdefault(repr(own), (own, []))[1].append(f"{family.name}/{variant.name}")
    return list(by_value.values())


def _own(key: Key, family: Family, variant: Variant) -> Any:
    if key.dotted in _STATED:
        return _STATED[key.dotted](family, variant)
    tables = {"noise": variant.process, "preview": variant.sampling}
    return tables.get(key.names[0], {}).get(key.names[-1]) if len(key.names) == 2 else None


def _of_methods(key: Key) -> list[tuple[Any, str]]:
    """What methods put in the place of the default, of previews alone."""
    if key.names[0] != "preview" or len(key.names) != 2:
        return []
    walks = {name: sampling_of(MethodOptions.model_validate({"name": name})) for name in ADAPTERS}
    return [(walk[key.names[-1]], name) for name, walk in walks.items() if key.names[-1] in walk]

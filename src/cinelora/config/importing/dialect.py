"""Owns what the table of an old trainer is made of: one `Old` for each of its settings, `Dialect` for all of them.

Data alone: `dialects/*.py` fill these in, `translate.py` reads them. What a value becomes is named ("square", "list"),
and the names are defined in `translate.py`, so that a table holds no code.

Names of settings may hold one `*`, which stands for the number of a table in a list ("datasets.*.num_repeats"); in
`key`, `of`, `tables` and `when` the same number is put for it ("data.source.*.repeats"). A name that ends in `.**`
stands for every key below it that has no name of its own.

Values as words: those of true and false are "true" and "false" ("set" and "unset" of a switch), of a list its own with
commas between, and of nothing "".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Tables = Mapping[str, Any]
"""Keys of a recipe, dotted, and their values: {"train.lr": 1e-4, "data.source.0.path": "clips"}; None = without it."""

Fate = Literal["dead", "wrong", "always", "launch", "elsewhere", "impossible"]
"""Why an old setting becomes no key of a recipe.

`dead`: the old program read it and did nothing with it; `wrong`: what it did was a fault, which `why` names, and is
done right here without a setting; `always`: it is always so here; `launch`: a matter of the launcher, and carried to
its line; `elsewhere`: another command or flag does it here, which `why` names; `impossible`: it cannot be had here, and
importing ends with an error unless it is set to what it is by default.
"""


@dataclass(frozen=True)
class Old:
    """What becomes of one setting of an old trainer.

    `key`: the recipe's key that takes the value, made by the conversion named `by` ("same" parses a number, a word or a
    list as it looks). `words`: or, what each word (or "set" and "unset" of a switch) means in keys; other words are
    errors that name the nearest. `patterns`: or, regular expressions that are searched in the value in order, and what
    the first that is found means; they may come together with `key`. `fate`: or, why there is no key. `why`: what to
    know, for the recipe's comment and the table: what the old program did wrong with it, what is different.
    `default`: what the old program takes where nothing is said, as it would be written; None where it then does
    nothing that a recipe would have to say; "unset" where the absence of a switch says something. `switch` is True for
    flags without a value; `many` for those with several. `pieces` go with the conversion "pieces": what each name of a
    list is as a piece of a regular expression of module names.
    """

    key: str = ""
    by: str = "same"
    words: Mapping[str, Tables] = field(default_factory=dict)
    patterns: tuple[tuple[str, Tables], ...] = ()
    fate: Fate | None = None
    why: str = ""
    default: str | None = None
    switch: bool = False
    many: bool = False
    pieces: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Joint:
    """Several old settings that make one key: height and width make data.size.

    `of` are the names, in the order in which the conversion `by` takes their values; where one is not said its
    default counts. Applies where at least one of them is said or has a default, or `always`; with `when` (settings and
    their values as in `Given`) only where these match.
    """

    of: tuple[str, ...]
    key: str
    by: str = "list"
    why: str = ""
    always: bool = False
    when: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """Keys that hold where old settings have certain values: {"train_mode": "inpaint"} and so on; all must match.

    Values are compared as words, capitals and small letters alike; "set" and "unset" for whether something is said at
    all, "~..." for a regular expression that is searched. Defaults count. Later ones win over earlier ones and over
    `Old`.
    Where `refuse` is given, these settings cannot be had together: importing ends with an error whose `do` it is, and
    `why` says what is wrong.
    """

    settings: Mapping[str, str]
    tables: Tables = field(default_factory=dict)
    why: str = ""
    refuse: str = ""


@dataclass(frozen=True)
class Dialect:
    """One old trainer: how its commands or files are known, and its settings by name.

    `scripts` are ends of paths of its programs ("scripts/train_lora.py"); `variables` names of shell variables that its
    own start script assigns and that stand for settings ({"BATCH_SIZE": "train_batch_size"}); `keys` are dotted keys
    that a configuration file of it has and no other's has. `sign` is a setting whose file must have one of them, for
    programs whose name could be anybody's. `always` are keys of every recipe that it becomes, and
    `notes` what its program did wrong or ignored whatever was set, each one sentence. `short` are second spellings of
    settings ({"-n": "name"}). `reads` are settings whose values are configuration files of the same dialect, which are
    read, too; `flat` is True where sections of such a file are put aside: [optimizer] lr is the setting lr. `pairs` are
    settings whose values are words NAME=VALUE; each becomes a setting SETTING.NAME ("optimizer_args.weight_decay").
    """

    name: str
    title: str
    settings: Mapping[str, Old]
    scripts: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    sign: str = ""
    short: Mapping[str, str] = field(default_factory=dict)
    joint: tuple[Joint, ...] = ()
    given: tuple[Given, ...] = ()
    always: Tables = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    flat: bool = False
    pairs: tuple[str, ...] = ()

"""Owns what a launcher or the recipe asks of DeepSpeed: the stage, and its settings compared with the recipe's.

In: the environment of `accelerate launch --use_deepspeed`, its JSON file, [train]. Out: `Zero`, or an error with
everything in which they differ. Loads no torch.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cinelora.base.errors import Problem, Problems, RunError
from cinelora.train.options import TrainOptions

OPTIMIZERS = ("adamw", "adam")
"""Those whose step treats every number by itself, so that ranks can have any part of a flat vector of them."""
_USE, _FILE, _STAGE = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_CONFIG_FILE", "ACCELERATE_DEEPSPEED_ZERO_STAGE"
_WORDS = {
    "ACCELERATE_GRADIENT_CLIPPING": ("gradient_clipping",),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation_steps",),
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("zero_optimization", "offload_optimizer", "device"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": ("zero_optimization", "offload_param", "device"),
}
"""What the launcher's own words say, as places in the JSON file."""
BUCKETS = ("reduce_bucket_size", "allgather_bucket_size")
"""Settings that are handed on to DeepSpeed: how many numbers one message has."""
_UNSAID = (None, "auto", "none")
_REASON = (
    "ZeRO-3's own way of spreading takes weights out of modules, where adapters, previews and files find them, and "
    "fetches them in the order of the pass before, which changes where adapters take turns"
)

Key = tuple[str, ...]


@dataclass(frozen=True)
class Zero:
    """What of DeepSpeed is engaged: stage 1 or 2, over what learns. `asked` is the stage that was asked for.

    `buckets` are sizes of its messages in numbers, `unheard` the settings without a say, `offload` where its JSON wants
    the optimizer's state ("" where it does not say).
    """

    stage: int
    asked: int
    buckets: Mapping[str, int]
    unheard: Sequence[str] = ()
    offload: str = ""

    @property
    def told(self) -> list[str]:
        """In words, what is done otherwise than DeepSpeed's settings sound."""
        lines = []
        if self.asked == 3:
            lines.append(
                f"ZeRO-3 is done by FSDP2 for the frozen base, by ZeRO-{self.stage} for what learns: {_REASON}"
            )
        if self.unheard:
            lines.append(f"settings of DeepSpeed that have no say here: {', '.join(self.unheard)}")
        return lines


def asked_zero(options: TrainOptions, *, draws_only: bool = False) -> Zero | None:
    """DeepSpeed as the launcher asks for it, or else the recipe; None where nobody does.

    The launcher's switch is taken out of the environment: it would let accelerate prepare DeepSpeed's own engine around
    whole networks, which knows of no adapters. Raises RunError with everything that contradicts the recipe, and where
    the package is not installed.
    """
    if os.environ.get(_USE, "false").lower() != "true":
        return None if draws_only or not options.zero else _checked(Zero(options.zero, options.zero, {}), options)
    if draws_only:
        raise RunError(Problem("drawing has no use for DeepSpeed", found="--use_deepspeed", do="leave it out"))
    file = os.environ.get(_FILE, "none")
    settings = {} if file == "none" else _flat(_read(Path(file)))
    where = "the launcher's words" if file == "none" else file
    stage = _stage(settings, file)
    problems = Problems(RunError)
    if options.zero not in (0, min(stage, 2)):
        what, do = "recipe and launcher ask for different stages of ZeRO", "leave one of them out"
        problems.add(what, found=f"ZeRO-{stage}", allowed=f"train.zero = {options.zero}", where=where, do=do)
    for path, value, source in (*_said_by_file(settings, file), *_said_by_words()):
        _compare(path, value, options, problems, source)
    problems.raise_if_any()
    buckets = {name: settings[path] for name in BUCKETS if _number(settings.get(path := ("zero_optimization", name)))}
    offload = next((v for p, v, _ in (*_said_by_file(settings, file), *_said_by_words()) if p == _OFFLOAD), "")
    found = Zero(min(stage, 2), stage, buckets, _unheard(settings), offload if offload not in _UNSAID else "")
    for name in (_USE, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"):  # "auto" in the second is a number to accelerate
        os.environ.pop(name, None)
    return _checked(found, options)


def _checked(zero: Zero, options: TrainOptions) -> Zero:
    if options.optimizer not in OPTIMIZERS:
        what = "ZeRO cuts all parameters into equal parts, which this optimizer's step depends on"
        allowed, do = ", ".join(OPTIMIZERS), "change train.optimizer, or train without DeepSpeed"
        raise RunError(Problem(what, found=f"train.optimizer = {options.optimizer!r}", allowed=allowed, do=do))
    if find_spec("deepspeed") is None:
        what, do = "DeepSpeed is asked for and not installed", "pip install 'cinelora[deepspeed]'"
        raise RunError(Problem(what, found="no package deepspeed", do=do))
    return zero


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what, do = "DeepSpeed's configuration file cannot be read", "correct --deepspeed_config_file"
        raise RunError(Problem(what, found=f"{type(error).__name__}: {error}", where=str(file), do=do)) from error
    if not isinstance(found, dict):
        what, do = "DeepSpeed's configuration file is no table", "correct --deepspeed_config_file"
        raise RunError(Problem(what, found=type(found).__name__, allowed="{ ... }", where=str(file), do=do))
    return found


def _flat(table: Mapping[str, Any], prefix: Key = ()) -> dict[Key, Any]:
    found: dict[Key, Any] = {}
    for key, value in table.items():
        found |= _flat(value, (*prefix, key)) if isinstance(value, Mapping) else {(*prefix, key): value}
    return found


def _stage(settings: Mapping[Key, Any], file: str) -> int:
    """The stage of the file, or of the words; 2 where neither says, as accelerate has it."""
    word = os.environ.get(_STAGE)
    own = settings.get(("zero_optimization", "stage"), 0) if file != "none" else (word or 2)
    try:
        stage, words = int(own), int(word) if word else None
    except (TypeError, ValueError):
        stage, words = -1, None
    if words is not None and stage != words:
        what, do = "DeepSpeed's file and the launcher's --zero_stage differ", "leave one of them out"
        raise RunError(Problem(what, found=f"stage {own} in the file, --zero_stage {word}", where=file, do=do))
    if stage not in (1, 2, 3):
        what, do = "DeepSpeed is to spread nothing, or by a stage that is unknown", "leave --use_deepspeed out"
        raise RunError(Problem(what, found=f"stage {own!r}", allowed="1, 2, 3", where=file, do=do))
    return stage


Said = Iterator[tuple[Key, Any, str]]


def _said_by_file(settings: Mapping[Key, Any], file: str) -> Said:
    yield from ((path, value, file) for path, value in settings.items())


def _said_by_words() -> Said:
    for name, path in _WORDS.items():
        value = os.environ.get(name)
        # accelerate's own default: a launcher that was told nothing may say it.
        if value is not None and not (path == ("gradient_accumulation_steps",) and value == "1"):
            yield path, _typed(value), f"--{path[-1] if len(path) < 3 else f'{path[1]}_{path[2]}'}"


def _typed(word: str) -> Any:
    try:
        return float(word)
    except ValueError:
        return word


_FORMATS: tuple[Key, ...] = (("bf16", "enabled"), ("fp16", "enabled"))
_OFFLOAD = ("zero_optimization", "offload_optimizer", "device")
_OFFLOAD_PARAM = ("zero_optimization", "offload_param", "device")


def _wanted(options: TrainOptions) -> dict[Key, tuple[str, Any]]:
    """Each setting that the recipe has a word for: its name there, its value."""
    micros = options.micro_size * options.accumulation * int(os.environ.get("WORLD_SIZE", "1"))
    rules: dict[Key, tuple[str, Any]] = {
        ("gradient_clipping",): ("train.clip_norm", options.clip_norm),
        ("train_micro_batch_size_per_gpu",): ("train.micro_size", options.micro_size),
        ("gradient_accumulation_steps",): ("train.accumulation", options.accumulation),
        ("train_batch_size",): ("train.micro_size x train.accumulation x GPUs", micros),
        ("optimizer", "type"): ("train.optimizer", options.optimizer),
    }
    for name in ("lr", "eps", "weight_decay", "betas"):
        value = getattr(options, name)
        rules["optimizer", "params", name] = f"train.{name}", list(value) if name == "betas" else value
    return rules


def _compare(path: Key, value: Any, options: TrainOptions, problems: Problems, source: str) -> None:
    """Add a problem where a setting says otherwise than the recipe, or asks for what is not done."""
    name, where = ".".join(path), source
    if value in _UNSAID:
        return
    if path in _FORMATS:
        if bool(value) != (options.precision == path[0]):
            do = f"set train.precision, or {name}"
            found = f"{name} = {str(value).lower()}"
            allowed = f"train.precision = {options.precision!r}"
            problems.add("DeepSpeed's settings contradict the recipe", found=found, allowed=allowed, where=where, do=do)
    elif path[0] == "scheduler" and path[1:] == ("type",):
        do = "remove it there; set train.schedule and train.warmup_steps"
        problems.add("rates are those of the recipe", found=f"{name} = {value!r}", where=where, do=do)
    elif path == _OFFLOAD_PARAM or (path == _OFFLOAD and value != "cpu"):
        do = 'set memory.base = "streamed", which keeps the frozen base in main memory, without DeepSpeed'
        problems.add("DeepSpeed's offloading of this is not done here", found=f"{name} = {value}", where=where, do=do)
    elif (rule := _wanted(options).get(path)) and not _same(value, rule[1]):
        do = f'let {name} be "auto", or set {rule[0]}'
        found, allowed = f"{name} = {value}", f"{rule[0]} = {rule[1]}"
        problems.add("DeepSpeed's settings contradict the recipe", found=found, allowed=allowed, where=where, do=do)


def _same(value: Any, own: Any) -> bool:
    return value.lower() == own.lower() if isinstance(value, str) and isinstance(own, str) else value == own


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unheard(settings: Mapping[Key, Any]) -> list[str]:
    """Settings that are neither compared nor handed on."""
    heard = {*_wanted(TrainOptions()), _OFFLOAD, _OFFLOAD_PARAM, ("zero_optimization", "stage")}
    heard |= {*_FORMATS, *(("zero_optimization", name) for name in BUCKETS)}
    return [".".join(path) for path in settings if path not in heard]

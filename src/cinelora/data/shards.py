"""Owns recipes whose sources are shards: which those are, what they may ask for, and what becomes of one sample.

In: the options, the recipe's folder, the variant's geometry. Out: `Shards`, which reads samples and looks at them as
the plan looks at records. All is decided sample by sample, since nobody knows what comes next in a stream.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cinelora.base.errors import DataError, Problems, RecipeError
from cinelora.base.files import sha256_text
from cinelora.base.seeds import seed_of
from cinelora.contracts.flow import LeftOut, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.buckets import check_options
from cinelora.data.clips import mask_problems
from cinelora.data.facts import measure_all
from cinelora.data.fate import Fate, fate_of, told
from cinelora.data.options import ClipRules, DataOptions, SourceOptions
from cinelora.data.readers.registry import check_source, open_reader
from cinelora.data.readers.webdataset import Sample, ShardReader, Shelter, Wanted, recognises, shards_of
from cinelora.data.rules import rules_by_source, source_names

_SEEDS = 1 << 63
READER = "webdataset"


@dataclass(frozen=True)
class Shard:
    """One tar file: its source's name, options and rules."""

    path: Path
    source: str
    options: SourceOptions
    rules: ClipRules

    @property
    def name(self) -> str:
        """Unique in the run."""
        return f"{self.source}/{self.path.name}"


@dataclass(frozen=True)
class Looked:
    """What becomes of a sample: its fate as in any plan, and its slots, each as often as an epoch shows it.

    `fatal` says whether the recipe wants the run to stop for what is wrong with it.
    """

    fate: Fate
    slots: tuple[Slot, ...]
    fatal: bool


def is_streamed(options: DataOptions, folder: Path) -> bool:
    """True where a source of the recipe is shards."""
    return any(_is_shards(source, folder) for source in options.source)


def _is_shards(source: SourceOptions, folder: Path) -> bool:
    return source.reader == READER or (source.reader == "auto" and recognises(_path(source, folder)))


def _path(source: SourceOptions, folder: Path) -> Path:
    return folder / Path(source.path).expanduser()


def check_stream(options: DataOptions, folder: Path, *, epochs: float | None) -> None:
    """Raise RecipeError with everything that a recipe of shards asks for and a stream cannot give."""
    problems = Problems(RecipeError)
    names = source_names(options)
    others = [name for name, source in zip(names, options.source, strict=True) if not _is_shards(source, folder)]
    if others:
        what = "a recipe streams all of its sources or none: a stream has no length to weigh the others against"
        do = "pack these into shards too, or train on them in a recipe of their own"
        problems.add(what, found=f"no shards: {', '.join(others)}", where="data.source", do=do)
    if options.cache != "off":
        what = "shards are streamed, since they may be larger than the disk, so nothing of them is cached"
        problems.add(what, found=f"cache = '{options.cache}'", where="data.cache", do='set data.cache = "off"')
    if epochs is not None:
        what = "how long an epoch of a stream is, nobody knows ahead"
        problems.add(what, found=f"epochs = {epochs:g}", where="train.epochs", do="set train.steps in its place")
    if options.buckets == "videox" and options.videox.keep_all_node_same_token_length:
        what = "ranks that read streams of their own cannot agree on one bucket"
        where = "data.videox.keep_all_node_same_token_length"
        problems.add(what, found="keep_all_node_same_token_length = true", where=where, do="set it to false")
    if options.show != "clips":
        what, do = "a stream is read for its clips, and this run is shown none", "name captions or pictures themselves"
        problems.add(what, found=f"data.show = '{options.show}' and shards", where="data.show", do=do)
    if options.small_buckets == "borrow":
        what, where = "a stream knows no other clips to borrow from", "data.small_buckets"
        problems.add(what, found="small_buckets = 'borrow'", allowed="partial or repeat", where=where)
    for number, source in enumerate(options.source):
        suffix = source.mask_suffix
        if suffix and (not suffix.startswith(".") or "/" in suffix):
            what = "a mask in a shard is a file of its sample, whose name goes on after a dot"
            where, do = f"data.source.{number}.mask_suffix", "name masks KEY.mask.png and set mask_suffix = '.mask'"
            problems.add(what, found=repr(suffix), allowed="such as '.mask'", where=where, do=do)
        if source.track_suffix:
            what, where = "shards cannot have tracks", f"data.source.{number}.track_suffix"
            problems.add(what, found=repr(source.track_suffix), where=where, do="unpack them into a folder")
    problems.raise_if_any()


class Shards:
    """All shards of a recipe, in the order of its sources and of their names."""

    def __init__(self, options: DataOptions, folder: Path, geometry: Geometry, *, seed: int):
        """Raises RecipeError for rules that the variant cannot take, DataError for sources without shards."""
        check_options(options, geometry)
        self.options, self.geometry, self.seed = options, geometry, seed
        self.folder, self.shelter = folder, Shelter()
        rules = rules_by_source(options)
        self.all: list[Shard] = []
        problems = Problems(DataError)
        for name, source in zip(source_names(options), options.source, strict=True):
            path = _path(source, folder)
            # An epoch visits the shards of a source as often as it repeats: that mixes better than clips twice in turn.
            once = source.model_copy(update={"repeats": 1})
            try:
                self.all += [Shard(one, name, once, rules[name]) for one in _listed(path, name)]
            except DataError as error:
                problems.found += error.problems
        problems.raise_if_any()

    def check_sources(self) -> None:
        """See that no source sets what shards do not read, and say how each is read. Raises DataError with all."""
        problems = Problems(DataError)
        for name, source in zip(source_names(self.options), self.options.source, strict=True):
            try:
                open_reader(_path(source, self.folder), name, source, base=self.folder)
            except DataError as error:
                problems.found += error.problems
        problems.raise_if_any()

    @cached_property
    def sizes(self) -> list[int]:
        """Bytes of each shard."""
        return [shard.path.stat().st_size for shard in self.all]

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the options, and with the names and sizes of shards."""
        named = [(shard.name, size) for shard, size in zip(self.all, self.sizes, strict=True)]
        return sha256_text(*named, self.options.model_dump_json(), self.geometry, self.seed)

    def samples(self, shard: Shard, wanted: Wanted = lambda place, key: True) -> Iterator[Sample]:
        """Read one shard; the files of samples that are not wanted are passed over."""
        return ShardReader(shard.path, shard.source, shard.options, self.shelter).samples(wanted)

    def is_held_out(self, shard: Shard, key: str) -> bool:
        """True for clips that are kept apart from training: the hash of (seed, key) lies in the lowest share.

        The plan's rule for records whose number is known takes the lowest so many.
        """
        share = self.options.held_out if shard.options.held_out else 0.0
        return seed_of(self.seed, "held out", key) < share * _SEEDS

    def look(self, entry: Record | LeftOut, rules: ClipRules) -> Looked:
        """Measure a sample and give it its buckets; what is wrong with it points to its place in the shard."""
        if isinstance(entry, LeftOut):
            fate = fate_of(entry, None, rules, self.geometry, seed=self.seed)
            return Looked(fate, (), fatal=self.options.on_bad == "stop")
        facts = next(measure_all([entry], seconds=self.options.seconds_per_file, num_threads=1))
        fate = fate_of(entry, facts, rules, self.geometry, seed=self.seed)
        if entry.mask is not None and fate.slots:
            fate = self._seen_with_mask(fate, rules)
        # The temporary file is of no use to anyone.
        fate = replace(fate, problems=tuple(replace(problem, where=entry.where) for problem in fate.problems))
        stops = rules.short == "stop" if fate.is_short else self.options.on_bad == "stop"
        shown = tuple(slot for slot in fate.slots for _ in range(entry.repeats))
        return Looked(fate, shown, fatal=bool(fate.problems) and stops)

    def _seen_with_mask(self, fate: Fate, rules: ClipRules) -> Fate:
        """The fate of a sample once its mask is decoded: in the loop it would be too late to leave the clip out."""
        wrong = mask_problems(fate.slots, rules, self.geometry, seed=self.seed)
        if not wrong:
            return fate
        row = replace(fate.row, status="left out", reason="; ".join(map(told, wrong)), bucket="", buckets=(), notes=())
        return Fate(replace(row, num_slots=0, frames_used=0, frames_lost=row.frames), problems=wrong)


def _listed(path: Path, name: str) -> Sequence[Path]:
    check_source(path, name)
    return shards_of(path)

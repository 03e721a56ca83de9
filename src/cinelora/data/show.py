"""Owns what `data.show` leaves without effect: of captions or pictures alone, most of [data] has nothing to say.

In: the options. Out: problems, one for each option that is set and that nothing would read. Imports no torch.
"""

from collections.abc import Iterator

from cinelora.base.errors import Problems
from cinelora.data.options import ClipRules, DataOptions, SourceOptions

_OF_MOTION = ("fps", "stride", "stride_min", "slide_frames", "short", "compat")
"""Rules about frames after the first one, and those of scripts that show whole clips."""
_OF_PIXELS = ("upscale", "crop", "resample", "clip", "drop_start", "drop_end", "skip_frames_start", "skip_frames_end")
_RULES = {"captions": (*_OF_MOTION, *_OF_PIXELS), "pictures": _OF_MOTION}
_OF_MEDIA = ("media_root", "path_column", "video_repeats", "mask_suffix")
_OF_SOURCE = {"captions": _OF_MEDIA, "pictures": ("mask_suffix",)}
_OF_ALL = {"captions": ("seconds_per_file",), "pictures": ()}
_ONE_MOMENT = ("head", "middle", "random")


def check_show(options: DataOptions, own_frames: int, problems: Problems) -> None:
    """Note what is set although `data.show` takes its effect away; `own_frames` is the length of the model's own clips.

    What the rules of a source have from [data] is not held against them.
    """
    for number, source in enumerate(options.source):
        if source.reader == "captions" and options.show != "captions":
            where, do = f"data.source.{number}.reader", "set data.show = 'captions', or choose another reader"
            problems.add("a list of captions has no clips", found=f"show = '{options.show}'", where=where, do=do)
    if options.show == "clips":
        return
    for place, value in _dead(options):
        what, do = f"{place} has no effect in this run", f"remove {place.rpartition('.')[2]}, or change data.show"
        problems.add(what, found=f"{value!r}, with data.show = '{options.show}'", where=place, do=do)
    for place, rules in _all_rules(options):
        _check_rules(rules, place, options.show, own_frames, problems)
    if options.small_buckets == "borrow":
        what, where = "no clip can be cut for another bucket where none is shown", "data.small_buckets"
        problems.add(what, found="small_buckets = 'borrow'", allowed="partial or repeat", where=where)


def _all_rules(options: DataOptions) -> Iterator[tuple[str, ClipRules]]:
    """[data] itself, and the rules of single sources, with their places."""
    yield "data", options
    for number, source in enumerate(options.source):
        if source.rules:
            yield f"data.source.{number}.rules", source.rules


def _dead(options: DataOptions) -> Iterator[tuple[str, object]]:
    """Places and values of options that say something about what is not shown."""
    for name in (*_OF_ALL[options.show], *_RULES[options.show]):
        if getattr(options, name) != DataOptions.model_fields[name].default:
            yield f"data.{name}", getattr(options, name)
    for number, source in enumerate(options.source):
        for name in _OF_SOURCE[options.show]:
            if getattr(source, name) != SourceOptions.model_fields[name].default:
                yield f"data.source.{number}.{name}", getattr(source, name)
        for name in _RULES[options.show] if source.rules else ():
            if getattr(source.rules, name) != getattr(options, name):
                yield f"data.source.{number}.rules.{name}", getattr(source.rules, name)


def _check_rules(rules: ClipRules, place: str, show: str, own_frames: int, problems: Problems) -> None:
    if rules.buckets == "videox":
        what, where = "the rules of EasyAnimate go by what clips are, and none is shown", f"{place}.buckets"
        problems.add(what, found=f"buckets = 'videox', show = '{show}'", allowed="grid or single", where=where)
    if show != "pictures":
        return
    if rules.clip not in _ONE_MOMENT:
        what, found = "one picture of each video is shown, from which a clip starts", f"clip = '{rules.clip}'"
        problems.add(what, found=found, allowed=", ".join(_ONE_MOMENT), where=f"{place}.clip")
    if 1 in (rules.frames or [own_frames]):
        what, do = "a clip of one frame would be the very picture that it starts from", "list longer ones"
        problems.add(what, found=f"frames = {rules.frames or [own_frames]}", where=f"{place}.frames", do=do)

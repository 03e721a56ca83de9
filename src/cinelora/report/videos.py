"""Owns videos on the page: which are carried inside it, which are played from beside it.

In: the run's sample sets and a limit in megabytes. Out: `Markup` of players, before and after side by side.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cinelora.report.markup import Markup, tag
from cinelora.report.run_folder import Run, SampleSet

MB = 1_000_000


@dataclass(frozen=True)
class Carried:
    """Which files go into the page, and how many do not."""

    inside: frozenset[Path]
    num_beside: int


def samples_section(run: Run) -> Markup | None:
    """Every prompt with its clip before and its newest clip after; the ones between fold away. None without samples."""
    sets = [run.before, *run.after]
    numbers = sorted({number for one in sets for number in one.files})
    if not numbers:
        return None
    carried = choose(run, run.options.embed_videos_mb * MB)
    cards = [_card(run, number, carried) for number in numbers]
    note = None
    if carried.num_beside:
        note = tag(
            "p",
            f"{carried.num_beside} videos are beyond report.embed_videos_mb = {run.options.embed_videos_mb:g} and are "
            "played from the folder samples beside this page.",
            class_="quiet",
        )
    return tag("section", tag("h2", "Samples"), _lead(run), note, tag("div", *cards, class_="cards"), id="samples")


def choose(run: Run, limit_bytes: float) -> Carried:
    """Carry the newest and the untrained clips first, then those between, newest first, while they fit."""
    ranked = [*run.after[-1:], run.before, *reversed(run.after[:-1])]
    files = [path for one in _by_prompt(ranked[:2]) + [list(s.files.values()) for s in ranked[2:]] for path in one]
    inside, spent = set(), 0.0
    for path in files:
        size = path.stat().st_size * 4 / 3
        if spent + size <= limit_bytes:
            spent += size
            inside.add(path)
    return Carried(frozenset(inside), len(files) - len(inside))


def _by_prompt(sets: Sequence[SampleSet]) -> list[list[Path]]:
    numbers = sorted({number for one in sets for number in one.files})
    return [[one.files[number] for one in sets if number in one.files] for number in numbers]


def _lead(run: Run) -> Markup:
    if not run.before.files:
        said = "Clips from the adapter. The untrained base was not sampled, so there is nothing to compare with."
    elif not run.after:
        said = "Clips from the untrained base; the adapter has not been sampled yet."
    else:
        said = "Same prompt, same noise: the untrained base on the left, with the adapter on the right."
    return tag("p", said, class_="lead")


def _card(run: Run, number: int, carried: Carried) -> Markup:
    prompt = _asked(run, number)
    newest = run.after[-1] if run.after else None
    pair = tag(
        "div",
        _slot(run, run.before.files, number, carried, title="before", prompt=prompt),
        _slot(run, newest.files if newest else {}, number, carried, title=_title(newest), prompt=prompt),
        class_="pair",
    )
    between = [one for one in run.after[:-1] if number in one.files]
    strip = tag(
        "details",
        tag("summary", f"{len(between)} in between"),
        tag(
            "div",
            *(_slot(run, one.files, number, carried, title=_title(one), prompt=prompt) for one in between),
            class_="strip",
        ),
    )
    return tag("article", pair, tag("p", prompt, class_="prompt"), strip if between else None, class_="card")


def _asked(run: Run, number: int) -> str:
    """The prompt of a clip, with its seed where several clips have the same prompt."""
    if number >= len(run.prompts):
        return f"clip {number} (its prompt is not written down)"
    prompt = run.prompts[number]
    alone = sum(one.text == prompt.text for one in run.prompts) == 1
    return prompt.text if alone or prompt.seed is None else f"{prompt.text} (seed {prompt.seed})"


def _title(one: SampleSet | None) -> str:
    return "after" if one is None else f"after {one.step:,} steps"


def _slot(run: Run, files: Mapping[int, Path], number: int, carried: Carried, **words: str) -> Markup:
    path = files.get(number)
    if path is None:
        return tag("div", tag("div", "not sampled", class_="empty"), tag("span", words["title"]), class_="slot")
    return tag("div", _player(run, path, carried, **words), tag("span", words["title"]), class_="slot")


def _player(run: Run, path: Path, carried: Carried, *, title: str, prompt: str) -> Markup:
    if path in carried.inside:
        source = "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
    else:
        source = path.relative_to(run.folder).as_posix()
    return tag(
        "video",
        src=source,
        autoplay=True,
        loop=True,
        muted=True,
        playsinline=True,
        controls=True,
        preload="metadata",
        aria_label=f"{title}: {prompt}",
    )

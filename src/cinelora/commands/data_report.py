"""Owns the way from a plan to the page of its dataset: look into every clip, count tokens, gather what is to be done.

In: a loaded recipe, its listing and plan. Out: report.html, problems.csv and clips.json in a folder. No weight is read.
"""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cinelora.base.errors import CineloraError, Problem
from cinelora.base.files import whole_folder
from cinelora.commands.clips import encoder_of
from cinelora.config.load import Loaded
from cinelora.contracts.flow import Record
from cinelora.contracts.roles import CountsTokens
from cinelora.data.facts import place_of
from cinelora.data.plan import Plan, stopping
from cinelora.data.scan import ClipScan, Keep, scan_clips
from cinelora.data.sources import Listing
from cinelora.data.worklist import tasks_of
from cinelora.report.data_page import DataFacts, write_data_page

MOST_INSIDE = 1000
"""Clips whose pictures lie in the page itself; with more of them, pictures are files beside it."""


@dataclass(frozen=True)
class Tokens:
    """How many tokens each clip's captions have, by its key; `limit` of them are read. `reason` why none are known."""

    counts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    limit: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Written:
    """The page, the list to work through, and what only the full look found to be wrong."""

    page: Path
    problems_csv: Path
    problems: tuple[Problem, ...]
    num_warnings: int


def write_report(loaded: Loaded, listing: Listing, plan: Plan, folder: Path) -> Written:
    """Look into every clip and write the page. Raises RunError for a folder that cannot be written."""
    records = listing.records
    with _strips(folder, len(records)) as keep:
        slots = [*plan.slots, *plan.held_out]
        seed = loaded.recipe.train.seed
        scans = scan_clips(records, slots, loaded.recipe.data, loaded.variant.geometry, keep=keep, seed=seed)
    tokens = count_tokens(loaded, records)
    entries = _entries(plan, records, scans, tokens)
    if not loaded.variant.reads_text:
        entries = [{**one, "captions": []} for one in entries]  # that there are none is worth no word
    notes = [f"tokens not counted: {tokens.reason}"] if tokens.reason else []
    vague = sum(scan.cuts is None for scan in scans)
    if vague:
        notes.append(f"in {vague} large clips cuts were not looked for: only keyframes or the beginning were decoded")
    dataset = DataFacts(
        name=loaded.name,
        model=_model(loaded),
        entries=entries,
        token_limit=tokens.limit,
        stops=loaded.recipe.data.on_bad == "stop" or bool(stopping(plan.problems, loaded.recipe.data)),
        warnings=plan.warnings,
        notes=notes,
    )
    page = write_data_page(folder, dataset)
    out = {row.key for row in plan.rows if row.status == "left out"}
    found = tuple(problem for scan in scans if scan.key not in out for problem in scan.problems)
    warnings = sum(task["kind"] == "warning" for entry in entries for task in entry["tasks"])
    return Written(page, folder / "problems.csv", found, warnings)


def count_tokens(loaded: Loaded, records: Sequence[Record]) -> Tokens:
    """Ask the family's text encoder; its tokenizer is read, its weights are not."""
    if not loaded.variant.reads_text:
        return Tokens()
    captions = {record.key: (record.caption, *record.more_captions) for record in records}
    every = sorted({text for texts in captions.values() for text in texts})
    tower = next((one for one in encoder_of(loaded).towers() if isinstance(one, CountsTokens)), None)
    if tower is None:
        return Tokens(reason=f"the text encoder of {loaded.family.name} has no tokens to count")
    try:
        counts = dict(zip(every, tower.tokens(every), strict=True))
    except CineloraError as error:
        return Tokens(reason="; ".join(": ".join(filter(None, (p.what, p.found))) for p in error.problems))
    return Tokens({key: tuple(counts[text] for text in texts) for key, texts in captions.items()}, tower.max_tokens)


@contextmanager
def _strips(folder: Path, count: int) -> Iterator[Keep]:
    """Where pictures go: into the page, or, of many clips, into files that stand there once all are written."""
    files = whole_folder(folder / "strips") if count > MOST_INSIDE else nullcontext(None)
    with files as place:
        written = 0

        def keep(key: str, image: bytes) -> str:
            nonlocal written
            if place is None:
                return "data:image/webp;base64," + base64.b64encode(image).decode()
            written += 1
            (place / f"{written:06d}.webp").write_bytes(image)
            return f"strips/{written:06d}.webp"

        yield keep


def _entries(plan: Plan, records: Sequence[Record], scans: Sequence[ClipScan], tokens: Tokens) -> list[dict[str, Any]]:
    """One table a row of the plan: what it says, what was seen, captions, tasks."""
    by_key = {record.key: record for record in records}
    seen = {scan.key: scan for scan in scans}
    tasks: dict[str, list[dict[str, Any]]] = {}
    for task in tasks_of(plan, scans, tokens=tokens.counts, limit=tokens.limit):
        place = place_of(by_key[task.key]) if task.key in by_key else task.file
        tasks.setdefault(task.key, []).append(asdict(replace(task, file=place)))
    entries = []
    for row in plan.rows:
        record = by_key.get(row.key)
        looks = asdict(replace(seen[row.key], problems=())) if row.key in seen else {}
        captions = [record.caption, *record.more_captions] if record else []
        entries.append(
            {
                **asdict(row),
                **{name: value for name, value in looks.items() if name != "problems"},
                "captions": captions,
                "tokens": list(tokens.counts.get(row.key, ())),
                "tasks": tasks.pop(row.key, []),
            }
        )
    return entries


def _model(loaded: Loaded) -> str:
    geometry = loaded.variant.geometry
    size = f"{geometry.frames} frames of {geometry.height} × {geometry.width} at {geometry.fps:g} fps"
    return f"for {loaded.family.name}/{loaded.variant.name}, whose own clips are {size}"

"""Owns `report.html`: one page of a run, with all it needs inside.

In: a run folder (`run_folder.py` reads it). Out: the page's path. What every page has stands in `shell.py`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from cinelora.base.files import write_text
from cinelora.report.clips import data_section
from cinelora.report.curves import Chart, Point, Series, figure, number
from cinelora.report.history import History, history, smoothed, verdict
from cinelora.report.markup import Markup, tag
from cinelora.report.outcome import files_section, recipe_section
from cinelora.report.rows import HELD_OUT, LEFT_OUT, USED
from cinelora.report.run_folder import Run, read_run
from cinelora.report.scores import measured_verdict, scores_section
from cinelora.report.shell import document, duration, notes_section, tile
from cinelora.report.videos import samples_section

TONES = {"finished": "good", "stopped": "warn", "unfinished": "info", "not started": "plain"}
EXPLAINED = {
    "unfinished": "The run has not told its end: it is still going, or it was broken off.",
    "not started": "The run has not told of any step yet.",
}


def write_page(run: Path) -> Path:
    """Write `report.html` into a run folder, whole or not at all, and return its path.

    Raises RunError where the folder is none or a file of it is damaged, RecipeError for a [report] that cannot be.
    """
    page = run / "report.html"
    write_text(page, page_text(read_run(run)))
    return page


def page_text(run: Run) -> str:
    """The page of a run, as HTML."""
    so_far = history(run.events, num_steps=_recipe_steps(run))
    return document(
        run.name,
        _header(run, so_far),
        scores_section(run.demo, run.folder),
        samples_section(run),
        _curves_section(so_far),
        data_section(run.rows),
        files_section(run),
        recipe_section(run),
        notes_section([*run.notes, *so_far.notes]),
    )


def _header(run: Run, so_far: History) -> Markup:
    return tag(
        "header",
        tag(
            "div",
            tag("span", "cinelora run", class_="over"),
            tag("span", so_far.status, class_="pill " + TONES[so_far.status]),
            class_="top",
        ),
        tag("h1", run.name),
        tag("p", trained(run, so_far), class_="trained"),
        tag("p", EXPLAINED[so_far.status], class_="quiet") if so_far.status in EXPLAINED else None,
        tag("p", measured_verdict(run.demo) or verdict(so_far), class_="verdict")
        if so_far.status != "not started"
        else None,
        _tiles(run, so_far),
    )


def trained(run: Run, so_far: History) -> str:
    """What was trained, in a line: family, variant, rank, clips, as far as the run tells it."""
    facts = {**_section(run, "model"), **so_far.facts}
    name = "/".join(str(facts[word]) for word in ("family", "variant") if facts.get(word))
    said = f"LoRA for {name}" if name else "LoRA"
    rank = _section(run, "lora").get("rank", so_far.facts.get("rank"))
    parts = [said, f"rank {rank}" if rank is not None else ""]
    count = so_far.facts.get("trained_parameters")
    parts.append(f"{count:,} trained parameters" if isinstance(count, int) else "")
    used = sum(row.status == USED for row in run.rows)
    parts.append(f"{used:,} clip{'s' * (used != 1)}" if used else "")
    return ", ".join(part for part in parts if part)


def _tiles(run: Run, so_far: History) -> Markup | None:
    loss, speed = so_far.curves["loss"], [value for _, value in so_far.curves["clips_per_second"]]
    waiting, copying, tokens, mfu = (
        [value for _, value in so_far.curves[name]]
        for name in ("data_wait_share", "transfer_wait_share", "tokens_per_second", "mfu")
    )
    of = f"of {so_far.num_steps:,}" if so_far.num_steps else ""
    tiles = (
        [tile("steps", f"{so_far.step:,}", of), tile("time", duration(so_far.seconds), "pauses left out")]
        if run.events
        else []
    )
    if so_far.best is not None:
        tiles.append(tile("held-out loss, best", number(so_far.best.loss), f"step {so_far.best.step:,}"))
    if loss:
        tiles.append(tile("training loss, last", number(smoothed(loss)[0][-1][1]), "smoothed"))
    if speed:
        share = f", {median(waiting):.0%} waiting for data" if waiting and median(waiting) >= 0.005 else ""
        share += f", {median(copying):.0%} for copies" if copying and median(copying) >= 0.005 else ""
        tiles.append(tile("clips per second", number(float(f"{median(speed):.3g}")), "median step" + share))
    if tokens:
        under = f"{median(mfu):.0%} of the GPU's peak (MFU)" if mfu else "median step"
        tiles.append(tile("tokens per second", f"{median(tokens):,.0f}", under))
    if run.rows:
        counts = {status: sum(row.status == status for row in run.rows) for status in (USED, HELD_OUT, LEFT_OUT)}
        under = ", ".join(f"{counts[status]:,} {status}" for status in (HELD_OUT, LEFT_OUT) if counts[status])
        tiles.append(tile("clips used", f"{counts[USED]:,}", under))
    return tag("dl", *tiles, class_="tiles") if tiles else None


def _curves_section(so_far: History) -> Markup | None:
    if not (so_far.curves["loss"] or so_far.held_out):
        return None
    last = max(so_far.step, max((one.step for one in so_far.held_out), default=0))
    best = so_far.best
    held = Series("held out", [(one.step, one.loss) for one in so_far.held_out], "held", dots=True)
    series = [*_calmed(so_far.curves["loss"], "smooth", name="training, "), held]
    marker = (best.step, best.loss, f"best {number(best.loss)}") if best and len(so_far.held_out) > 1 else None
    others, norm = so_far.others.items(), _calmed(so_far.curves["grad_norm"], "plain")
    charts = [Chart(f"Loss, {name}", _calmed(curves["loss"], "smooth"), last) for name, curves in others]
    charts += [Chart("Learning rate", _rates(so_far), last)]
    charts += [Chart(f"Gradient norm, {so_far.player}" if so_far.player else "Gradient norm", norm, last)]
    charts += [Chart(f"Gradient norm, {name}", _calmed(curves["grad_norm"], "plain"), last) for name, curves in others]
    small = [figure(replace(chart, small=True)) for chart in charts]
    return tag(
        "section",
        tag("h2", "Curves"),
        figure(Chart(f"Loss, {so_far.player}" if so_far.player else "Loss", series, last, marker=marker)),
        tag("div", *small, class_="charts"),
        _quantiles(so_far),
        id="curves",
    )


def _rates(so_far: History) -> list[Series]:
    """The learning rate of each player."""
    first = Series(so_far.player or "learning rate", so_far.curves["lr"])
    looks = ("held", "smooth", "raw")
    return [
        first,
        *(Series(name, curves["lr"], looks[k % 3]) for k, (name, curves) in enumerate(so_far.others.items())),
    ]


def _calmed(points: Sequence[Point], look: str, *, name: str = "") -> list[Series]:
    """Each step faintly and a running mean; the steps alone where they are few."""
    calm, span = smoothed(points)
    if span == 1:
        return [Series(f"{name}each step", points, look)]
    return [Series(f"{name}each step", points, "raw"), Series(f"{name}mean of ~{span} steps", calm, look)]


def _quantiles(so_far: History) -> Markup | None:
    """Held-out loss by quantile of time, first against best; None where the run does not tell it."""
    best = so_far.best
    if best is None or not best.by_quantile or len(so_far.held_out) < 2:
        return None
    first = so_far.held_out[0]
    head = tag(
        "tr",
        tag("th", "quantile of noise"),
        *(tag("th", w, class_="n") for w in (f"step {first.step}", f"step {best.step}", "change")),
    )
    rows = []
    for name, value in best.by_quantile.items():
        old = first.by_quantile.get(name)
        change = f"{value / old - 1:+.0%}" if old else "–"
        cells = (number(old) if old is not None else "–", number(value), change)
        rows.append(tag("tr", tag("td", name), *(tag("td", cell, class_="n") for cell in cells)))
    said = tag("summary", "Held-out loss by amount of noise")
    return tag("details", said, tag("table", tag("thead", head), tag("tbody", *rows), class_="plain"))


def _section(run: Run, name: str) -> dict:
    section = run.recipe.get(name)
    return dict(section) if isinstance(section, dict) else {}


def _recipe_steps(run: Run) -> int | None:
    steps = _section(run, "train").get("steps")
    return steps if isinstance(steps, int) and steps > 0 else None

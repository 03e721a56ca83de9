"""Owns the model card that goes to the Hub with an adapter: what it is, samples, and the lines that load it.

In: the `Run`, the family's usage lines. Out: Markdown with the Hub's front matter.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinelora.nets.usage import with_few_steps, with_folders
from cinelora.report.few_steps import few_steps
from cinelora.report.run_folder import AdapterFacts, Run

NUM_SAMPLES = 4
"""Videos that a card shows."""


def card_text(run: Run, *, repository: str, usage: str, numbers: Mapping[str, Any], base: str = "") -> str:
    """The card of a finished run on `base`.

    `usage` is a template with `numbers` and {base}, {repository}, {file}, {prompt}.
    {second_file} is that of the second expert of a run that has two.
    """
    files = _shown_files(run)
    adapter = files[0] if files else None
    facts = dict(adapter.metadata) if adapter else {**_stated(run), "base": base}
    base, samples = facts.get("base", base), shown_samples(run)
    prompt = run.prompts[0].text if run.prompts else "a prompt like the captions of the training"
    lines = [*_front(run, facts, samples, adapter), f"# {run.name}", "", _what(run, facts), ""]
    if samples:
        lines += ["## Samples", ""]
        for number, text in zip(samples, _texts(run, samples), strict=True):
            lines += [
                f'<video controls muted loop src="{Path("samples") / f"{number:02d}.mp4"}"></video>',
                "",
                text,
                "",
            ]
    few = few_steps(run.recipe)
    if few:
        usage, numbers = with_few_steps(usage, few.lines), {**numbers, "num_steps": len(few.times)}
    if usage and (adapter or run.folders):
        words = {"base": base, "repository": repository, "prompt": json.dumps(prompt)}
        words |= {"file": files[0].path.name, "second_file": files[-1].path.name} if files else {}
        usage = with_folders(usage, {one.path.name for one in run.folders})
        lines += ["## Use", "", "```python", usage.format(**{**words, **numbers}).strip(), "```", ""]
    if usage and adapter and not run.folders:
        reader = "diffusers" if adapter.layout == "diffusers" else "cinelora"
        lines += [f"The file states its own strength (alpha / rank), which {reader} applies: no scaling by hand.", ""]
    lines += ["## Training", "", *_training(run, adapter, facts), ""]
    return "\n".join(lines)


def _shown_files(run: Run) -> list[AdapterFacts]:
    """The run's last files, one of each expert, in diffusers' layout or else the first that there is."""
    last = [one for one in run.adapters if ".best." not in one.path.name]
    layouts = {one.layout for one in last}
    chosen = "diffusers" if "diffusers" in layouts else min(layouts, default="")
    return [one for one in last if one.layout == chosen]


def shown_samples(run: Run) -> dict[int, Path]:
    """The newest samples by the number of their prompt, as many as a card shows."""
    newest = run.after[-1].files if run.after else {}
    return dict(sorted(newest.items())[:NUM_SAMPLES])


def _texts(run: Run, samples: Mapping[int, Path]) -> list[str]:
    return [_plain(run.prompts[number].text) if number < len(run.prompts) else "" for number in samples]


def _plain(text: str) -> str:
    """Caption text on one line that Markdown and HTML leave alone."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("<", "&lt;").replace("`", "\\`").replace("*", "\\*")


def _front(run: Run, facts: Mapping[str, str], samples: Mapping[int, Path], adapter: AdapterFacts | None) -> list[str]:
    base = facts.get("base", "")
    drawn = run.recipe.get("preview", {})
    from_picture = any(word in facts.get("variant", "") for word in ("i2v", "-inp")) or bool(drawn.get("images"))
    # Folders are Framer's, which goes from one picture to another.
    task = "image-to-video" if from_picture or run.folders else "text-to-video"
    library = "cinelora" if adapter and adapter.layout != "diffusers" and not run.folders else "diffusers"
    tags = [task, "lora", *dict.fromkeys((library, "cinelora")), *filter(None, [facts.get("family", "")])]
    lines = ["---", f"library_name: {json.dumps(library)}", f"pipeline_tag: {json.dumps(task)}"]
    if base.count("/") == 1 and not base.startswith(("/", ".")):
        lines.append(f"base_model: {json.dumps(base)}")
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in tags)]
    if samples:
        lines.append("widget:")
        for number, text in zip(samples, _texts(run, samples), strict=True):
            lines += [f"- text: {json.dumps(text)}", "  output:", f"    url: samples/{number:02d}.mp4"]
    return [*lines, "---", ""]


def _stated(run: Run) -> dict[str, str]:
    """What the recipe says of the model, where no adapter does."""
    model = run.recipe.get("model")
    stated = model if isinstance(model, Mapping) else {}
    return {name: str(stated.get(name, "")) for name in ("family", "variant")}


def _what(run: Run, facts: Mapping[str, str]) -> str:
    model = "/".join(filter(None, (facts.get("family"), facts.get("variant"))))
    whole = [f"`{one.path.name}/`" for one in run.folders if not one.is_peft]
    if whole and not run.adapters:
        return f"Weights of {' and '.join(whole)} for {model}, trained with cinelora."
    return f"A LoRA for {model or 'a video diffusion model'}, trained with cinelora."


def _training(run: Run, adapter: AdapterFacts | None, facts: Mapping[str, str]) -> list[str]:
    used = sum(row.status == "used" for row in run.rows)
    train = run.recipe.get("train", {})
    rows = {
        "base": facts.get("base"),
        "clips": used or None,
        "steps": facts.get("steps"),
        "rank": facts.get("rank"),
        "alpha": facts.get("alpha"),
        "targets": facts.get("targets"),
        "learning rate": train.get("lr") if isinstance(train, Mapping) else None,
        "file": adapter.path.name if adapter else None,
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value is not None)]

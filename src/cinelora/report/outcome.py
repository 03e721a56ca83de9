"""Owns the last part of the page: the files that were written and how to load them, the recipe, versions, the diary.

In: the `Run` and its `History`. Out: `Markup`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from cinelora.report.events import Event
from cinelora.report.few_steps import few_steps
from cinelora.report.markup import Markup, tag
from cinelora.report.run_folder import AdapterFacts, FolderFacts, Run

MB = 1_000_000
MOST_EVENTS = 60


def files_section(run: Run) -> Markup:
    """Each adapter, and how ComfyUI, diffusers and this project load it."""
    if not run.adapters and not run.folders:
        inside: list[Markup | None] = [tag("p", "No adapter has been written yet.", class_="quiet")]
    else:
        what = "What was trained, as each reader takes it." if run.folders else "The same adapter in each layout."
        said = tag("p", f"{what} The lines below are meant for inside the run folder.", class_="lead")
        files = [*map(_folder, run.folders), *map(_file, run.adapters)]
        inside = [said, tag("div", *files, class_="files"), *(_folders(run) if run.folders else _loading(run))]
    return tag("section", tag("h2", "Files"), *inside, id="files")


def _file(one: AdapterFacts) -> Markup:
    known = [f"{name} {one.metadata[name]}" for name in ("rank", "alpha") if one.metadata.get(name)]
    if one.metadata.get("steps"):
        known.append(f"after {one.metadata['steps']} steps")
    return tag(
        "div",
        tag("b", one.path.name),
        tag("span", f"{one.layout} layout, {size(one.size_bytes)}"),
        tag("span", ", ".join(known)) if known else None,
        class_="file",
    )


def _folder(one: FolderFacts) -> Markup:
    kind = "adapter for peft" if one.is_peft else "whole weights with their configuration"
    return tag("div", tag("b", f"{one.path}/"), tag("span", f"{kind}, {size(one.size_bytes)}"), class_="file")


def _folders(run: Run) -> list[Markup]:
    """How folders are loaded by peft, and drawn with here."""
    pieces = []
    for one in run.folders:
        if one.is_peft:
            part = one.path.name.removesuffix("_lora")
            lines = ["from peft import PeftModel", f"{part} = PeftModel.from_pretrained({part}, {str(one.path)!r})"]
            pieces.append(_way("peft", "\n".join([*lines, f"{part} = {part}.merge_and_unload()"]), None))
    control = " --controlnet ." if any(one.path.name == "controlnet" for one in run.folders) else ""
    steer = " --steer tracks" if any(one.path.name.startswith("controlnet") for one in run.folders) else ""
    model = run.recipe.get("model")
    stated = model if isinstance(model, Mapping) else {}
    name = f"{stated.get('family')}/{stated.get('variant')}"
    lora = " --lora ." if any(one.is_peft for one in run.folders) else ""
    return [*pieces, _way("cinelora", f"cinelora interpolate PAIRS --model {name}{lora}{control}{steer}", None)]


def size(size_bytes: int) -> str:
    """Bytes for people."""
    return f"{size_bytes / MB:.1f} MB" if size_bytes >= MB / 10 else f"{size_bytes / 1000:.1f} kB"


def _loading(run: Run) -> list[Markup]:
    pieces = []
    prompt = run.prompts[0].text if run.prompts else "your prompt"
    for one in run.adapters:
        if one.layout == "ComfyUI":
            pieces.append(
                _way(
                    "ComfyUI", f"cp '{one.path}' ComfyUI/models/loras/", "then the node LoraLoaderModelOnly, strength 1"
                )
            )
        elif one.layout == "diffusers":
            pieces.append(_way("diffusers", _diffusers(run, one), None))
            pieces.append(_way("cinelora", f"cinelora sample '{one.path}' --prompt '{_quoted(prompt)}'", None))
    return pieces


def _diffusers(run: Run, one: AdapterFacts) -> str:
    model = run.recipe.get("model")
    stated = model if isinstance(model, Mapping) else {}
    known = {name: str(one.metadata.get(name) or stated.get(name) or "") for name in ("base", "family", "variant")}
    lines = ["from diffusers import DiffusionPipeline"]
    base = repr(known["base"] or "BASE")
    if known["base"] == "embedded" and known["family"]:
        lines.insert(0, "from importlib.resources import files")
        # Variants of one embedded base are called by its folder's name and a word more.
        folder = known["variant"].partition("-")[0]
        base = f'files("cinelora") / {"families/" + known["family"] + "/" + folder!r}'
    lines.append(f"pipe = DiffusionPipeline.from_pretrained({base})")
    more = f", {loading}" if (loading := one.metadata.get("diffusers_loading")) else ""
    lines.append(f"pipe.load_lora_weights({str(one.path.parent)!r}, weight_name={one.path.name!r}{more})")
    few = few_steps(run.recipe)
    if few:
        call = f"video = pipe(PROMPT, guidance_scale=1.0, num_inference_steps={len(few.times)}).frames[0]"
        lines += [few.lines.strip(), call]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """Safe between single quotes of a shell, on one line."""
    return " ".join(text.split()).replace("'", "'\\''")


def _way(name: str, code: str, then: str | None) -> Markup:
    return tag(
        "div",
        tag("h3", name),
        tag("pre", tag("code", code)),
        tag("p", then, class_="quiet") if then else None,
        class_="way",
    )


def recipe_section(run: Run) -> Markup | None:
    """The recipe as it was resolved, versions, and the diary, all folded; None where there is none of them."""
    pieces: list[Markup] = []
    if run.recipe_text:
        pieces.append(tag("details", tag("summary", "Recipe, every value"), tag("pre", tag("code", run.recipe_text))))
    if run.versions:
        rows = [
            tag("tr", tag("td", str(name)), tag("td", str(version), class_="n"))
            for name, version in run.versions.items()
        ]
        pieces.append(tag("details", tag("summary", "Versions"), tag("table", tag("tbody", *rows), class_="plain")))
    if run.events:
        pieces.append(tag("details", tag("summary", "Diary"), *_diary(run.events)))
    return tag("section", tag("h2", "How it was made"), *pieces, id="recipe") if pieces else None


def _diary(events: list[Event]) -> list[Markup | None]:
    loud = [event for event in events if event["kind"] not in ("step", "held_out")]
    shown = loud if len(loud) <= MOST_EVENTS else [*loud[:10], *loud[10 - MOST_EVENTS :]]
    rows = [
        tag("tr", tag("td", _when(e.get("time")), class_="when"), tag("td", tag("b", e["kind"])), tag("td", _facts(e)))
        for e in shown
    ]
    left = (
        f"{len(loud) - len(shown)} of {len(loud)} entries from the middle are left out."
        if len(shown) < len(loud)
        else None
    )
    return [tag("table", tag("tbody", *rows), class_="plain diary"), tag("p", left, class_="quiet") if left else None]


def _when(time: object) -> str:
    if not isinstance(time, int | float):
        return "–"
    return datetime.fromtimestamp(time, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _facts(event: Event) -> str:
    said = ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("kind", "time"))
    return said if len(said) <= 240 else said[:240] + " …"

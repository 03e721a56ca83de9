"""Owns the reading of a run folder for its page. In: the folder. Out: `Run`, with notes on what is not there.

A missing file is a note, since a page can be wanted at any time of a run; a damaged one is a RunError naming it.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.report.events import Event, read_events
from cinelora.report.options import ReportOptions
from cinelora.report.rows import ClipRow, read_rows


@dataclass(frozen=True)
class SampleSet:
    """Clips sampled at one time: `step` None = from the untrained base; files by the number of their prompt."""

    step: int | None
    files: Mapping[int, Path]


@dataclass(frozen=True)
class Prompt:
    """What a sampled clip was asked for; `seed` None where it is not written down."""

    text: str
    seed: int | None = None


@dataclass(frozen=True)
class AdapterFacts:
    """One written adapter: its place below the run folder, bytes, whose layout, and its header's words."""

    path: Path
    size_bytes: int
    layout: str
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class FolderFacts:
    """One folder of final/: its place below the run folder, bytes, whether it is peft's or holds whole weights."""

    path: Path
    size_bytes: int
    is_peft: bool


@dataclass(frozen=True)
class Run:
    """All that a run folder says of itself; `folders` are those of final/, of families whose tools read such."""

    folder: Path
    name: str
    recipe: Mapping[str, Any]
    recipe_text: str
    options: ReportOptions
    events: list[Event]
    rows: list[ClipRow]
    prompts: list[Prompt]
    before: SampleSet
    after: list[SampleSet]
    versions: Mapping[str, str]
    adapters: list[AdapterFacts]
    folders: list[FolderFacts]
    demo: Mapping[str, Any] | None
    notes: list[str]


def read_run(folder: Path) -> Run:
    """Read a run folder. Raises RunError where there is none or a file of it is damaged."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise RunError(Problem("no such run folder", found=str(folder), do="name the folder that `train` made"))
    notes: list[str] = []
    recipe_text = _text(folder / "recipe.toml", notes)
    recipe = _toml(folder / "recipe.toml", recipe_text)
    data = _json(folder / "data.json", list, notes)
    rows, row_notes = read_rows(_tables(folder / "data.json", data or []))
    notes += row_notes
    return Run(
        folder=folder,
        name=folder.name,
        recipe=recipe,
        recipe_text=recipe_text,
        options=_options(folder / "recipe.toml", recipe),
        events=read_events(folder / "events.jsonl", tell=notes.append),
        rows=rows,
        prompts=[_prompt(one) for one in _json(folder / "samples" / "prompts.json", list, None) or []],
        before=_samples(folder / "samples" / "before", None, notes),
        after=_after(folder / "samples", notes),
        versions=_json(folder / "versions.json", dict, notes) or {},
        adapters=[_adapter(folder, path) for path in sorted((folder / "adapter").glob("*.safetensors"))],
        folders=[_folder(folder, path) for path in sorted((folder / "final").glob("*")) if path.is_dir()],
        demo=_json(folder / "demo.json", dict, None),
        notes=notes,
    )


def _text(path: Path, notes: list[str]) -> str:
    if not path.exists():
        notes.append(f"there is no {path.name} yet")
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, str(error)) from error


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _damaged(path, str(error)) from error


def _options(path: Path, recipe: Mapping[str, Any]) -> ReportOptions:
    try:
        return ReportOptions(**recipe.get("report", {}))
    except (ValidationError, TypeError) as error:
        raise RecipeError(Problem("the section [report] cannot be read", found=str(error), where=str(path))) from error


def _json(path: Path, form: type, notes: list[str] | None) -> Any:
    """What a JSON file holds; None where there is no file, noted where `notes` is given."""
    if not path.exists():
        if notes is not None:
            notes.append(f"there is no {path.name} yet")
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(value, form):
        raise _damaged(path, f"a {type(value).__name__}, where a {form.__name__} should stand")
    return value


def _tables(path: Path, rows: list[Any]) -> list[Mapping[str, Any]]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise _damaged(path, f"entry {number} is a {type(row).__name__}, where a table should stand")
    return rows


def _prompt(one: Any) -> Prompt:
    """From text, or from a table with "prompt" and "seed"."""
    if isinstance(one, Mapping):
        seed = one.get("seed")
        return Prompt(str(one.get("prompt", "")), seed if isinstance(seed, int) else None)
    return Prompt(str(one))


def _after(folder: Path, notes: list[str]) -> list[SampleSet]:
    steps = {int(path.name[5:]): path for path in folder.glob("step-*") if path.name[5:].isdecimal()}
    return [found for step, path in sorted(steps.items()) if (found := _samples(path, step, notes)).files]


def _samples(folder: Path, step: int | None, notes: list[str]) -> SampleSet:
    files: dict[int, Path] = {}
    for path in sorted(folder.glob("*.mp4")):
        if path.stem.isdecimal():
            files[int(path.stem)] = path
        else:
            notes.append(f"samples/{folder.name}/{path.name} is not named by a number and is not shown")
    return SampleSet(step, files)


def _adapter(folder: Path, path: Path) -> AdapterFacts:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, keys = dict(file.metadata() or {}), list(file.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if any(key.startswith("diffusion_model.") for key in keys):
        layout = "ComfyUI"
    elif any(key.startswith("transformer.") for key in keys):
        layout = "diffusers"
    else:
        layout = path.stem.rpartition(".")[2]  # NAME.LAYOUT.safetensors
    return AdapterFacts(path.relative_to(folder), path.stat().st_size, layout, metadata)


def _damaged(path: Path, found: str) -> RunError:
    return RunError(
        Problem(f"{path.name} of the run is damaged", found=found, where=str(path), do="put it back, or take it away")
    )


def _folder(folder: Path, path: Path) -> FolderFacts:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return FolderFacts(path.relative_to(folder), size, (path / "adapter_config.json").is_file())

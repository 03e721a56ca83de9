"""Owns the verb `push`: a finished run's adapter to the Hugging Face Hub, with a model card. Reads no weights."""

import shutil
import tempfile
from pathlib import Path

from cinelora.base.errors import Problem, RunError
from cinelora.base.log import console
from cinelora.commands.run_folder import RunFolder
from cinelora.report.model_card import card_text, shown_samples
from cinelora.report.run_folder import Run, read_run


def push(folder: Path, repository: str, *, private: bool) -> None:
    """Create the repository if need be and upload adapter files, samples, recipe and card. Raises RunError."""
    run = read_run(folder)
    if not run.adapters and not run.folders:
        do = "finish the run first: cinelora train --resume " + str(folder)
        raise RunError(Problem("the run has no adapter to push", found=str(folder / "adapter"), do=do))
    with tempfile.TemporaryDirectory(prefix="cinelora-push-") as gathered:
        gather(run, Path(gathered), repository=repository)
        url = _upload(Path(gathered), repository, private=private)
    console.print(f"pushed: {url}")


def gather(run: Run, target: Path, *, repository: str) -> None:
    """Lay out what goes to the Hub: adapters and folders at the top, samples/, README.md; nothing of the clips."""
    loaded = RunFolder(run.folder).reload([])
    geometry, sampling = loaded.variant.geometry, loaded.recipe.preview
    for one in run.adapters:
        shutil.copyfile(run.folder / one.path, target / one.path.name)
    for folder in run.folders:
        shutil.copytree(run.folder / folder.path, target / folder.path.name)
    for number, path in shown_samples(run).items():
        (target / "samples").mkdir(exist_ok=True)
        shutil.copyfile(path, target / "samples" / f"{number:02d}.mp4")
    numbers = {
        "frames": sampling.frames or geometry.frames,
        "height": sampling.size[0] if sampling.size else geometry.height,
        "width": sampling.size[1] if sampling.size else geometry.width,
        "fps": f"{geometry.fps:g}",
        "guidance": sampling.guidance,
        "num_steps": sampling.num_steps,
    }
    usage, base = loaded.variant.usage or loaded.family.usage, loaded.base_anywhere
    card = card_text(run, repository=repository, usage=usage, numbers=numbers, base=base)
    (target / "README.md").write_text(card, encoding="utf-8")


def _upload(folder: Path, repository: str, *, private: bool) -> str:
    """Through the Hub's own client, with the token that `hf auth login` or HF_TOKEN gives. Raises RunError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Adapter made with cinelora")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise RunError(
            Problem(
                f"cannot push to {repository}",
                found=f"{type(error).__name__}: {error}".splitlines()[0],
                do="log in with `hf auth login` (or set HF_TOKEN), and name the repository OWNER/NAME",
            )
        ) from error
    return str(url)

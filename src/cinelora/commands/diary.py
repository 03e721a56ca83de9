"""Owns where a run's events go: its diary on disk and the recipe's trackers, on the first rank."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cinelora.commands.run_folder import RunFolder
from cinelora.config.load import Loaded
from cinelora.report.events import Events, cut_after
from cinelora.report.trackers import open_trackers
from cinelora.train.checkpoint import latest, step_of
from cinelora.train.place import Place

Tell = Callable[..., None]


@contextmanager
def diary(loaded: Loaded, folder: RunFolder, place: Place, *, resume: bool) -> Iterator[Tell]:
    """Where events go: the run's diary and the recipe's trackers, both without what a resume makes again."""
    if not place.first:
        yield lambda kind, **facts: None
        return
    newest = latest(folder.checkpoints) if resume else None
    step = step_of(newest) if newest else None
    trackers = open_trackers(loaded.recipe.report, folder=folder.path, run_name=loaded.name, resume_step=step)
    try:
        cut_after(folder.events, step or 0)
        events = Events(folder.events)

        def tell(kind: str, **facts: object) -> None:
            events.tell(kind, **facts)
            trackers.tell(kind, **facts)

        yield tell
    finally:
        trackers.close()

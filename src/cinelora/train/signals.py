"""Owns what SIGINT and SIGTERM do to a run: the step is finished, a checkpoint saved, and the run ends cleanly."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from cinelora.base.log import logger

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_WISH_SECONDS = 2.0
"""Ctrl-C reaches a process of torchrun twice: from the terminal, and at once from torchrun, which waits 30 seconds."""


class Stop:
    """While entered, the first signal sets `asked`; a second one does what it does by default, if it is another wish.

    Outside the main thread Python lets nobody catch signals; then the default stays.
    """

    def __init__(self) -> None:
        self.asked = False
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._first) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.asked, self._since = True, time.monotonic()
        name = signal.Signals(number).name
        logger.warning("%s: finishing the step and saving; once more to stop at once", name)
        if "TORCHELASTIC_RUN_ID" in os.environ:
            for each in _SIGNALS:
                signal.signal(each, self._again)
        else:
            _by_default()

    def _again(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._since > _SAME_WISH_SECONDS:
            _by_default()
            signal.raise_signal(number)


def _by_default() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

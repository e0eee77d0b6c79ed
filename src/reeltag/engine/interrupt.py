"""Ctrl-C that ends training between two steps, with a checkpoint, instead of anywhere."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

_ONE_PRESS_S = 1.0  # a launcher repeats to its processes the signal that the terminal has sent them already


class Interrupt:
    """While it is entered, the first SIGINT sets `asked`; one a second later or more raises KeyboardInterrupt at once.

    Python delivers signals to the main thread alone: elsewhere `asked` stays False and SIGINT does what it did before.
    """

    def __init__(self) -> None:
        self.asked = False
        self._asked_s = 0.0
        self._previous: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and time.monotonic() - self._asked_s > _ONE_PRESS_S:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._asked_s = True, time.monotonic()

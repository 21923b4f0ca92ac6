"""Ctrl-C and SIGTERM during a training: the first stops it in order, the second ends the process at once."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from typing_extensions import Self

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Handles SIGINT and SIGTERM while the block is entered, and restores the earlier handlers afterwards."""

    def __init__(self) -> None:
        self._received: int | None = None
        self.on_first: Callable[[], None] | None = None
        """What the first signal does. Until this is set, it ends the process at once."""
        self._before: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 without a signal, else 128 plus its number, as in shells."""
        return 0 if self._received is None else 128 + self._received

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.on_first = None  # it holds a trainer that may be freed now

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None or self.on_first is None:
            raise SystemExit(128 + number)
        self._received = number
        advice = "send the signal again to end at once without saving"
        logger.warning("%s: finishing this optimizer step, then saving; %s", signal.Signals(number).name, advice)
        self.on_first()

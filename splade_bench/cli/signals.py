"""Ctrl-C and termination while a run is under way: the first ends it in good order, the second at once."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Handlers for SIGINT and SIGTERM while entered; the earlier ones are put back afterwards."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._on_first: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 without a signal, else 128 plus its number, as shells do."""
        return 0 if self._received is None else 128 + self._received

    def on_first(self, call: Callable[[], None]) -> None:
        """What the first signal does; before this is said, it ends the process at once."""
        self._on_first = call

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._on_first = None  # a run that is over need not be kept for it

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None or self._on_first is None:
            raise SystemExit(128 + number)
        self._received = number
        logger.warning("%s: finishing this optimizer step; once more to end at once", signal.Signals(number).name)
        self._on_first()

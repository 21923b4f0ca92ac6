"""The signals that stop a training in order, or let an evaluation remove its files."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from typing_extensions import Self

logger = logging.getLogger(__name__)

# Ctrl-C; a scheduler or a container; a closed terminal; the notice of a cluster's scheduler. Windows has only two.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_ENDINGS = tuple(number for number in _SIGNALS if number.name in ("SIGTERM", "SIGHUP"))
# What a person or a scheduler sends twice to end a process at once. Others come in pairs: a closed terminal sends
# SIGHUP more than once, and a scheduler one SIGTERM after its notice.
_ENDS_AT_ONCE = (signal.SIGINT, signal.SIGTERM)
_REPEATED_AFTER_S = 1.0


@contextmanager
def removed_at_the_end() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an error does, so that it removes what it has made.

    After the first of them the others do nothing: a closed terminal sends SIGHUP more than once. A signal that is
    ignored when the block is entered stays ignored.
    """
    before = {number: signal.getsignal(number) for number in _ENDINGS}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN]

    def end(received: int, frame: FrameType | None) -> None:
        for number in taken:
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + received)

    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


class StopSignals:
    """Handles the signals while the block is entered, and restores the earlier handlers afterwards.

    A signal that is ignored when the block is entered, as SIGHUP is under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._end_asked_s: float | None = None
        self.on_first: Callable[[], None] | None = None
        """What the first signal does. Until this is set, it ends the process at once."""
        self._before: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """0 without a signal, else 128 plus its number, as in shells."""
        return 0 if self._received is None else 128 + self._received

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.on_first = None  # it holds a trainer that may be freed now

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is None and self.on_first is None:
            raise SystemExit(128 + number)
        if number in _ENDS_AT_ONCE:
            now_s = time.monotonic()
            if self._end_asked_s is not None and now_s - self._end_asked_s > _REPEATED_AFTER_S:
                raise SystemExit(128 + number)
            self._end_asked_s = self._end_asked_s or now_s
        if self._received is None and self.on_first is not None:
            self._received = number
            advice = "Ctrl-C or SIGTERM twice, more than a second apart, ends at once without saving"
            logger.warning("%s: saving the last complete optimizer step; %s", signal.Signals(number).name, advice)
            self.on_first()

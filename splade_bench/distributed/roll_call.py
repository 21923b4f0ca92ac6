"""Who of several processes is still there, and why one is not: told through the launcher's key-value store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from torch.distributed.distributed_c10d import Store

from splade_bench.distributed.group import RankError
from splade_bench.errors import error_line

_BEAT_S = 0.5
# After which a process that does not beat is not there; one that fails waits as long, so that all can read why.
PATIENCE_S = 6 * _BEAT_S
_FAULT = "fault"
_SILENT = "{} died or does not run: see its own output and that of the launcher"
Result = TypeVar("Result")


class RollCall:
    """A thread writes twice a second that this process lives, and how many messages it has begun.

    A process that ends with an error leaves it in the store. So the others can name it when they miss an answer.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._messages = 0
        self._fault: str | None = None
        self._ended = threading.Event()
        self._beat(0)
        self._thread = threading.Thread(target=self._keep_beating, name="roll call", daemon=True)
        self._thread.start()

    def next_message(self) -> None:
        """All processes are about to send each other something."""
        self._messages += 1

    def leave_fault(self, line: str) -> None:
        """Let the others know why this process ends. Only the first fault of a training counts."""

        def write() -> bool:
            if self._store.add("faults", 1) == 1:
                self._store.set(_FAULT, f"rank {self._rank}: {line}")
            return True

        if _soon(write) and self._rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            time.sleep(PATIENCE_S)  # the store ends with this process

    def missing(self, error: RuntimeError, timeout_s: float) -> RankError:
        """Why a message failed with ``error``: the error of another process, or the one that died or hangs."""
        # The store of a rank 0 that was stopped answers nothing.
        return _soon(lambda: self._missing(error, timeout_s)) or RankError(_SILENT.format("rank 0"))

    def _missing(self, error: RuntimeError, timeout_s: float) -> RankError:
        places = self._places()
        deadline_s = time.monotonic() + PATIENCE_S
        while places and time.monotonic() < deadline_s and self._read_fault() is None:
            time.sleep(_BEAT_S / 5)
        if self._fault:
            return RankError(self._fault)
        now = self._places() if places else {}
        if not now or not places:
            return RankError("rank 0, or the launcher, has ended without an error; see its output")
        silent = [rank for rank, place in now.items() if place == places[rank]]
        if silent:
            return RankError(_SILENT.format(_named(silent)))
        behind = [rank for rank, place in now.items() if place[1] < self._messages]
        if behind:
            return RankError(f"{_named(behind)} did not answer within {timeout_s:g} s (--process-timeout-s)")
        return RankError(f"the processes lost each other: {error_line(error)}")

    def end(self) -> None:
        """Beat no longer."""
        self._ended.set()
        self._thread.join(_BEAT_S)

    def _keep_beating(self) -> None:
        beats = 0
        while not self._ended.wait(_BEAT_S):
            beats += 1
            try:
                self._beat(beats)
            except RuntimeError:
                return  # the store has ended
            self._read_fault()

    def _beat(self, beats: int) -> None:
        self._store.set(f"beat/{self._rank}", f"{beats} {self._messages}")

    def _read_fault(self) -> str | None:
        """The first fault, if there is one; it is kept, because the store may end before it is asked for."""
        with suppress(RuntimeError):
            if self._fault is None and self._store.check([_FAULT]):
                self._fault = self._store.get(_FAULT).decode()
        return self._fault

    def _places(self) -> dict[int, tuple[int, int]]:
        """Beats and messages of the other processes; empty if the store has ended."""
        found = {}
        with suppress(RuntimeError):
            for rank in range(self._size):
                # A store waits long for a key that is not there.
                if rank != self._rank and self._store.check([f"beat/{rank}"]):
                    beats, messages = map(int, self._store.get(f"beat/{rank}").split())
                    found[rank] = beats, messages
            return found
        return {}


def _soon(function: Callable[[], Result]) -> Result | None:
    """What a function of the store returns; None if it fails or takes long."""
    found: list[Result] = []

    def run() -> None:
        with suppress(RuntimeError):  # the launcher is gone, and so are the others
            found.append(function())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE_S)
    return found[0] if found else None


def _named(ranks: list[int]) -> str:
    return f"rank {', '.join(map(str, ranks))}"

"""What every worker process does: keep the pipe to its parent for messages, and turn whatever happens into one."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from splade_bench.bench.protocol import Event, EventName
from splade_bench.device.out_of_memory import failed_allocation_bytes, is_out_of_memory
from splade_bench.errors import TrainingError
from splade_bench.results.records import Status, finite_or_none

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Send = Callable[[EventName, dict[str, Any]], None]


class Served(Protocol):
    """A worker; ``measured`` holds what is known so far, also when it ends early in ``phase``."""

    measured: dict[str, Any]
    phase: str

    def run(self) -> None:
        """Do what the request asks for and send its result."""


def serve(worker: Served, send: Send) -> int:
    """Run a worker; the exit code is 0 when a result was sent."""
    try:
        worker.run()
    except Exception as error:
        status, message = _diagnose(error)
        failure: dict[str, Any] = {"status": status, "error": message, "phase": worker.phase}
        if status == "oom":
            traceback.clear_frames(error.__traceback__)  # whatever is held there is needed to say so
            failure["failed_allocation_bytes"] = failed_allocation_bytes(error)
        elif status == "error":
            traceback.print_exc()
        send("failed", worker.measured | failure)
        return 1
    return 0


def claim_standard_output() -> Send:
    """Keep the pipe to the parent for messages and point file descriptor 1 at standard error.

    From here on the process ends with its launcher, where the system can promise that.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(name: EventName, values: dict[str, Any]) -> None:
        channel.write(Event(name=name, values=finite_or_none(values)).to_line())
        channel.flush()

    return send


def wait_for_go() -> None:
    """Block until the parent says go; end where the parent is gone.

    Standard input is empty afterwards: what is measured must not wait for somebody to type.
    """
    if not sys.stdin.readline():
        raise SystemExit(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)


def _diagnose(error: Exception) -> tuple[Status, str]:
    message = " ".join(str(error).split()) or type(error).__name__
    if is_out_of_memory(error):
        return "oom", message
    if isinstance(error, TrainingError) and error.status == "nan":
        return "nan", message
    return "error", f"{type(error).__name__}: {message}"

"""What every worker process does: keep the pipe to its parent for messages, and report every end in a message."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from splade_bench.bench.isolate import WorkerError
from splade_bench.bench.protocol import Event, EventName, Request
from splade_bench.device import heap
from splade_bench.device.out_of_memory import failed_allocation_bytes, is_out_of_memory
from splade_bench.errors import NotFiniteError, error_line
from splade_bench.json_records import finite_or_none
from splade_bench.measure.limits import limit_rss, renew_limit
from splade_bench.measure.machine import machine_info
from splade_bench.results.records import Status

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Send = Callable[[EventName, dict[str, Any]], None]
AnyRequest = TypeVar("AnyRequest", bound=Request)


class Worker(Generic[AnyRequest]):
    """A worker. If it ends early, in ``phase``, ``measured`` has the fields that are known by then."""

    def __init__(self, request: AnyRequest, send: Send) -> None:
        self.request = request
        self.send = send
        self.measured: dict[str, Any] = {"machine": machine_info()}
        self.phase = "setup"

    def run(self) -> None:
        """Measure what the request asks for and send the result."""
        raise NotImplementedError


def serve(worker: Worker[AnyRequest]) -> int:
    """Run a worker; the exit code is 0 if it sent a result."""
    try:
        worker.run()
    except WorkerError as error:  # of a process that this one started
        worker.send("failed", worker.measured | {"phase": worker.phase} | error.values)
        return 1
    except Exception as error:
        status, message = _diagnose(error)
        failure: dict[str, Any] = {"status": status, "error": message, "phase": worker.phase}
        if status == "oom":
            traceback.clear_frames(error.__traceback__)  # their tensors' memory is needed to send the message
            failure["failed_allocation_bytes"] = failed_allocation_bytes(error)
        elif status == "error":
            traceback.print_exc()
        worker.send("failed", worker.measured | failure)
        return 1
    return 0


def claim_standard_output() -> Send:
    """Keep the pipe to the parent for messages and point file descriptor 1 at standard error.

    On Linux, the process from now on ends with its launcher.
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
    """Block until the parent says go; exit if the parent has ended.

    Standard input is empty afterwards: measured code must not wait for somebody to type.
    """
    if not sys.stdin.readline():
        raise SystemExit(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)


def limit_process(limit_bytes: int) -> None:
    """Limit the memory of this process, and renew the limit after each trim of the heap.

    Raises:
        ConfigError: the process already has more.
    """
    limit_rss(limit_bytes)
    heap.call_after_trim(partial(renew_limit, limit_bytes))


def _diagnose(error: Exception) -> tuple[Status, str]:
    message = error_line(error)
    if is_out_of_memory(error):
        return "oom", message
    if isinstance(error, NotFiniteError):
        return "nan", message
    return "error", f"{type(error).__name__}: {message}"

"""A worker process from the outside: start, wait, say go, and find out how it ended. Imports no torch."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from typing_extensions import Self

from splade_bench.bench.launcher import Exit, LaunchRequest
from splade_bench.bench.protocol import (
    GO,
    PINNED_MMAP_THRESHOLD_BYTES,
    CallRequest,
    CellRequest,
    Event,
    EventName,
    MemoryPass,
    Request,
)
from splade_bench.errors import ConfigError
from splade_bench.results.records import Status
from splade_bench.units import format_bytes

# glibc moves its thresholds as it goes, and the peak moves with them. Fixed, each tensor of 256 KiB or more has a
# mapping of its own that goes when the tensor does.
PINNED_ENVIRONMENT = {
    name: str(PINNED_MMAP_THRESHOLD_BYTES) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
}
_LONGEST_MESSAGE = 10**7
_LAUNCHER_ENDS_WITHIN_S = 10.0
# What the kernel knows of a process that cannot be asked any more.
_PEAK_OF_THE_DEAD = "ru_maxrss of the process's whole life"


class CellError(Exception):
    """A worker did not reach the event it was waited for; the values are the fields of a result."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(f"{values['status']}: {values['error']}")
        self.values = values


class WorkerProcess:
    """One worker under its launcher, ended when the block is left, whatever happens.

    The parent blocks on the pipe and never polls: it must cost the measured child nothing.
    """

    def __init__(
        self,
        request: Request,
        *,
        timeout_s: float,
        command: tuple[str, ...] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._request = request
        self._launch = LaunchRequest(
            command=list(command or (sys.executable, "-m", request.worker)),
            timeout_s=timeout_s,
            memory_limit_bytes=request.rss_limit_bytes,
        )
        self._environment = environment or {}

    def __enter__(self) -> Self:
        if sys.platform == "win32":
            raise ConfigError("measuring needs Linux or macOS: Windows has no process groups to end a worker with")
        line = self._request.to_line()  # whatever cannot be said is found out before there is a process
        self._launcher = subprocess.Popen(
            (sys.executable, "-m", "splade_bench.bench.launcher", self._launch.to_argument()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._request.environment, **self._environment},
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self._write(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._launcher.terminate()  # it ends the worker, and then itself
        try:
            self._launcher.wait(_LAUNCHER_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
            self._launcher.wait()
        for pipe in (self._launcher.stdin, self._launcher.stdout):
            try:
                if pipe:
                    pipe.close()
            except BrokenPipeError:
                pass  # what was still to be written has no reader

    def wait_for(self, name: EventName) -> dict[str, Any]:
        """Block until the worker sends ``name``; its values.

        Raises:
            CellError: the worker failed, died or ran out of time first.
        """
        assert self._launcher.stdout is not None
        while line := self._launcher.stdout.readline(_LONGEST_MESSAGE):
            if not line.strip():
                continue
            try:
                event = Event.from_line(line)
            except (ValueError, KeyError, TypeError) as error:
                if line.startswith("{"):  # the worker was killed in the middle of a message: its end comes next
                    continue
                raise CellError(_failure("error", f"the worker sent a line that is no message: {error}")) from error
            if event.name == "exit":
                raise CellError(self._cause_of_death(Exit(**event.values)))
            if event.name == "failed":
                raise CellError(event.values)
            if event.name == name:
                return event.values
        raise CellError(_failure("error", "the launcher of the worker was ended"))

    def go(self) -> dict[str, Any]:
        """Let a ready worker train; returns when it is done."""
        self._write(GO)
        return self.wait_for("done")

    def _write(self, line: str) -> None:
        assert self._launcher.stdin is not None
        try:
            self._launcher.stdin.write(line)
            self._launcher.stdin.flush()
        except BrokenPipeError:
            pass  # a worker that died early is found out by the read that follows

    def _cause_of_death(self, ended: Exit) -> dict[str, Any]:
        status, error = _judged(ended, self._launch)
        return _failure(status, error) | {
            "exit_code": ended.exit_code,
            "exit_signal": ended.exit_signal,
            "peak_rss_bytes": ended.max_rss_bytes,
            "peak_rss_source": _PEAK_OF_THE_DEAD,
        }


def figures_of_passes(
    request: CellRequest | CallRequest, passes: Sequence[MemoryPass], *, timeout_s: float
) -> dict[str, Any]:
    """What the memory passes measured, each in a process of its own.

    One that fails leaves its figures unmeasured and its reason in ``pass_errors``; those of the others stand.
    """
    measured: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name in passes:
        environment = PINNED_ENVIRONMENT if name == "pinned" else None
        if environment and platform.libc_ver()[0] != "glibc":
            continue  # nothing there heeds these settings
        try:
            with WorkerProcess(replace(request, measure=name), timeout_s=timeout_s, environment=environment) as process:
                measured |= process.wait_for("result")
        except CellError as failure:
            errors[name] = str(failure)
    # The machine is that of the timed process, whose environment is the user's own.
    return {name: value for name, value in measured.items() if name != "machine"} | {"pass_errors": errors or None}


def _judged(ended: Exit, launch: LaunchRequest) -> tuple[Status, str]:
    """The status of a worker that sent no result, and why."""
    if ended.ended_by == "timeout":
        return "timeout", f"took longer than {launch.timeout_s:g} s"
    if ended.ended_by == "memory-limit":
        assert launch.memory_limit_bytes is not None
        return "oom", f"its resident memory went over the limit of {format_bytes(launch.memory_limit_bytes)}"
    if ended.exit_signal == signal.SIGKILL and ended.oom_kills:
        return "oom", "the kernel's out-of-memory killer ended the process"
    if ended.exit_signal is not None:
        return "killed", f"ended by signal {_signal_name(ended.exit_signal)}"
    if launch.memory_limit_bytes and ended.last_error_line.startswith("MemoryError"):
        return "oom", "had no memory left to say so"
    reason = f": {ended.last_error_line}" if ended.last_error_line else ""
    return "error", f"ended with exit code {ended.exit_code} and no result{reason}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time ones have no names
        return str(number)


def run_figures_process(module: str, **arguments: Any) -> dict[str, Any]:
    """The figures that ``module`` prints as JSON for its arguments, taken in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed; its standard error was shown.
    """
    command = (sys.executable, "-m", module, json.dumps(arguments))
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    figures: dict[str, Any] = json.loads(finished.stdout)
    return figures


def _failure(status: Status, error: str) -> dict[str, Any]:
    return {"status": status, "error": error}

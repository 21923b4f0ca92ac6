"""A worker process from the outside: start it, wait, let it go, and find out how it ended. Imports no torch."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from typing_extensions import Self

from splade_bench.bench.launcher import Exit, LaunchRequest
from splade_bench.bench.protocol import GO, PINNED_MMAP_THRESHOLD_BYTES, Event, EventName, Request
from splade_bench.errors import ConfigError
from splade_bench.processes import module_command
from splade_bench.results.records import Status
from splade_bench.units import format_bytes

# By default glibc changes these thresholds while a process runs, and the peak with them. Fixed, each tensor of 256 KiB
# or more has a mapping of its own that goes when the tensor does.
PINNED_ENVIRONMENT = {
    name: str(PINNED_MMAP_THRESHOLD_BYTES) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
}
_LONGEST_MESSAGE = 10**7
_LAUNCHER_ENDS_WITHIN_S = 10.0


class WorkerError(Exception):
    """A worker ended before the event that was awaited. ``values`` are fields of a result: ``status``, ``error``..."""

    def __init__(self, *, status: Status, error: str, **values: Any) -> None:
        super().__init__(f"{status}: {error}")
        self.values = {"status": status, "error": error} | values


class WorkerProcess:
    """One worker under its launcher. Both have ended when the block is left, in any way.

    The parent blocks on the pipe and never polls, so that it costs the measured process nothing. ``on_progress`` gets
    the values of each ``progress`` event that comes before an awaited event.
    """

    def __init__(
        self,
        request: Request,
        *,
        timeout_s: float,
        command: tuple[str, ...] | None = None,
        environment: dict[str, str] | None = None,
        on_progress: Callable[[dict[str, Any]], None] = lambda values: None,
    ) -> None:
        self._request = request
        self._on_progress = on_progress
        self._launch = LaunchRequest(
            command=list(command or module_command(request.worker)),
            timeout_s=timeout_s,
            memory_limit_bytes=request.rss_limit_bytes,
            limits_children=request.has_ranks,
        )
        self._environment = environment or {}
        self._error: WorkerError | None = None

    def __enter__(self) -> Self:
        if sys.platform == "win32":
            raise ConfigError("measuring needs Linux or macOS: Windows has no process groups to end a worker with")
        line = self._request.to_line()  # an error in the request comes before there is a process
        self._launcher = subprocess.Popen(
            module_command("splade_bench.bench.launcher", self._launch.to_line()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._request.environment, **self._environment},
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # the parent handles Ctrl-C
        )
        self._write(line)
        return self

    def __exit__(self, *_: object) -> None:
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
                pass  # nobody reads what was not written yet

    def wait_for(self, name: EventName) -> dict[str, Any]:
        """Block until the worker sends ``name``; its values.

        Raises:
            WorkerError: the worker failed, died or ran out of time first; the same one in each further call.
        """
        try:
            if self._error is None:
                return self._read_until(name)
        except WorkerError as error:
            self._error = error
        raise self._error

    def _read_until(self, name: EventName) -> dict[str, Any]:
        assert self._launcher.stdout is not None
        while line := self._launcher.stdout.readline(_LONGEST_MESSAGE):
            if not line.strip():
                continue
            try:
                event = Event.from_line(line)
            except ValueError as error:
                if line.startswith("{"):  # the worker was killed in the middle of a message: its end comes next
                    continue
                raise WorkerError(
                    status="error", error=f"unexpected output of the measured process: {error}"
                ) from error
            if event.name == "exit":
                raise _death(Exit(**event.values), self._launch)
            if event.name == "failed":
                raise WorkerError(**event.values)
            if event.name == name:
                return event.values
            if event.name == "progress":
                self._on_progress(event.values)
        raise WorkerError(status="error", error="the process that starts and watches the measurement was killed")

    def go(self) -> dict[str, Any]:
        """Let a ready worker run; returns the values of ``done``."""
        self._write(GO)
        return self.wait_for("done")

    def _write(self, line: str) -> None:
        assert self._launcher.stdin is not None
        try:
            self._launcher.stdin.write(line)
            self._launcher.stdin.flush()
        except BrokenPipeError:
            pass  # the worker died early, which the next read reports


def result_of(request: Request, *, timeout_s: float, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """The result of a request that is not timed, from a process of its own.

    Raises:
        WorkerError: it has none.
    """
    with WorkerProcess(request, timeout_s=timeout_s, environment=environment) as process:
        return process.wait_for("result")


def figures_of_passes(
    requests: Iterable[Request], *, timeout_s: float, on_pass: Callable[[str], None] = lambda name: None
) -> dict[str, Any]:
    """The figures of the memory passes, each taken in a process of its own; ``on_pass`` is called before each.

    A pass that fails leaves its figures out and its reason in ``pass_errors``; the other passes are not affected. If a
    call is measured, ``pass_values`` has what it returned in each pass.
    """
    measured: dict[str, Any] = {}
    errors: dict[str, str] = {}
    values: dict[str, Any] = {}
    for request in requests:
        environment = PINNED_ENVIRONMENT if request.measure == "pinned" else None
        if environment and platform.libc_ver()[0] != "glibc":
            continue  # other C libraries do not have these settings
        on_pass(request.measure)
        try:
            figures = result_of(request, timeout_s=timeout_s, environment=environment)
        except WorkerError as failure:
            errors[request.measure] = str(failure)
            continue
        figures.pop("machine", None)  # it is that of the timed process, whose environment is the user's own
        if "value" in figures:
            values[request.measure] = figures.pop("value")
        measured |= figures
    return measured | {"pass_errors": errors or None} | ({"pass_values": values} if values else {})


def _death(ended: Exit, launch: LaunchRequest) -> WorkerError:
    """The error of a worker that sent no result."""
    status, error = _cause_of_death(ended, launch)
    return WorkerError(
        status=status,
        error=error,
        exit_code=ended.exit_code,
        exit_signal=ended.exit_signal,
        peak_rss_bytes=ended.max_rss_bytes,
        peak_rss_source="ru_maxrss of the process's whole life",
    )


def _cause_of_death(ended: Exit, launch: LaunchRequest) -> tuple[Status, str]:
    if ended.ended_by == "timeout":
        return "timeout", f"took longer than {launch.timeout_s:g} s"
    if ended.ended_by == "memory-limit":
        assert launch.memory_limit_bytes is not None
        whose = "the resident memory of all ranks" if launch.limits_children else "its resident memory"
        return "oom", f"{whose} went over the limit of {format_bytes(launch.memory_limit_bytes)}"
    if ended.exit_signal is not None:
        return killed_by(ended.exit_signal, oom_kills=ended.oom_kills)
    if launch.memory_limit_bytes and ended.last_error_line.startswith("MemoryError"):
        return "oom", "ran out of memory, with too little left to report where"
    reason = f": {ended.last_error_line}" if ended.last_error_line else ""
    return "error", f"ended with exit code {ended.exit_code} and no result{reason}"


def killed_by(number: int, *, oom_kills: int) -> tuple[Status, str]:
    """What the end of a process by a signal means, if the kernel's out-of-memory killer ended so many meanwhile."""
    if number == signal.SIGKILL and oom_kills > 0:
        return "oom", "the kernel's out-of-memory killer ended the process"
    return "killed", f"ended by signal {_signal_name(number)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return str(number)

"""The process between pytest and a cell: ``python -m splade_bench.bench.launcher ARGUMENTS``.

It starts the worker in a process group of its own, waits, and says how it ended, on the pipe that the worker wrote its
messages to. It imports no torch and stays small, because the kernel's record of a dead process begins with the memory
of whoever started it: a cell killed at any moment still has a peak, and it is the cell's.

Does not spin: it sleeps until the worker ends, writes to standard error or a deadline comes. Under a memory limit it
also reads the worker's resident memory, twenty-five times a second: that sees what no data limit counts (mapped files).
Where it may, it gives such a worker a control group, on which the worker sets the same limit.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal

from typing_extensions import Self

from splade_bench.bench.protocol import Event
from splade_bench.measure.control_group import ControlGroup, oom_kills_around

# Twice as often, parent and launcher of a cell took 1.3 % of a core.
_WATCH_INTERVAL_S = 0.04
# How often to see whether whoever waits for the worker is still there.
_IDLE_INTERVAL_S = 1.0
_STANDARD_ERROR_TAIL_BYTES = 4096
_READ_BYTES = 2**16
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchRequest:
    """What to start, and when to end it."""

    command: list[str]
    timeout_s: float
    memory_limit_bytes: int | None = None

    def to_argument(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_argument(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """How a worker ended: the values of the ``exit`` event."""

    exit_code: int | None
    exit_signal: int | None
    ended_by: Literal["timeout", "memory-limit", "abandoned"] | None
    """Why the launcher ended it; None: it ended by itself or by somebody else's signal."""
    max_rss_bytes: int
    """The kernel's high-water mark of its whole life."""
    oom_kills: int
    """Processes that the kernel's out-of-memory killer ended meanwhile: of the worker's control group where it has one,
    else of the launcher's, else as far as can be seen from here."""
    last_error_line: str


class Launcher:
    """One worker from its start to its end."""

    def __init__(self, request: LaunchRequest) -> None:
        self._request = request
        self._parent = os.getppid()
        self._ended_by: Literal["timeout", "memory-limit", "abandoned"] | None = None
        self._error_tail = b""
        self._worker: subprocess.Popen[bytes] | None = None

    def run(self) -> Exit:
        """Start the worker and wait for its end."""
        wakeup = _wake_up_on(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
        signal.signal(signal.SIGTERM, self._on_termination)
        signal.signal(signal.SIGINT, self._on_termination)
        oom_kills_before = oom_kills_around()
        self._deadline_s = time.monotonic() + self._request.timeout_s
        # Standard input and output are the worker's alone from here on, until it has ended.
        self._worker = worker = subprocess.Popen(self._request.command, stderr=subprocess.PIPE, start_new_session=True)
        control_group = ControlGroup.around(worker.pid) if self._request.memory_limit_bytes else None
        status, max_rss_bytes = self._wait(worker, wakeup)
        self._kill_group()  # what the worker started ends with it
        kills = control_group.oom_kills() if control_group else oom_kills_around() - oom_kills_before
        if control_group:
            control_group.remove()
        return Exit(
            exit_code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            exit_signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            ended_by=self._ended_by,
            max_rss_bytes=max_rss_bytes,
            oom_kills=kills,
            last_error_line=_last_line(self._error_tail),
        )

    def _wait(self, worker: subprocess.Popen[bytes], wakeup: int) -> tuple[int, int]:
        """The worker's wait status and its peak resident memory."""
        assert worker.stderr is not None
        errors = worker.stderr.fileno()
        os.set_blocking(errors, False)
        sources = [wakeup, errors]
        memory = _ResidentMemory(worker.pid) if self._request.memory_limit_bytes else None
        while True:
            readable, _, _ = select.select(sources, [], [], self._interval_s())
            if wakeup in readable:
                os.read(wakeup, _READ_BYTES)
            if errors in readable and not self._read_errors(errors):
                sources.remove(errors)
            pid, status, usage = os.wait4(worker.pid, os.WNOHANG)
            if pid:
                worker.returncode = os.waitstatus_to_exitcode(status)  # nobody is to wait for it again
                self._read_errors(errors)
                return status, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            self._end_where_due(memory)

    def _interval_s(self) -> float:
        interval_s = _WATCH_INTERVAL_S if self._request.memory_limit_bytes else _IDLE_INTERVAL_S
        return max(0.0, min(interval_s, self._deadline_s - time.monotonic())) if self._ended_by is None else interval_s

    def _end_where_due(self, memory: _ResidentMemory | None) -> None:
        if self._ended_by is not None:
            self._kill_group()
        elif time.monotonic() >= self._deadline_s:
            self._end("timeout")
        elif os.getppid() != self._parent:
            self._end("abandoned")
        elif memory and self._request.memory_limit_bytes and memory.read_bytes() > self._request.memory_limit_bytes:
            self._end("memory-limit")

    def _end(self, reason: Literal["timeout", "memory-limit", "abandoned"]) -> None:
        self._ended_by = reason
        self._kill_group()

    def _kill_group(self) -> None:
        if self._worker is None:
            return  # told to end before the worker was started: it ends as soon as it is waited for
        try:
            os.killpg(self._worker.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # the group is gone; macOS says EPERM when only an unreaped process is left of it

    def _on_termination(self, *_: object) -> None:
        self._end("abandoned")

    def _read_errors(self, errors: int) -> bool:
        """Keep the end of what the worker prints, however much that is; False once there will be no more."""
        while True:
            try:
                text = os.read(errors, _READ_BYTES)
            except BlockingIOError:
                return True
            if not text:
                return False
            self._error_tail = (self._error_tail + text)[-_STANDARD_ERROR_TAIL_BYTES:]
            if len(text) < _READ_BYTES:
                return True


def main() -> int:
    """Run one worker; the last line on standard output is its ``exit`` event."""
    ended = Launcher(LaunchRequest.from_argument(sys.argv[1])).run()
    # The worker may have been killed in the middle of a line.
    message = "\n" + Event(name="exit", values=asdict(ended)).to_line()
    try:
        sys.stdout.write(message)
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(0)  # nobody is left to be told, and nothing to be flushed
    return 0


def _wake_up_on(*signals: signal.Signals) -> int:
    """A file descriptor that becomes readable with each of these signals: select alone would sleep through them."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    os.set_blocking(readable, False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writable)
    return readable


class _ResidentMemory:
    """Resident memory of another process, read again and again.

    On Linux its file stays open: woken fifty times a second, whoever opens it anew took 1.7 % of a core, not 0.6 %.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._statm: int | None = None
        if sys.platform == "linux":
            with suppress(OSError):  # it has ended already
                self._statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY)

    def read_bytes(self) -> int:
        """Now; 0 when the process is gone."""
        if sys.platform == "linux":
            try:
                return int(os.pread(self._statm, 64, 0).split()[1]) * _PAGE_BYTES if self._statm is not None else 0
            except (OSError, IndexError):
                return 0
        import psutil

        try:
            return int(psutil.Process(self._pid).memory_info().rss)
        except psutil.Error:
            return 0


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    raise SystemExit(main())

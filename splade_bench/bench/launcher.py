"""The process between pytest and a worker; its argument is a :class:`LaunchRequest`.

It starts the worker in a process group of its own, waits, and reports how it ended on the pipe that the worker wrote
its messages to. It imports no torch and stays small: the kernel's high-water mark of a process begins with the memory
of the process that started it. So a worker killed at any moment still has a peak, and the peak is its own.

The launcher sleeps until the worker ends, writes to standard error or reaches its deadline. Under a memory limit it
also reads the worker's resident memory 25 times a second, which sees what no data limit counts (mapped files). If it
may, it gives such a worker a control group, on which the worker sets the same limit.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Literal

from splade_bench.bench.protocol import Event, Message
from splade_bench.measure.control_group import ControlGroup, visible_oom_kills
from splade_bench.measure.process_tree import ProcessTree
from splade_bench.measure.rss import RssReader

# Twice as often, parent and launcher of a cell took 1.3 % of a core.
_WATCH_INTERVAL_S = 0.04
# How often to check that the process that waits for the worker is still there.
_IDLE_INTERVAL_S = 1.0
_STANDARD_ERROR_TAIL_BYTES = 4096
_READ_BYTES = 2**16

EndedBy = Literal["timeout", "memory-limit", "abandoned"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchRequest(Message):
    """The command to start, and when to end it."""

    command: list[str]
    timeout_s: float
    memory_limit_bytes: int | None = None
    limits_children: bool = False
    """Whether the limit is one on the memory of the process and its children together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """How a worker ended: the values of the ``exit`` event."""

    exit_code: int | None
    exit_signal: int | None
    ended_by: EndedBy | None
    """Why the launcher ended it; None: it ended by itself or by another signal."""
    max_rss_bytes: int
    """The kernel's high-water mark of its whole life."""
    oom_kills: int
    """Processes that the kernel's out-of-memory killer ended meanwhile: in the worker's control group if it has one,
    else in the launcher's, else on the whole system."""
    last_error_line: str


class Launcher:
    """One worker from its start to its end."""

    def __init__(self, request: LaunchRequest) -> None:
        self._request = request
        self._parent = os.getppid()
        self._ended_by: EndedBy | None = None
        self._error_tail = b""
        self._worker: subprocess.Popen[bytes] | None = None

    def run(self) -> Exit:
        """Start the worker and wait for its end."""
        wakeup = _wake_up_on(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._end("abandoned"))
        oom_kills_before = visible_oom_kills()
        self._deadline_s = time.monotonic() + self._request.timeout_s
        # From here on only the worker uses standard input and output, until it has ended.
        self._worker = worker = subprocess.Popen(self._request.command, stderr=subprocess.PIPE, start_new_session=True)
        control_group = ControlGroup.create(worker.pid) if self._request.memory_limit_bytes else None
        status, max_rss_bytes = self._wait(worker, wakeup)
        self._kill_group()  # the worker's own children end with it
        kills = control_group.oom_kills() if control_group else visible_oom_kills() - oom_kills_before
        if control_group:
            control_group.remove()
        return Exit(
            exit_code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            exit_signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
            ended_by=self._ended_by,
            max_rss_bytes=max_rss_bytes,
            oom_kills=kills,
            last_error_line=(self._error_tail.decode(errors="replace").strip().splitlines() or [""])[-1],
        )

    def _wait(self, worker: subprocess.Popen[bytes], wakeup: int) -> tuple[int, int]:
        """The worker's wait status and its peak resident memory."""
        assert worker.stderr is not None
        errors = worker.stderr.fileno()
        os.set_blocking(errors, False)
        sources = [wakeup, errors]
        memory: RssReader | ProcessTree | None = None
        if self._request.memory_limit_bytes:
            memory = (ProcessTree if self._request.limits_children else RssReader)(worker.pid)
        interval_s = _WATCH_INTERVAL_S if memory else _IDLE_INTERVAL_S
        while True:
            left_s = max(0.0, self._deadline_s - time.monotonic()) if self._ended_by is None else interval_s
            readable, _, _ = select.select(sources, [], [], min(interval_s, left_s))
            if wakeup in readable:
                os.read(wakeup, _READ_BYTES)
            if errors in readable and not self._read_errors(errors):
                sources.remove(errors)
            pid, status, usage = os.wait4(worker.pid, os.WNOHANG)
            if pid:
                worker.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it again
                self._read_errors(errors)
                return status, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            self._end_if_due(memory)

    def _end_if_due(self, memory: RssReader | ProcessTree | None) -> None:
        if self._ended_by is not None:
            self._kill_group()
        elif time.monotonic() >= self._deadline_s:
            self._end("timeout")
        elif os.getppid() != self._parent:
            self._end("abandoned")
        elif memory and self._request.memory_limit_bytes and memory.read() > self._request.memory_limit_bytes:
            self._end("memory-limit")

    def _end(self, reason: EndedBy) -> None:
        self._ended_by = reason
        self._kill_group()

    def _kill_group(self) -> None:
        if self._worker is None:
            return  # a signal came before the worker was started: it will end in the first wait
        try:
            os.killpg(self._worker.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # the group is gone; macOS raises EPERM when only an unreaped process is left of it

    def _read_errors(self, errors: int) -> bool:
        """Keep the end of the worker's standard error; False when it is closed."""
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
    ended = Launcher(LaunchRequest.from_line(sys.argv[1])).run()
    try:
        # The worker may have been killed in the middle of a line.
        sys.stdout.write("\n" + Event(name="exit", values=asdict(ended)).to_line())
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(0)  # the reader is gone; a normal exit would fail to flush
    return 0


def _wake_up_on(*signals: signal.Signals) -> int:
    """A file descriptor that becomes readable at each of these signals, which would not wake up ``select`` itself."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    os.set_blocking(readable, False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writable)
    return readable


if __name__ == "__main__":
    raise SystemExit(main())

"""A worker process from the outside: start, wait, say go, and find out how it ended. Imports no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from splade_bench.bench.protocol import GO, Event, EventName, Request
from splade_bench.results import Status

_OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
_ERROR_TAIL_BYTES = 4096
# The environment of every worker: no network, and no pool of tokenizer threads beside torch's.
_WORKER_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}


class CellError(Exception):
    """A worker did not reach the event it was waited for; the values are the fields of a result."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(f"{values['status']}: {values['error']}")
        self.values = values


class WorkerProcess:
    """One worker in a process group of its own, ended when the block is left, whatever happens.

    The parent blocks on the pipe and never polls: it must cost the measured child nothing.
    """

    def __init__(self, request: Request, *, timeout_s: float, command: tuple[str, ...] | None = None) -> None:
        self._request = request
        self._timeout_s = timeout_s
        self._command = command or (sys.executable, "-m", "splade_bench.bench.worker")
        self._timed_out = False

    def __enter__(self) -> Self:
        self._oom_kills_before = _oom_kills()
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | _WORKER_ENVIRONMENT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._timer = threading.Timer(self._timeout_s, self._on_timeout)
        self._timer.daemon = True
        self._timer.start()
        self._write(self._request.to_line())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _close_quietly(pipe.close if pipe else None)
        self._errors.close()

    def wait_for(self, name: EventName) -> dict[str, Any]:
        """Block until the worker sends ``name``; its values.

        Raises:
            CellError: the worker failed, died or ran out of time first.
        """
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            try:
                event = Event.from_line(line)
            except (ValueError, KeyError, TypeError) as error:
                raise CellError(_failure("error", f"the worker sent a line that is no message: {error}")) from error
            if event.name == "failed":
                raise CellError(event.values)
            if event.name == name:
                return event.values
        raise CellError(self._cause_of_death())

    def go(self) -> dict[str, Any]:
        """Let a ready worker train; returns when it is done."""
        self._write(GO)
        return self.wait_for("done")

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        # A worker that died early is found out by the read that follows.
        _close_quietly(lambda: self._process.stdin and (self._process.stdin.write(line), self._process.stdin.flush()))

    def _on_timeout(self) -> None:
        self._timed_out = True
        self._kill()

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # the group is gone; macOS says EPERM when only an unreaped process is left of it

    def _cause_of_death(self) -> dict[str, Any]:
        code = self._process.wait()
        if self._timed_out:
            return _failure("timeout", f"took longer than {self._timeout_s:g} s")
        if code == -signal.SIGKILL and _oom_kills() > self._oom_kills_before:
            return _failure("oom", "the kernel's out-of-memory killer ended the process")
        if code < 0:
            return _failure("killed", f"ended by signal {signal.Signals(-code).name}")
        return _failure("error", f"ended with exit code {code} and no result{self._last_error_line()}")

    def _last_error_line(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _ERROR_TAIL_BYTES))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


def run_head_process(head: str, *, hidden_size: int, active_share: float) -> dict[str, Any]:
    """The figures of :mod:`splade_bench.bench.head`, taken in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed; its standard error was shown.
    """
    arguments = json.dumps({"head": head, "hidden_size": hidden_size, "active_share": active_share})
    command = (sys.executable, "-m", "splade_bench.bench.head", arguments)
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | _WORKER_ENVIRONMENT)
    figures: dict[str, Any] = json.loads(finished.stdout)
    return figures


def _failure(status: Status, error: str) -> dict[str, Any]:
    return {"status": status, "error": error}


def _oom_kills() -> int:
    """Processes that the kernel's out-of-memory killer has ended, as far as this process may see."""
    for path in _OOM_COUNTERS:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _close_quietly(call: Callable[[], object] | None) -> None:
    try:
        if call:
            call()
    except (BrokenPipeError, ValueError):
        pass

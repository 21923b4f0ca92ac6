"""Runs ``splade-bench`` in forks of this process, whole, with its own output and exit code."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from splade_bench.cli import main, train  # noqa: F401 - imported once, for all forks
from splade_bench.errors import one_line

TIMEOUT_S = 300.0
_POLL_S = 0.001
_LONGEST_FAILURE = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a command ended. The exit code of a killed one is minus the signal's number."""

    exit_code: int
    output: str
    wall_time_s: float
    ended_s: float = 0.0
    """When, as ``time.perf_counter`` of any process of this machine says it."""

    def complaint(self, *, verb: str = "train", codes: Sequence[int] = (0, 1, 2)) -> str | None:
        """What is wrong with this end; None if it is a documented one that says why."""
        errors = [line for line in self.output.splitlines() if line.startswith(f"splade-bench {verb}: ")]
        if "Traceback (most recent call last)" in self.output:
            return f"a traceback: {self.output.strip().splitlines()[-1]}"
        if self.exit_code not in codes:
            return f"exit code {self.exit_code}: {self.output[-_LONGEST_FAILURE:]}"
        if self.exit_code in (1, 2) and len(errors) != 1:
            return f"exit code {self.exit_code} with {len(errors)} lines that say why"
        return None


def run(
    arguments: Sequence[str],
    *,
    before: Callable[[], object] = lambda: None,
    kill_after_s: float | None = None,
    timeout_s: float = TIMEOUT_S,
    threads: int | None = 1,
) -> Ended:
    """Run a command in a fork.

    Args:
        arguments: verb and flags.
        before: called in the fork first.
        kill_after_s: when SIGKILL is sent, unless the command has ended.
        timeout_s: when it is sent in any case.
        threads: of torch; None: as many as it takes by itself. A sum in another order is another sum.
    """
    with tempfile.TemporaryFile() as output:
        start_s = time.perf_counter()
        child = os.fork()
        if not child:
            _serve(arguments, before, output, threads)
        killed_s = start_s + min(timeout_s, timeout_s if kill_after_s is None else kill_after_s)
        status = _wait(child, killed_s)
        ended_s = time.perf_counter()
        output.seek(0)
        text = output.read().decode(errors="replace")
    exit_code = os.waitstatus_to_exitcode(status)
    return Ended(exit_code=exit_code, output=text, wall_time_s=ended_s - start_s, ended_s=ended_s)


def failure_line(folder: Path, *parts: object) -> str:
    """A failure in one line, without the names of this machine's folders."""
    return one_line(": ".join(str(part) for part in parts).replace(str(folder), "DIR"))[:_LONGEST_FAILURE]


def _serve(arguments: Sequence[str], before: Callable[[], object], output: IO[bytes], threads: int | None) -> None:
    """Run a command as Python would, and end this process."""
    exit_code = 1
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        before()
        exit_code = main(arguments)
    except SystemExit as ending:
        exit_code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _wait(child: int, killed_s: float) -> int:
    """The status of a process, which is killed at a time of ``time.perf_counter``."""
    while time.perf_counter() < killed_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(_POLL_S)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

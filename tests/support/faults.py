"""Faults of the disk: the k-th call of a kind fails, or the process is killed there.

Three ways, from the fastest to the most thorough:

- :func:`failing_call`, in this process, on any system. It does not see what C and Rust do.
- :func:`campaign`, in a process with the shim (``faults.c``): it forks for each fault, so nothing is imported twice.
- :func:`run_with_fault`, for whole commands. The shim reads these variables, and child processes inherit them:
  FAULT_FOLDER (only paths in it count), FAULT_CALL (one of CALLS, or "any"), FAULT_NUMBER (k; 0 only counts),
  FAULT_ERRNO or FAULT_KILL, FAULT_LASTING (all later calls fail too), FAULT_COUNT_FILE (the counts of all processes).
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from splade_bench.errors import SpladeBenchError

CALLS = ("write", "fsync", "rename", "mkdir", "open", "remove")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
KILLED = -9
_SHIM = Path(__file__).with_name("faults.c")
_KINDS = (*CALLS, "any")
_COUNT_BYTES = 8
_FAILED, _DEFECT = 1, 70
# Files in memory: the faults are the same there, without the time of a disk.
_MEMORY_FOLDER = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens at call ``number`` (from 1) of a kind. ``error`` None: the process is killed there."""

    call: str = "any"
    number: int = 0
    error: int | None = None
    lasting: bool = False

    def __str__(self) -> str:
        what = "kill" if self.error is None else errno.errorcode[self.error] + " from then on" * self.lasting
        return f"{self.call} {self.number}: {what}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a process with a fault ended. ``counts``: calls in the folder, by kind."""

    exit_code: int
    stdout: str
    stderr: str
    counts: Mapping[str, int]


@contextmanager
def failing_call(number: int, error: int) -> Iterator[list[str]]:
    """In the block, call ``number`` of open, fsync, rename or mkdir fails; the names of the calls so far."""
    seen: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*arguments: Any, **keywords: Any) -> Any:
            seen.append(name)
            if len(seen) == number:
                raise OSError(error, os.strerror(error), arguments[0])
            return call(*arguments, **keywords)

        return counted_call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", counted("open", io.open))  # pathlib's
        for name in ("open", "fsync", "rename", "replace", "mkdir"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield seen


def build_shim(folder: Path) -> Path:
    """The compiled shim; skips the test where there cannot be one."""
    compiler = shutil.which("cc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    shim = folder / "faults.so"
    subprocess.run([compiler, "-Wall", "-Werror", "-shared", "-fPIC", "-o", shim, _SHIM, "-ldl"], check=True)
    return shim


def run_with_fault(
    command: Sequence[str],
    *,
    shim: Path,
    folder: Path,
    fault: Fault | None = None,
    timeout_s: float = 120.0,
) -> Outcome:
    """Run a command with a fault in ``folder``; without one, its calls are only counted."""
    with tempfile.NamedTemporaryFile() as count_file:
        count_file.truncate(_COUNT_BYTES * len(_KINDS))
        environment = {**os.environ, **variables(folder, fault or Fault()), "FAULT_COUNT_FILE": count_file.name}
        finished = subprocess.run(
            command, env={**environment, "LD_PRELOAD": str(shim)}, capture_output=True, text=True, timeout=timeout_s
        )
        counts = memoryview(Path(count_file.name).read_bytes()).cast("Q")
    return Outcome(
        exit_code=finished.returncode,
        stdout=finished.stdout,
        stderr=finished.stderr,
        counts=dict(zip(_KINDS, counts, strict=True)),
    )


def variables(folder: Path, fault: Fault) -> Mapping[str, str]:
    """A fault as the shim reads it from the environment."""
    how = {"FAULT_KILL": "1"} if fault.error is None else {"FAULT_ERRNO": str(fault.error)}
    lasting = {"FAULT_LASTING": "1"} if fault.lasting else {}
    named = {"FAULT_FOLDER": str(folder.resolve()), "FAULT_CALL": fault.call, "FAULT_NUMBER": str(fault.number)}
    return {**named, **how, **lasting}


def arm(folder: Path, fault: Fault) -> None:
    """From now on, count the calls of this process in ``folder``, with this fault. It must have the shim."""
    number = ctypes.c_uint64(fault.number)
    path = os.fsencode(folder.resolve())
    _loaded_shim().fault_arm(path, fault.call.encode(), number, fault.error or 0, fault.lasting)


def shared_counts() -> Mapping[str, int]:
    """The calls since the last :func:`arm`, of this process or of a fork of it, by kind."""
    shim = _loaded_shim()
    shim.fault_counts.restype = ctypes.POINTER(ctypes.c_uint64)
    return dict(zip(_KINDS, shim.fault_counts()[: len(_KINDS)], strict=True))


def _loaded_shim() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ["LD_PRELOAD"])


def faults(counts: Mapping[str, int]) -> Iterator[Fault]:
    """Each call fails with each error, once and from then on; and the process is killed at each call."""
    for call in CALLS:
        for number in range(1, counts[call] + 1):
            for error in ERRORS:
                yield Fault(call=call, number=number, error=error)
                yield Fault(call=call, number=number, error=error, lasting=True)
    for number in range(1, counts["any"] + 1):
        yield Fault(number=number)


def campaign(
    prepare: Callable[[Path], None],
    action: Callable[[Path], None],
    check: Callable[[Path, Fault, int], None],
) -> Mapping[str, int]:
    """Try every fault of ``action``, each in a new folder and a fork of this process, which has the shim.

    Args:
        prepare: fills the folder before the fault.
        action: what may fail, with an OSError or an error of this package.
        check: raises if the folder is not as it should be. It gets the exit code: 0, 1 (it failed) or KILLED.

    Returns:
        Numbers of faults, by kind and how they ended.
    """
    tried: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=_MEMORY_FOLDER if _MEMORY_FOLDER.is_dir() else None) as root:
        folders = (Path(root) / str(number) for number in range(10**6))
        first = next(folders)
        prepare(first)
        assert _forked(action, first, Fault()) == 0
        for fault in faults(shared_counts()):
            folder = next(folders)
            prepare(folder)
            exit_code = _forked(action, folder, fault)
            try:
                assert exit_code in (0, _FAILED, KILLED), exit_code
                assert (exit_code == KILLED) == (fault.error is None), exit_code
                check(folder, fault, exit_code)
            except BaseException as error:
                raise AssertionError(f"{fault}: exit code {exit_code}") from error
            shutil.rmtree(folder)
            kind = f"{replace(fault, number=0)} -> {exit_code}"
            tried[kind] = tried.get(kind, 0) + 1
    return tried


def _forked(action: Callable[[Path], None], folder: Path, fault: Fault) -> int:
    """The exit code of a fork of this process that does ``action`` with a fault."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    exit_code = _DEFECT
    try:
        arm(folder, fault)
        action(folder)
        exit_code = 0
    except (OSError, SpladeBenchError):
        exit_code = _FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_code)

"""Measures one call of a function in a fresh process. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splade_bench.bench.child_processes import ChildProcesses
from splade_bench.bench.fresh_folder import FreshFolder
from splade_bench.bench.isolate import WorkerError, WorkerProcess, figures_of_passes, result_of
from splade_bench.bench.protocol import CallRequest, MemoryPass
from splade_bench.errors import ConfigError
from splade_bench.measure.machine import taken_on, utc_now
from splade_bench.results.records import CallResult

_LONGEST_SHOWN = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRunner:
    """Runs functions in fresh processes."""

    timeout_s: float
    memory_passes: Sequence[MemoryPass] = ()
    """Each runs the call once more, in a process of its own, if the timed call returned."""
    memory_timeline: bool = False

    def measure(
        self,
        name: str,
        request: CallRequest,
        *,
        memory_limit_bytes: int | None = None,
        folder: Path | None = None,
    ) -> CallResult:
        """Make the call in a fresh process. A failure of the call is part of the result, not an exception.

        Each memory pass finds ``folder`` as it was before the timed call.

        Raises:
            DataError: the files of ``folder`` cannot be copied.
        """
        request = replace(request, memory_limit_bytes=memory_limit_bytes, memory_timeline=self.memory_timeline)
        started_at = utc_now()
        with FreshFolder(folder if self.memory_passes else None) as fresh:
            try:
                measured = self._timed_with_children(request) | {"status": "ok"}
            except WorkerError as failure:
                measured = failure.values
            else:
                passes = [replace(request, measure=name) for name in self.memory_passes if name != "plan"]
                figures = figures_of_passes(passes, timeout_s=self.timeout_s, on_pass=lambda _: fresh.renew())
                measured |= {"pass_differences": _differences(measured["value"], figures.pop("pass_values", {}))}
                measured |= figures
        return CallResult(
            **(taken_on() | measured), name=name, memory_limit_bytes=memory_limit_bytes, started_at=started_at
        )

    def value_of(self, request: CallRequest) -> Any:
        """What the function returns, called in a fresh process.

        Raises:
            WorkerError: the call failed.
        """
        return self._timed(request)["value"]

    def floor_bytes(self, request: CallRequest) -> int:
        """Resident memory of a worker that has imported the function's module: a memory limit must be above it.

        Raises:
            WorkerError: it could not be measured, as when the module cannot be imported.
        """
        return int(result_of(replace(request, measure="floor"), timeout_s=self.timeout_s)["floor_bytes"])

    def _timed_with_children(self, request: CallRequest) -> dict[str, Any]:
        """As :meth:`_timed`, with the memory of the call's child processes in the peak, also if the call fails."""
        with WorkerProcess(request, timeout_s=self.timeout_s) as process:
            children = ChildProcesses(process.wait_for("ready")["pid"])
            with children:
                try:
                    process.go()
                except WorkerError as failure:
                    raise WorkerError(**children.counted(failure.values)) from None
            return children.counted(process.wait_for("result"))

    def _timed(self, request: CallRequest) -> dict[str, Any]:
        with WorkerProcess(request, timeout_s=self.timeout_s) as process:
            process.wait_for("ready")
            process.go()
            return process.wait_for("result")


def _differences(value: Any, pass_values: Mapping[str, Any]) -> dict[str, str] | None:
    """Memory passes whose call returned another value than the timed one; fractions, as of seconds, may differ."""
    whole = _without_fractions(value)
    others = {
        name: other for name, other in pass_values.items() if other != value and _without_fractions(other) != whole
    }
    return {name: f"returned {_short(other)}, the timed call {_short(value)}" for name, other in others.items()} or None


def _without_fractions(value: Any) -> Any:
    """A JSON value with every fraction replaced by one thing."""
    if isinstance(value, dict):
        return {name: _without_fractions(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_fractions(part) for part in value]
    return float if isinstance(value, float) else value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def call_request(function: Callable[..., object], /, *arguments: Any, **keywords: Any) -> CallRequest:
    """The request to call ``function`` in another process, which finds it by its name: nothing is pickled.

    Raises:
        ConfigError: the function is not at the top of a module with a file, or an argument does not survive JSON.
    """
    name = getattr(function, "__qualname__", repr(function))
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    file = getattr(module, "__file__", None)
    by_name: Any = module
    for part in name.split("."):
        by_name = getattr(by_name, part, None)
    if module is None or file is None or by_name is not function:
        raise ConfigError(f"{name} cannot be called in another process: move it to the top of a module")
    try:
        if json.loads(json.dumps([arguments, keywords])) != [list(arguments), keywords]:
            raise TypeError("one of them would change (a tuple becomes a list)")
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} is called in another process with JSON arguments: {error}; use numbers, text, lists, dictionaries"
        ) from error
    return CallRequest(module=module.__name__, file=file, function=name, arguments=list(arguments), keywords=keywords)

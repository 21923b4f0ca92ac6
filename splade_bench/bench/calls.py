"""One call of a function from start to result, seen from the process that asked for it. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from splade_bench.bench.isolate import CellError, WorkerProcess, figures_of_passes
from splade_bench.bench.protocol import CallRequest, MemoryPass
from splade_bench.errors import ConfigError
from splade_bench.measure.machine import taken_on, utc_now
from splade_bench.results.records import CallResult


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRunner:
    """Runs functions in fresh processes."""

    timeout_s: float
    memory_passes: Sequence[MemoryPass] = ()
    """Taken of calls that came to their end, each by another call in a process of its own."""
    memory_timeline: bool = False
    memory_limit_bytes: int | None = None

    def measure(
        self, name: str, function: Callable[..., object], arguments: Sequence[Any], keywords: Mapping[str, Any]
    ) -> CallResult:
        """Call ``function`` in a process of its own; what happens there is the result, not an exception.

        Raises:
            ConfigError: another process could not call it so: see :func:`call_request`.
        """
        request = replace(
            call_request(function, arguments, keywords),
            memory_limit_bytes=self.memory_limit_bytes,
            memory_timeline=self.memory_timeline,
        )
        started_at = utc_now()
        try:
            with WorkerProcess(request, timeout_s=self.timeout_s) as process:
                process.wait_for("ready")
                process.go()
                measured = process.wait_for("result") | {"status": "ok"}
        except CellError as failure:
            measured = failure.values
        else:
            # A call is not planned: only this package's own training is.
            passes = [name for name in self.memory_passes if name != "plan"]
            measured |= figures_of_passes(request, passes, timeout_s=self.timeout_s)
        return CallResult(
            **(taken_on() | measured), name=name, memory_limit_bytes=self.memory_limit_bytes, started_at=started_at
        )

    def floor_bytes(self, function: Callable[..., object]) -> int:
        """Resident memory of a worker that has imported the function's module: no memory limit can be below it.

        Raises:
            ConfigError: another process could not call it: see :func:`call_request`.
            CellError: it could not be measured, as where the module cannot be imported.
        """
        request = replace(call_request(function, [], {}), measure="floor")
        with WorkerProcess(request, timeout_s=self.timeout_s) as process:
            return int(process.wait_for("result")["floor_bytes"])


def call_request(function: Callable[..., object], arguments: Sequence[Any], keywords: Mapping[str, Any]) -> CallRequest:
    """What another process needs to call ``function``: it is found by its name, and nothing is pickled.

    Raises:
        ConfigError: the function has no name at the top of a file's module, or an argument is not JSON's.
    """
    name = getattr(function, "__qualname__", repr(function))
    module = sys.modules.get(getattr(function, "__module__", "") or "")
    file = getattr(module, "__file__", None)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if module is None or file is None or found is not function:
        raise ConfigError(f"{name} cannot be called in another process: move it to the top of a module")
    try:
        if json.loads(json.dumps([list(arguments), dict(keywords)])) != [list(arguments), dict(keywords)]:
            raise TypeError("an argument changes on its way through JSON, as a tuple does")
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} is called in another process, so its arguments must be JSON's (numbers, text, lists): {error}"
        ) from error
    return CallRequest(
        module=module.__name__,
        file=file,
        function=name,
        arguments=list(arguments),
        keywords=dict(keywords),
        path=[str(folder) for folder in sys.path],
    )

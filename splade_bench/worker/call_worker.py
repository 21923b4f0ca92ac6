"""Any function inside a process of its own: ``python -m splade_bench.worker.call_worker``.

Imports the function's module, says ``ready``, waits for ``go``, calls it, says ``done`` and ends with a ``result``.
Imports torch only where the module does.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from splade_bench.bench.protocol import CallRequest
from splade_bench.device.heap import call_after_trim
from splade_bench.measure.device import device_memory
from splade_bench.measure.limits import limit_rss, renew_limit
from splade_bench.measure.machine import machine_info
from splade_bench.measure.rss import current_rss_bytes
from splade_bench.worker.probes import Probes, heap_fields, live_fields, pinned_fields
from splade_bench.worker.serving import Send, claim_standard_output, serve, wait_for_go

_LONGEST_VALUE = 10**6


class CallWorker:
    """The life of one measured call."""

    def __init__(self, request: CallRequest, send: Send, wait_for_go: Callable[[], None]) -> None:
        self.request = request
        self.measured: dict[str, Any] = {"machine": machine_info()}
        self.phase = "import"
        self._send = send
        self._wait_for_go = wait_for_go

    def run(self) -> None:
        """Import, call, and send the result."""
        function = load_function(self.request)
        self.phase = "call"

        def call() -> object:
            return function(*self.request.arguments, **self.request.keywords)

        if self.request.measure == "time":
            self._timed(call)
        elif self.request.measure == "floor":
            self.measured["floor_bytes"] = current_rss_bytes()
        elif self.request.measure == "heap":
            self.measured |= heap_fields(call)
        elif self.request.measure == "pinned":
            self.measured |= pinned_fields(call)
        elif "torch" in sys.modules:  # what makes no tensors has none to count
            self._count_live(call)
        self._send("result", self.measured)

    def _timed(self, call: Callable[[], object]) -> None:
        device = device_memory(_device_type())
        if self.request.memory_limit_bytes:  # of the process's memory and, where there is one, of the accelerator's
            limit_rss(self.request.memory_limit_bytes)
            call_after_trim(partial(renew_limit, self.request.memory_limit_bytes))
            device.limit(self.request.memory_limit_bytes)
        probes = Probes(device, phase=(lambda: self.phase) if self.request.memory_timeline else None)
        probes.start()
        self._send("ready", {})
        self._wait_for_go()
        start_s = time.perf_counter()
        try:
            with probes:
                value = call()
        finally:
            self.measured["wall_time_s"] = time.perf_counter() - start_s
            self.measured |= probes.fields()
        self.measured["value"] = _json_or_none(value)
        self._send("done", self.measured)

    def _count_live(self, call: Callable[[], object]) -> None:
        from splade_bench.device.storages import LiveStorages

        self.measured |= live_fields(call, LiveStorages())


def load_function(request: CallRequest) -> Callable[..., object]:
    """The function that the request names.

    Its module is imported by name where that finds the same file, so that relative imports work, else from its file.
    """
    sys.path[:] = request.path
    found: Any = _load_module(request)
    for name in request.function.split("."):
        found = getattr(found, name)
    return cast("Callable[..., object]", found)


def _load_module(request: CallRequest) -> ModuleType:
    try:
        spec = importlib.util.find_spec(request.module)
    except (ImportError, ValueError):  # a parent package that is not there
        spec = None
    if spec is not None and spec.origin and Path(spec.origin).resolve() == Path(request.file).resolve():
        return importlib.import_module(request.module)
    spec = importlib.util.spec_from_file_location(request.module, request.file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[request.module] = module
    spec.loader.exec_module(module)
    return module


def _device_type() -> str:
    """The accelerator that torch would use, where the module has imported torch."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _json_or_none(value: object) -> Any:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return None
    return json.loads(text) if len(text) <= _LONGEST_VALUE else None


def main() -> int:
    """Serve one request; the exit code is 0 when a result was sent."""
    send = claim_standard_output()
    return serve(CallWorker(CallRequest.from_line(sys.stdin.readline()), send, wait_for_go), send)


if __name__ == "__main__":
    raise SystemExit(main())

"""Measures a function inside its own process.

Imports the function's module, sends ``ready``, waits for ``go``, calls it, sends ``done`` and ends with a ``result``.
Imports torch only if the module does.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from splade_bench.bench.protocol import CallRequest
from splade_bench.measure.device import device_memory
from splade_bench.measure.rss import current_rss_bytes
from splade_bench.measure.usage import children_usage
from splade_bench.worker.completion import run_to_end
from splade_bench.worker.probes import Fields, TimePassProbes, heap_fields, live_fields, pinned_fields
from splade_bench.worker.serving import Worker, claim_standard_output, limit_process, serve, wait_for_go

_LONGEST_VALUE = 10**6


class CallWorker(Worker[CallRequest]):
    """Measures one call, in the way that the request names."""

    def run(self) -> None:
        """Import, call, and send the result."""
        self.phase = "import"
        if self.request.measure == "heap":
            heap_fields(lambda: None)  # imports what memray needs, before the project's modules of the same names
        sys.path[:] = self.request.path
        function = attrgetter(self.request.function)(_load_module(self.request))
        self.phase = "call"
        passes: Mapping[str, Callable[[Callable[[], object]], Fields]] = {
            "time": self._time_pass,
            "floor": lambda _: {"floor_bytes": current_rss_bytes()},
            "heap": heap_fields,
            "pinned": pinned_fields,
            "live": _live_pass,
        }
        returned: list[object] = []

        def call() -> None:
            returned.append(run_to_end(partial(function, *self.request.arguments, **self.request.keywords)))

        self.measured |= passes[self.request.measure](call)
        if returned:
            self.measured["value"] = _json_or_none(returned[0])
        self.send("result", self.measured)

    def _time_pass(self, call: Callable[[], object]) -> Fields:
        device = device_memory(_device_type())
        if self.request.memory_limit_bytes:  # a limit on the process's memory and on the accelerator's, if there is one
            limit_process(self.request.memory_limit_bytes)
            device.limit(self.request.memory_limit_bytes)
        probes = TimePassProbes(device, phase=(lambda: self.phase) if self.request.memory_timeline else None)
        probes.start()
        self.send("ready", {"pid": os.getpid()})
        wait_for_go()
        children_before = children_usage()
        start_s = time.perf_counter()
        try:
            with probes:
                call()
        finally:
            self.measured["wall_time_s"] = time.perf_counter() - start_s
            self.measured |= probes.fields()
            self.measured["child_processes"] = int(children_usage() != children_before)  # at least so many
        self.send("done", {})
        return {}


def _load_module(request: CallRequest) -> ModuleType:
    """The function's module: by name if that finds the same file, so that relative imports work; else from its file."""
    if request.file is None:
        return importlib.import_module(request.module)
    try:
        spec = importlib.util.find_spec(request.module)
    except (ImportError, ValueError):  # its parent package does not exist
        spec = None
    if spec is not None and spec.origin and Path(spec.origin).resolve() == Path(request.file).resolve():
        return importlib.import_module(request.module)
    spec = importlib.util.spec_from_file_location(request.module, request.file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[request.module] = module
    spec.loader.exec_module(module)
    return module


def _live_pass(call: Callable[[], object]) -> Fields:
    if "torch" not in sys.modules:  # such a module makes no tensors
        return {}
    from splade_bench.device.storages import LiveStorages

    return live_fields(call, LiveStorages())


def _device_type() -> str:
    """The accelerator that torch would use, if the module has imported torch."""
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
    """Serve one request; the exit code is 0 if it sent a result."""
    send = claim_standard_output()
    return serve(CallWorker(CallRequest.from_line(sys.stdin.readline()), send))


if __name__ == "__main__":
    raise SystemExit(main())

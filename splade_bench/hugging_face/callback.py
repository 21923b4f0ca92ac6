"""This package's measurements in any Trainer of transformers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback

from splade_bench.files import write_whole_file
from splade_bench.json_records import json_text
from splade_bench.measure.device import DeviceMemory, device_memory
from splade_bench.measure.rss import PeakRss


class HasActiveDims(Protocol):
    """A loss that knows how many entries of its last batch's vectors were active."""

    query_active_dims: float | None
    document_active_dims: float | None


class MemoryCallback(TrainerCallback):
    """Records peak memory and time, with the names of this package's records: in each log, and in a JSON file.

    Create it before the model: the runtime memory, which is subtracted from a peak, is that at its creation.

    Args:
        path: a JSON file, written after the training. None: none.
        loss: whose active dims are recorded too. None: none.

    Does not see: other processes of the same training; on an accelerator, work that an optimizer step has only
    started when the next one begins.
    """

    def __init__(self, path: Path | str | None = None, *, loss: HasActiveDims | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._loss = loss
        self._peak_rss = PeakRss()
        self._peak_rss.start()
        self._device = DeviceMemory()
        self._device_peaks: dict[str, int] = {}
        self._step_times_s: list[float] = []
        self._logged_steps = 0
        self._started_s = self._step_started_s = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clocks."""
        self._device = device_memory(args.device.type)
        self._device.start()
        self._started_s = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An optimizer step begins."""
        self._step_started_s = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An optimizer step is done."""
        self._step_times_s.append(time.perf_counter() - self._step_started_s)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Add the figures so far to a log, and to its entry in the history."""
        times_s = self._step_times_s[self._logged_steps :]
        self._logged_steps = len(self._step_times_s)
        figures = {name: value for name, value in self._figures(times_s).items() if isinstance(value, int | float)}
        if logs is not None:
            logs.update(figures)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(figures)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the file."""
        if self._path is None or not state.is_world_process_zero:
            return
        # The first step loads kernels and makes the optimizer's states.
        figures = self._figures(self._step_times_s[1:] or self._step_times_s)
        figures |= {
            "optimizer_steps": state.global_step,
            "wall_time_s": time.perf_counter() - self._started_s,
            "step_times_s": self._step_times_s,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole_file(self._path, json_text(figures) + "\n")

    def _figures(self, times_s: list[float]) -> dict[str, Any]:
        peak = self._peak_rss.read()
        figures: dict[str, Any] = {
            "baseline_rss_bytes": peak.start_bytes,
            "peak_rss_bytes": peak.peak_bytes,
            "peak_rss_source": peak.source,
            **self._device_figures(),
            "step_time_s": statistics.median(times_s) if times_s else None,
        }
        if self._loss is not None:
            figures["query_active_dims"] = self._loss.query_active_dims
            figures["document_active_dims"] = self._loss.document_active_dims
        return figures

    def _device_figures(self) -> Mapping[str, Any]:
        """The peaks on an accelerator; none on a CPU."""
        peak = self._device.read()
        self._device.start()  # reading ends a measurement
        if peak.source is None:
            return {}
        for name, peak_bytes in (("allocated", peak.allocated_bytes), ("reserved", peak.reserved_bytes)):
            self._device_peaks[name] = max(peak_bytes or 0, self._device_peaks.get(name, 0))
        return {
            "device_peak_allocated_bytes": self._device_peaks["allocated"],
            "device_peak_reserved_bytes": self._device_peaks["reserved"],
            "device_peak_source": peak.source,
        }

"""Reads the memory probes of this process, as fields of a measurement."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from splade_bench.measure.device import DeviceMemory
from splade_bench.measure.heap import measure_heap
from splade_bench.measure.rss import PeakRss
from splade_bench.measure.timeline import MemorySampler
from splade_bench.measure.usage import usage_between, usage_now

if TYPE_CHECKING:
    from splade_bench.device.storages import LiveStorages

# Fields of a splade_bench.results.records.Measurement, by name.
Fields = dict[str, Any]


class TimePassProbes:
    """The probes of the time pass, which cost next to nothing, and the sampler if ``phase`` is given.

    The peak of resident memory counts from :meth:`start`, the other figures from the start of the block.
    """

    def __init__(self, device: DeviceMemory, *, phase: Callable[[], str] | None = None) -> None:
        self._device = device
        self._sampler = MemorySampler(phase=phase) if phase else None
        self._peak_rss = PeakRss()
        self._sampling = ExitStack()
        self._usage: Fields = {}

    def start(self) -> None:
        """Note the runtime memory, before anything exists that counts."""
        self._device.start()  # a device's context belongs to the runtime
        self._peak_rss.start()

    def __enter__(self) -> None:
        self._device.start()
        if self._sampler:
            self._sampling.enter_context(self._sampler)
        self._before = usage_now()

    def __exit__(self, *_: object) -> None:
        self._usage = dict(usage_between(self._before, usage_now()))
        self._sampling.close()

    def fields(self) -> Fields:
        """The measured fields, also if the block ended early."""
        peak_rss, device_peak = self._peak_rss.read(), self._device.read()
        fields = self._usage | {
            "baseline_rss_bytes": peak_rss.start_bytes,
            "peak_rss_bytes": peak_rss.peak_bytes,
            "peak_rss_source": peak_rss.source,
            "device_peak_allocated_bytes": device_peak.allocated_bytes,
            "device_peak_reserved_bytes": device_peak.reserved_bytes,
            "device_peak_source": device_peak.source,
        }
        if self._sampler:
            timeline = self._sampler.timeline
            fields["sampled_peak_rss_bytes"] = self._sampler.peak_bytes
            fields["sampler_cpu_time_s"] = self._sampler.cpu_time_s
            fields["memory_timeline"] = timeline.samples
        return fields


def heap_fields(call: Callable[[], object]) -> Fields:
    """Run ``call`` under memray; no fields where memray does not run."""
    heap = measure_heap(call)
    if heap is None:
        return {}
    return {
        "memray_peak_bytes": heap.peak_bytes,
        "memray_allocations": heap.allocations,
        "memray_allocated_bytes": heap.allocated_bytes,
        "memray_top_sites": heap.top_sites,
    }


def pinned_fields(call: Callable[[], object]) -> Fields:
    """Run ``call`` in an environment that pins the allocator, :data:`splade_bench.bench.isolate.PINNED_ENVIRONMENT`."""
    peak_rss = PeakRss()
    peak_rss.start()
    call()
    peak = peak_rss.read()
    return {"pinned_baseline_rss_bytes": peak.start_bytes, "pinned_peak_rss_bytes": peak.peak_bytes}


def live_fields(call: Callable[[], object], live: LiveStorages) -> Fields:
    """Run ``call`` while ``live`` counts its tensors."""
    with live:
        call()
    peak = live.peak()
    return {
        "live_peak_bytes": peak.peak_bytes,
        "live_peak_by_category": dict(peak.by_category),
        "live_peak_by_phase": dict(peak.by_phase),
        "live_peak_phase": peak.phase,
        "live_peak_operator": peak.operator,
    }

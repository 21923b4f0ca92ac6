"""Resident memory over time, sampled by a thread, with the part of the run that was under way.

Does not see: a peak that rises and falls between two samples; :mod:`splade_bench.measure.rss` has the kernel's. On
Linux a sample may be some hundred KiB off, and so above the kernel's: each processor counts its own pages for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

import psutil
from typing_extensions import Self

from splade_bench.measure.rss import RssReader

INTERVAL_S = 0.01
MAX_SAMPLES = 4096


class Sample(NamedTuple):
    """One reading. A plain tuple: between two of them training has emptied the processor's caches, and all is slow."""

    time_s: float
    rss_bytes: int
    phase: str


@dataclass(kw_only=True, slots=True)
class Timeline:
    """Samples in order of time. When they grow many, every other one is dropped, the larger of each two kept."""

    samples: list[Sample] = field(default_factory=list)
    interval_s: float = INTERVAL_S

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        if len(self.samples) >= MAX_SAMPLES:
            pairs = zip(self.samples[::2], self.samples[1::2], strict=True)
            self.samples = [max(pair, key=lambda one: one.rss_bytes) for pair in pairs]
            self.interval_s *= 2

    @property
    def peak_bytes(self) -> int:
        return max((sample.rss_bytes for sample in self.samples), default=0)


class MemorySampler:
    """Samples memory in a daemon thread while it is entered: resident memory, or whatever ``read`` returns.

    Its own cost is measured by the thread's clock, ``cpu_time_s`` against ``wall_time_s``: 0.6 to 1.3 % of a core, more
    than half of it for being woken (``reports/NEGATIVE.md``).
    """

    def __init__(self, *, phase: Callable[[], str] = lambda: "", read: Callable[[], int] | None = None) -> None:
        self.timeline = Timeline()
        self.cpu_time_s = 0.0
        self.wall_time_s = 0.0
        self._phase = phase
        self._read = read
        # Held until the end. An event says the same at more than twice the cost: it makes a lock for each wait.
        self._running = threading.Lock()
        self._thread = threading.Thread(target=self._sample, name="memory-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._running.acquire()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.release()
        self._thread.join()

    def _sample(self) -> None:
        start_s = time.perf_counter()
        timeline, phase, clock = self.timeline, self._phase, time.perf_counter
        ended = self._running.acquire
        with closing(RssReader()) as rss:
            read = self._read or rss.read
            while True:
                timeline.add(Sample(clock() - start_s, read(), phase()))
                if ended(timeout=timeline.interval_s):
                    break
        self.cpu_time_s, self.wall_time_s = time.thread_time(), clock() - start_s


def total_memory_bytes() -> int:
    """Memory of the machine."""
    return int(psutil.virtual_memory().total)

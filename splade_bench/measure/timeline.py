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

import psutil
from typing_extensions import Self

from splade_bench.measure.rss import RssReader

INTERVAL_S = 0.01
MAX_SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading."""

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
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        start_s = time.perf_counter()
        with closing(RssReader()) as rss:
            read = self._read or rss.read
            stopped = False
            while not stopped:
                now_s = time.perf_counter() - start_s
                self.timeline.add(Sample(now_s, read(), self._phase()))
                self.cpu_time_s = time.thread_time()
                self.wall_time_s = now_s
                stopped = self._stop.wait(self.timeline.interval_s)


def total_memory_bytes() -> int:
    """Memory of the machine."""
    return int(psutil.virtual_memory().total)

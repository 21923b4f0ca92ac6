"""Resident memory over time, sampled by a thread, with the phase of the run at each sample.

Does not see: a peak that rises and falls between two samples; :mod:`splade_bench.measure.rss` has the kernel's. On
Linux a sample may be some hundred KiB off, so above the kernel's mark: each processor counts its pages separately and
adds them up now and then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from typing_extensions import Self

from splade_bench.errors import error_line
from splade_bench.measure.rss import RssReader

logger = logging.getLogger(__name__)

INTERVAL_S = 0.01
MAX_SAMPLES = 4096
# Between two readings, the thread waits at least this many times as long as a reading takes of its processor time.
_REST = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading."""

    time_s: float
    rss_bytes: int
    phase: str


@dataclass(kw_only=True, slots=True)
class Timeline:
    """Samples in order of time. Of more than :data:`MAX_SAMPLES`, only the larger of each two neighbours is kept."""

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
    """Samples resident memory, or what ``read`` returns, in a daemon thread while the block is entered.

    The thread's clock measures the cost, ``cpu_time_s`` against ``wall_time_s``: 0.6 to 1.3 % of a core, more than half
    of it for waking up (``reports/NEGATIVE.md``).

    A thread that cannot start, or fails, does not disturb the block: ``error`` says why, and there is no peak.
    """

    def __init__(self, *, phase: Callable[[], str] = lambda: "", read: Callable[[], int] | None = None) -> None:
        self.timeline = Timeline()
        self.cpu_time_s = 0.0
        self.wall_time_s = 0.0
        self.error: str | None = None
        self._phase = phase
        self._read = read
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-sampler", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads
            self._fail(error)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:  # it was started
            self._thread.join()

    @property
    def peak_bytes(self) -> int | None:
        """The largest sample; None if sampling failed."""
        return None if self.error else self.timeline.peak_bytes

    def _fail(self, error: Exception) -> None:
        self.error = error_line(error)
        logger.warning("memory is not sampled any more: %s", self.error)

    def _sample(self) -> None:
        try:
            self._sample_until_stopped()
        except Exception as error:  # of any reader, in a thread whose errors nobody would catch
            self._fail(error)

    def _sample_until_stopped(self) -> None:
        start_s = time.perf_counter()
        with closing(RssReader()) as rss:
            read = self._read or rss.read_own
            stopped = False
            while not stopped:
                now_s = time.perf_counter() - start_s
                cpu_before_s = time.thread_time()
                self.timeline.add(Sample(now_s, read(), self._phase()))
                self.cpu_time_s = time.thread_time()
                took_s = self.cpu_time_s - cpu_before_s
                self.wall_time_s = now_s
                stopped = self._stop.wait(max(self.timeline.interval_s, _REST * took_s))

"""How much the resident memory of this process grows during a block, independent of what it held before.

Does not see: where the kernel's mark cannot be reset (macOS, Windows, some sandboxes), a peak between two samples.
"""

from __future__ import annotations

from contextlib import ExitStack

from typing_extensions import Self

from splade_bench.measure.rss import PeakRss
from splade_bench.measure.timeline import MemorySampler


class PeakGrowth:
    """A block. Afterwards ``peak_bytes`` is its largest resident memory minus that at its start, and at least 0."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._mark = PeakRss()
        self._sampling = ExitStack()

    def __enter__(self) -> Self:
        self._mark.start()
        if not self._mark.resettable:
            self._sampler = self._sampling.enter_context(MemorySampler())
        return self

    def __exit__(self, *_: object) -> None:
        self._sampling.close()
        memory = self._mark.read()
        peak_bytes = memory.peak_bytes if self._mark.resettable else self._sampler.timeline.peak_bytes
        self.peak_bytes = max(0, peak_bytes - memory.start_bytes)

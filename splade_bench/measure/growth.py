"""How far this process's memory rises over a block, whatever it held before.

Does not see: where the kernel's mark cannot be reset (macOS, Windows, some sandboxes), a peak between two samples.
"""

from __future__ import annotations

from types import TracebackType

from typing_extensions import Self

from splade_bench.measure.rss import PeakRss, current_rss_bytes
from splade_bench.measure.timeline import MemorySampler


class PeakGrowth:
    """A block whose ``peak_bytes`` is its largest resident memory less that at its start; 0 if it only fell."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._mark = PeakRss()
        self._sampler: MemorySampler | None = None

    def __enter__(self) -> Self:
        self._mark.start()
        if not self._mark.resettable:
            self._baseline_bytes = current_rss_bytes()
            self._sampler = MemorySampler()
            self._sampler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is None:
            self.peak_bytes = self._mark.read().delta_bytes
        else:
            self._sampler.__exit__(kind, error, trace)
            self.peak_bytes = max(0, self._sampler.timeline.peak_bytes - self._baseline_bytes)

"""How much the resident memory of this process grows during a block, independent of what it held before.

Does not see: the memory of child processes. Where the kernel's mark cannot be reset (macOS, Windows, some sandboxes): a
peak between two samples.
"""

from __future__ import annotations

from contextlib import ExitStack

from typing_extensions import Self

from splade_bench.errors import SpladeBenchError
from splade_bench.measure.rss import PeakRss
from splade_bench.measure.timeline import MemorySampler
from splade_bench.measure.usage import children_usage


class PeakGrowth:
    """A block of code whose growth is measured. To enter and to leave it raises nothing; to ask for the growth may."""

    def __init__(self) -> None:
        self._grown_bytes: int | None = None
        self._reason = "the block has not ended"
        self.had_children = False
        """Whether child processes ended in the block."""
        self._mark = PeakRss()
        self._sampling = ExitStack()

    def __enter__(self) -> Self:
        self._children_before = children_usage()
        self._mark.start()
        if not self._mark.resettable:
            self._sampler = self._sampling.enter_context(MemorySampler())
        return self

    def __exit__(self, *_: object) -> None:
        self._sampling.close()
        self.had_children = children_usage() != self._children_before
        memory = self._mark.read()
        peak_bytes = memory.peak_bytes if self._mark.resettable else self._sampler.peak_bytes
        if peak_bytes is None or memory.start_bytes is None:
            self._reason = memory.source
        else:
            self._grown_bytes = max(0, peak_bytes - memory.start_bytes)

    @property
    def peak_bytes(self) -> int:
        """The largest resident memory in the block minus that at its start, and at least 0.

        Raises:
            SpladeBenchError: this system does not report resident memory, so no limit on it can be judged.
        """
        if self._grown_bytes is None:
            raise SpladeBenchError(f"the growth of this process cannot be measured here ({self._reason})")
        return self._grown_bytes

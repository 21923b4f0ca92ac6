"""Counts the child processes of a measured call in its peak RSS, and says how that was done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from typing_extensions import Self

from splade_bench.measure.process_tree import ProcessTree
from splade_bench.measure.rss import NOT_MEASURED
from splade_bench.measure.timeline import INTERVAL_S, MemorySampler

_SAMPLED = f"sampled every {INTERVAL_S * 1000:.0f} ms"


class ChildProcesses:
    """Inside the block, a thread of this process samples the memory of a measured process and its children.

    The measured process itself takes no part in it: a thread or a child of ours there would change what its own
    ``fork`` and ``wait`` do.
    """

    def __init__(self, pid: int) -> None:
        self._tree = ProcessTree(pid)
        self._sampler = MemorySampler(read=self._tree.read)
        self._sampling = ExitStack()

    def __enter__(self) -> Self:
        self._sampling.enter_context(self._sampler)
        return self

    def __exit__(self, *_: object) -> None:
        self._sampling.close()

    def counted(self, measured: Mapping[str, Any]) -> dict[str, Any]:
        """The fields ``measured`` of the process, with its children in the peak.

        Without the kernel's mark, the peak is the largest sample.
        """
        seen = 0 if self._sampler.error else len(self._tree.children)
        count = max(seen, measured.get("child_processes") or 0)
        peak_bytes, source = measured.get("peak_rss_bytes"), measured.get("peak_rss_source") or NOT_MEASURED
        if peak_bytes is None and self._sampler.peak_bytes:
            peak_bytes, source = self._sampler.peak_bytes, f"{_SAMPLED} ({source.removeprefix(NOT_MEASURED)})"
        if self._tree.peak_with_children_bytes:
            peak_bytes = max(peak_bytes or 0, self._tree.peak_with_children_bytes)
            sampled = len(self._tree.counted)
            source = f"{source}; with {f'{sampled} of ' * (sampled < count)}{_text(count)}, {_SAMPLED}"
        elif count:
            source = f"{source}; without {_text(count)}, whose memory was not sampled"
        return {**measured, "child_processes": count, "peak_rss_bytes": peak_bytes, "peak_rss_source": source}


def _text(count: int) -> str:
    return f"{count} child process{'es' * (count > 1)}"

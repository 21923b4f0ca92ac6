"""The progress of a training for a person: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress

from tqdm import tqdm

from splade_bench.measure.machine import total_memory_bytes
from splade_bench.measure.readings import or_none
from splade_bench.measure.rss import PeakRss, known_rss_bytes
from splade_bench.report.formatting import MISSING
from splade_bench.training.state import StepLoss, TrainState
from splade_bench.training.step import Phase
from splade_bench.units import format_bytes

logger = logging.getLogger(__name__)

# Lines of progress in a whole run, where there is no bar.
_LINES = 10


class Progress:
    """Shows the loss, active dims and memory after an optimizer step; with memory tracking, peak memory too."""

    def __init__(self, *, peak_rss: PeakRss, memory_tracking: bool) -> None:
        self.phase: str = "setup"
        self._peak_rss = peak_rss
        self._memory_tracking = memory_tracking
        self._bar: tqdm | None = None

    def on_phase(self, phase: Phase) -> None:
        self.phase = phase

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        figures = {
            "loss": f"{loss.total:.3f}",
            "active dims": f"query {loss.query_active_dims:.0f}, document {loss.document_active_dims:.0f}",
            "memory": _bytes_or_missing(known_rss_bytes()),
        }
        on_terminal = sys.stderr.isatty()
        if on_terminal:
            self._update_bar(state, figures)
        interval = max(1, state.max_steps // _LINES)
        if state.global_step % interval == 0 or state.global_step == state.max_steps:
            if not on_terminal:
                line = ", ".join(f"{name} {text}" for name, text in figures.items())
                logger.info("optimizer step %d of %d: %s", state.global_step, state.max_steps, line)
            if self._memory_tracking:
                logger.info("%s", memory_line(self._peak_rss))

    def close(self) -> None:
        """End the bar and leave it on the terminal."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()

    def _update_bar(self, state: TrainState, figures: Mapping[str, str]) -> None:
        with suppress(OSError):  # the terminal was closed; the training goes on
            if self._bar is None:
                self._bar = tqdm(total=state.max_steps, initial=state.global_step - 1, unit="step", dynamic_ncols=True)
            self._bar.set_postfix(figures, refresh=False)
            self._bar.update()


def memory_line(peak_rss: PeakRss) -> str:
    """Current and peak resident memory, in bytes and as a share of the machine's memory."""
    total_bytes, peak = or_none(total_memory_bytes), peak_rss.read()
    parts = []
    for name, size_bytes in (("now", known_rss_bytes()), ("peak", peak.peak_bytes)):
        share = f", {size_bytes / total_bytes:.1%}" if size_bytes is not None and total_bytes else ""
        exact = "" if size_bytes is None else f" ({size_bytes} bytes{share})"
        parts.append(f"{name} {_bytes_or_missing(size_bytes)}{exact}")
    reason = f" ({peak.source})" if peak.peak_bytes is None else ""
    return f"memory {', '.join(parts)} of {_bytes_or_missing(total_bytes)}{reason}"


def _bytes_or_missing(size_bytes: int | None) -> str:
    return MISSING if size_bytes is None else format_bytes(size_bytes)

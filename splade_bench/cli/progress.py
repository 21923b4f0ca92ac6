"""The progress of a training for a person: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm

from splade_bench.measure.machine import total_memory_bytes
from splade_bench.measure.rss import PeakRss, current_rss_bytes
from splade_bench.training.step import Phase
from splade_bench.training.trainer import StepLoss, TrainState
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
            "memory": format_bytes(current_rss_bytes()),
        }
        if sys.stderr.isatty():
            self._bar = self._bar or tqdm(total=state.max_steps, unit="step", dynamic_ncols=True)
            self._bar.set_postfix(figures, refresh=False)
            self._bar.update()
        interval = max(1, state.max_steps // _LINES)
        if state.global_step % interval == 0 or state.global_step == state.max_steps:
            if not sys.stderr.isatty():
                line = ", ".join(f"{name} {text}" for name, text in figures.items())
                logger.info("optimizer step %d of %d: %s", state.global_step, state.max_steps, line)
            if self._memory_tracking:
                logger.info("%s", memory_line(self._peak_rss))

    def close(self) -> None:
        """End the bar and leave it on the terminal."""
        if self._bar is not None:
            self._bar.close()


def memory_line(peak_rss: PeakRss) -> str:
    """Current and peak resident memory, in bytes and as a share of the machine's memory."""
    total_bytes = total_memory_bytes()
    parts = []
    for name, size_bytes in (("now", current_rss_bytes()), ("peak", peak_rss.read().peak_bytes)):
        parts.append(f"{name} {format_bytes(size_bytes)} ({size_bytes} bytes, {size_bytes / total_bytes:.1%})")
    return f"memory {', '.join(parts)} of {format_bytes(total_bytes)}"

"""Tells the parent how far a training is."""

from __future__ import annotations

import time

from splade_bench.measure.rss import RssReader
from splade_bench.training.state import StepLoss, TrainObserver, TrainState
from splade_bench.worker.serving import Send

_INTERVAL_S = 0.5


class StepEvents(TrainObserver):
    """Sends a ``progress`` event after the first optimizer step and then at most twice a second.

    An event takes some 20 microseconds: it has the loss that the trainer has read already, and resident memory, which
    takes a few microseconds to read.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._memory = RssReader()
        self._due_s = 0.0

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        now_s = time.perf_counter()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _INTERVAL_S
        self._send(
            "progress",
            {
                "step": state.global_step,
                "steps": state.max_steps,
                "loss": loss.total,
                "rss_bytes": self._memory.read() or None,
            },
        )

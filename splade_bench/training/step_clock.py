"""The time of each optimizer step of a run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

import torch

from splade_bench.device.devices import synchronize
from splade_bench.training.state import StepLoss, TrainState
from splade_bench.training.step import Phase


class StepClock:
    """Observes a run: the end of each optimizer step, and the current phase.

    Args:
        device: where the run is.
        untimed_steps: first optimizer steps that are left out if there are more.
    """

    def __init__(self, device: torch.device, *, untimed_steps: int = 1) -> None:
        self._device = device
        self._untimed_steps = untimed_steps
        self._start_s = 0.0
        self._ends_s: list[float] = []
        self.phase = "setup"

    def start(self) -> None:
        synchronize(self._device)
        self._ends_s.clear()
        self._start_s = time.perf_counter()

    def on_phase(self, phase: Phase) -> None:
        self.phase = phase

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        synchronize(self._device)
        self._ends_s.append(time.perf_counter())

    def step_times_s(self) -> Sequence[float]:
        """The seconds of each optimizer step but the untimed ones; of all if there are no others."""
        times_s = [end_s - start_s for start_s, end_s in pairwise([self._start_s, *self._ends_s])]
        return times_s[self._untimed_steps :] or times_s

    def times(self) -> dict[str, float | None]:
        """Seconds from the start to now and per optimizer step, by the names of a cell's figures."""
        synchronize(self._device)
        now_s = time.perf_counter()
        steps_s = self.step_times_s()
        return {
            "wall_time_s": now_s - self._start_s,
            "step_time_s": statistics.median(steps_s) if steps_s else None,
            "step_time_min_s": min(steps_s, default=None),
            "step_time_max_s": max(steps_s, default=None),
        }

"""Resident memory over a long training, in each memory mode."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from reliability.commands import failure_line
from splade_bench.cli import main
from splade_bench.cli.progress import Progress
from splade_bench.measure.rss import current_rss_bytes
from splade_bench.training.state import StepLoss, TrainState

LIMIT_SHARE = 0.02
# The highest memory in so many steps is compared, which is what a machine must have. Without trimming, that of a single
# step is up to 20 % lower, as chance will have it.
WINDOW = 200
POINTS = 200


def train_long(mode: str, *, steps: int, from_step: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: this process trains ``tiny``, and saves every 500 steps.

    Args:
        mode: the memory mode.
        steps: optimizer steps.
        from_step: memory in the last steps is compared with that from this step on.
    """
    rss_bytes: list[int] = []
    real = Progress.on_step_end

    def on_step_end(self: Progress, state: TrainState, loss: StepLoss) -> None:
        real(self, state, loss)
        rss_bytes.append(current_rss_bytes())

    with tempfile.TemporaryDirectory() as folder, patch.object(Progress, "on_step_end", on_step_end):
        command = ["train", "--device", "cpu", "--model-name", "tiny", "--memory-mode", mode, "--batch-size", "4"]
        exit_code = main([*command, "--max-steps", str(steps), "--output-dir", str(Path(folder) / "output")])
    failures = [] if exit_code == 0 and len(rss_bytes) == steps else [f"exit code {exit_code}, {len(rss_bytes)} steps"]
    figures: dict[str, float | None] = {}
    if not failures:
        window = min(WINDOW, (steps - from_step) // 2)
        first, last = rss_bytes[from_step - 1 :][:window], rss_bytes[-window:]
        growth = max(last) / max(first) - 1
        figures = {
            f"step_{from_step}_bytes": max(first),
            "end_bytes": max(last),
            "growth_share": growth,
            "median_growth_share": statistics.median(last) / statistics.median(first) - 1,
        }
        if abs(growth) > LIMIT_SHARE:
            failures = [failure_line(Path(folder), mode, f"memory changed by {growth:+.1%}")]
    every = max(1, steps // POINTS)
    return {
        "campaign": "soak",
        "fault": mode,
        "expected": f"highest resident memory from step {from_step} on and at the end within {LIMIT_SHARE:.0%}",
        "tried": steps,
        "seen": {"optimizer steps": len(rss_bytes)},
        "failures": failures,
        "figures": figures,
        "tries": [{"step": step, "rss_bytes": rss_bytes[step - 1]} for step in range(1, len(rss_bytes) + 1, every)],
    }

"""The name of a measurement, and the command that repeats it."""

from __future__ import annotations

import shlex

from splade_bench.results.records import CallResult, CellResult, Measurement, Result

# The test whose axes are pytest options.
_SWEEP_TEST = "benchmarks/test_training_cells.py"


def gate_name(result: Result) -> str | None:
    """The name of a cell or call in a baseline; None for other results."""
    if isinstance(result, CellResult):
        return f"{result.cell_id}-seed{result.seed}"
    return result.name if isinstance(result, CallResult) else None


def reproduce(run: Measurement) -> str:
    """The command that measures this cell or call alone."""
    if not isinstance(run, CellResult) or (run.test_id and not run.test_id.startswith(_SWEEP_TEST)):
        return shlex.join(["pytest", run.test_id or str(gate_name(run)).partition(": ")[0]])
    command = [
        *["pytest", _SWEEP_TEST, "--device", run.device, "--workload", run.workload],
        *["--batch-sizes", str(run.batch_size), "--gradient-accumulation-steps", str(run.gradient_accumulation_steps)],
        *["--memory-modes", run.memory_mode, "--seeds", str(run.seed)],
    ]
    if run.processes > 1:
        command += ["--processes", str(run.processes)]
    if run.max_steps is not None:
        command += ["--max-steps", str(run.max_steps)]
    if run.memory_limit_bytes is not None:
        command += ["--memory-limit", str(run.memory_limit_bytes)]
    return shlex.join(command)

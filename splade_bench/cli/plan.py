"""``splade-bench plan``: the peak memory of a training, predicted before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tabulate import tabulate

from splade_bench.cli.arguments import show
from splade_bench.cli.flags import PlannedFlags
from splade_bench.cli.planning import plan_request
from splade_bench.cli.train_command import parse_train_command
from splade_bench.errors import ConfigError
from splade_bench.fields import require_range
from splade_bench.files import not_written
from splade_bench.planner.plan import MemoryPlan
from splade_bench.planner.requests import make_plan, sized
from splade_bench.units import format_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCommand(PlannedFlags):
    """Predict the peak memory of a training without running it.

    It takes the flags of train, and runs the training's optimizer step on tensors that have a shape but no values.
    --force-device and the options of output, saving, validating and faults have no effect here, nor has --val-file
    without --train-file: with it, the memory of both files is part of the plan.

    Exit codes:
      0  the training fits, or it has no budget to compare with
      1  it does not fit
      2  usage error, bad file, a model that cannot be trained, or a budget below the memory that any batch takes
      3  the planner itself failed, which says nothing about the training
    """

    timeline: Path | None = None
    """Draw the memory of an optimizer step, phase by phase, to this SVG file. Its name ends in .svg."""
    processes: int = 1
    """Plan one of so many processes of the training, with the longest texts that it can get of each batch."""

    def __post_init__(self) -> None:
        require_range(self, "processes", at_least=1)
        if self.timeline is not None and self.timeline.suffix != ".svg":
            raise ConfigError(f"--timeline {self.timeline}: is not the name of an SVG file; let it end in .svg")


def run(arguments: Sequence[str]) -> int:
    """Print the plan; the exit code."""
    command = parse_train_command(PlanCommand, arguments, verb="plan")
    request = plan_request(command)
    if command.processes > 1:
        request = replace(request, lengths=request.lengths.share_of(command.processes))
    request = sized(request)
    made = make_plan(request)
    if command.timeline:
        from splade_bench.report.plots import plot_plan  # loads matplotlib, which a training does not

        try:
            plot_plan([(stretch.phase, stretch.peak_bytes) for stretch in made.timeline], command.timeline)
        except OSError as error:
            raise ConfigError(f"--timeline {command.timeline}: {not_written(command.timeline, error)}") from error
    record = made.to_dict() | {
        "data_bytes": request.data_bytes,
        "lengths": command.lengths,
        "processes": command.processes,
        "config": request.config.to_dict(),
    }
    show(record, "\n".join(_lines(made, data_bytes=request.data_bytes)), as_json=command.json)
    return 1 if made.fits is False else 0


def _lines(made: MemoryPlan, *, data_bytes: int) -> list[str]:
    taken = "resident memory" if made.baseline_bytes else "reserved on the device"
    checked = "" if made.calibrated else "; simulated after its documentation, not checked by measurements"
    lines = [f"peak: {format_bytes(made.peak_bytes)} {taken} (allocator: {made.allocator}{checked})"]
    if made.budget_bytes is not None:
        lines.append(f"{'fits' if made.fits else 'does not fit'} in {format_bytes(made.budget_bytes)}")
    if failure := made.first_failure:
        asked, reserved = format_bytes(failure.size_bytes), format_bytes(failure.reserved_bytes)
        where = f"{asked} for {failure.operator}, in the phase {failure.phase}"
        lines.append(f"the first allocation that does not fit: {where}, when {reserved} are already taken")
    phases: dict[str, int] = {}
    for stretch in made.timeline:
        phases[stretch.phase] = max(phases.get(stretch.phase, 0), stretch.peak_bytes)
    allocator_bytes = made.peak_bytes - made.live_peak_bytes - made.baseline_bytes - made.workspace_bytes
    host_data_bytes = data_bytes if made.baseline_bytes else 0  # a device does not hold the files
    parts = {
        **{str(name): size_bytes for name, size_bytes in made.by_category.items()},
        **{"allocator": allocator_bytes, "workspaces": made.workspace_bytes, "training data": host_data_bytes},
        "runtime": made.baseline_bytes - host_data_bytes,
    }
    return [
        *lines,
        f"\nparts of the peak, when live tensors are largest ({made.peak_op}, in {made.peak_phase}):",
        _size_table(parts),
        "\npeak of each phase of an optimizer step:",
        _size_table(phases),
        f"\nassumed: {made.active_share:.1%} of the vectors' entries are above 0 (--active-share)",
    ]


def _size_table(sizes: Mapping[str, int]) -> str:
    rows = [(name.replace("_", " "), format_bytes(size_bytes)) for name, size_bytes in sizes.items() if size_bytes]
    return tabulate(rows, tablefmt="plain", colalign=("left", "right"))

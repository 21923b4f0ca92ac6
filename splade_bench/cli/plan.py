"""``splade-bench plan``: the flags of a training in, its peak memory out, before anything is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from tabulate import tabulate

from splade_bench.cli.arguments import print_json
from splade_bench.cli.models import load_corpus, load_tokenizer, planned_encoder
from splade_bench.cli.train import TrainFlags, parse_train_command
from splade_bench.config import DeviceName
from splade_bench.device.devices import available_devices, memory_limit_bytes
from splade_bench.errors import ConfigError
from splade_bench.measure.control_group import container_limit_bytes
from splade_bench.measure.rss import current_rss_bytes
from splade_bench.measure.timeline import total_memory_bytes
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.planner.device_models import device_model
from splade_bench.planner.plan import MemoryPlan, plan
from splade_bench.planner.rehearsal import Lengths
from splade_bench.report.plots import plot_plan
from splade_bench.training.trainer import tokenized_batches
from splade_bench.units import format_bytes, parse_bytes

DOES_NOT_FIT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFlags(TrainFlags):
    """What plans are made of beside the training itself."""

    budget: str | None = None
    """Memory that the run may take, as 8GiB. None: of the CPU what this machine or container has, of an accelerator
    what it has where it is here."""
    lengths: Literal["full", "data"] = "full"
    """Plan for texts that are all as long as --max-length, or for the widest batch of the training data's first
    epoch."""
    active_share: float = TRAINED_ACTIVE_SHARE
    """Share of the vectors' entries that are active: how much work the head's backward pass has. At worst 1."""

    @property
    def device_type(self) -> DeviceName:
        """The kind of device that is planned for."""
        return available_devices()[0] if self.placement.device == "auto" else self.placement.device

    @property
    def budget_bytes(self) -> int | None:
        """The budget that was given, or what there is; None where nobody knows.

        Raises:
            ConfigError: it is no size.
        """
        if self.budget is not None:
            try:
                budget_bytes = parse_bytes(self.budget)
            except ValueError as error:
                raise ConfigError(f"--budget {error}") from error
            if not budget_bytes:
                raise ConfigError(f"--budget {self.budget}: must be above 0")
            return budget_bytes
        if self.device_type == "cpu":
            return min(container_limit_bytes() or total_memory_bytes(), total_memory_bytes())
        return memory_limit_bytes(self.device_type)

    def planned_lengths(self) -> Lengths:
        """Tokens of the texts of the batch that is planned."""
        if self.lengths == "full":
            return Lengths.full(self.config)
        corpus = load_corpus(self.train_file, self.val_file, need_negatives=self.config.negatives_per_query > 0)
        tokenizer = load_tokenizer(self.model_name, corpus)
        device = torch.device(self.device_type)
        return Lengths.widest(tokenized_batches(corpus.triples, tokenizer, self.config, device))


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCommand(PlannedFlags):
    """Predict the peak memory of a training without running it: the same step, on tensors that have no content.

    Takes the flags of train. --device may name a device that is not here. Exit codes: 0 it fits, or there is no budget;
    1 it does not fit; 2 usage, a bad file, or a budget below what any batch takes.
    """

    timeline: Path | None = None
    """SVG file to draw the memory of an optimizer step to, phase by phase."""


def run(arguments: Sequence[str]) -> int:
    """Print the plan; the exit code."""
    command = parse_train_command(PlanCommand, arguments, verb="plan")
    made = make_plan(command)
    if command.timeline:
        plot_plan([(stretch.phase, stretch.peak_bytes) for stretch in made.timeline], command.timeline)
    if command.placement.json:
        print_json(asdict(made) | {"lengths": command.lengths, "config": command.config.to_dict()})
    else:
        print("\n".join(plan_lines(made)))
    return DOES_NOT_FIT if made.fits is False else 0


def make_plan(command: PlanCommand) -> MemoryPlan:
    """The plan that a command line asks for.

    Raises:
        ConfigError: the budget is below what is there whatever the batch.
    """
    budget_bytes = command.budget_bytes
    made = plan(
        planned_encoder(command.model_name),
        command.config,
        command.planned_lengths(),
        device_model(command.device_type, threads=torch.get_num_threads(), budget_bytes=budget_bytes),
        baseline_bytes=current_rss_bytes(),
        budget_bytes=budget_bytes,
        active_share=command.active_share,
    )
    made.require_floor()
    return made


def plan_lines(made: MemoryPlan) -> list[str]:
    """The plan as a terminal shows it."""
    taken = "resident memory" if made.baseline_bytes else "reserved on the device"
    standing = "" if made.calibrated else ", as documented, not held against measurements"
    lines = [f"peak: {format_bytes(made.peak_bytes)} {taken} (allocator: {made.allocator}{standing})"]
    if made.budget_bytes is not None:
        lines.append(f"{'fits' if made.fits else 'does not fit'} in {format_bytes(made.budget_bytes)}")
    if made.first_failure:
        failure = made.first_failure
        asked, reserved = format_bytes(failure.size_bytes), format_bytes(failure.reserved_bytes)
        lines.append(f"no room for {asked} of {failure.operator} in {failure.phase}, with {reserved} reserved")
    phases: dict[str, int] = {}
    for stretch in made.timeline:
        phases[stretch.phase] = max(phases.get(stretch.phase, 0), stretch.peak_bytes)
    return [
        *lines,
        "",
        f"most tensors live at {made.peak_op} in {made.peak_phase}:",
        _size_table(_parts(made)),
        "",
        "peak of each phase of an optimizer step:",
        _size_table(phases),
        "",
        f"assumed: {made.active_share:.1%} of the vectors' entries are active (--active-share)",
    ]


def _parts(made: MemoryPlan) -> dict[str, int]:
    """What the peak consists of."""
    allocator_bytes = made.peak_bytes - made.live_peak_bytes - made.baseline_bytes - made.workspace_bytes
    return {
        **{str(name): size_bytes for name, size_bytes in made.by_category.items()},
        "allocator": allocator_bytes,
        "workspaces": made.workspace_bytes,
        "runtime": made.baseline_bytes,
    }


def _size_table(sizes: Mapping[str, int]) -> str:
    rows = [(name.replace("_", " "), format_bytes(size_bytes)) for name, size_bytes in sizes.items() if size_bytes]
    return tabulate(rows, tablefmt="plain", colalign=("left", "right"))

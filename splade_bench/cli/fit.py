"""``splade-bench fit``: the flags of a training and a budget in, the fastest settings that fit out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from splade_bench.cli.arguments import print_json
from splade_bench.cli.flags import flags_of
from splade_bench.cli.models import planned_encoder
from splade_bench.cli.plan import PlannedFlags
from splade_bench.cli.train import TrainFlags, parse_train_command, train_defaults
from splade_bench.config import DEFAULT_MEMORY_MODE, TrainConfig, fields_of_technique
from splade_bench.device.devices import available_devices
from splade_bench.errors import ConfigError
from splade_bench.measure.rss import current_rss_bytes
from splade_bench.planner.calibration import calibrated_rates
from splade_bench.planner.candidates import SEARCHED_FIELDS, Candidate, Candidates
from splade_bench.planner.device_models import device_model
from splade_bench.planner.fit import Fit, Trial, fit, kept_free_bytes
from splade_bench.planner.plan import plan
from splade_bench.planner.rates import Rates
from splade_bench.planner.work import CountedWork, product_flops
from splade_bench.training.moments import require_room
from splade_bench.units import format_bytes, format_seconds

NOTHING_FITS = 1
_RUNNER_UPS = 5
# Two values of each field that is searched: one that a command line names is the same whichever it starts from.
_PROBES: Sequence[Mapping[str, Any]] = (
    {"activation_checkpointing": False, "selective_recomputation": False, "attention_dropout": False}
    | {"optimizer_states": "float32", "mini_batch_tokens": 1, "mixed_precision": "no"},
    {"activation_checkpointing": True, "selective_recomputation": True, "attention_dropout": True}
    | {"optimizer_states": "bfloat16", "mini_batch_tokens": 2, "mixed_precision": "bf16"},
)
assert all(set(probe) == SEARCHED_FIELDS for probe in _PROBES)


@dataclass(frozen=True, kw_only=True, slots=True)
class FitCommand(PlannedFlags):
    """Choose the fastest settings whose peak memory fits a budget, and print the command that trains with them.

    Takes the flags of train; what they name is kept. The batch is trained as it was asked for: only how it is computed
    is chosen, in ways that leave its gradient as it is. Times are predicted where the device is at hand.

    Exit codes: 0 something fits; 1 nothing does; 2 usage, a bad file, or a budget below what any batch takes.
    """

    allow_inexact: bool = False
    """Also consider settings that change the gradient: no attention dropout, moments and products in bfloat16, and,
    where nothing else fits, accumulation in place of a larger batch."""


def run(arguments: Sequence[str]) -> int:
    """Print what was chosen; the exit code."""
    command = parse_train_command(FitCommand, arguments, verb="fit")
    found = make_fit(command, given=given_fields(arguments))
    if found.chosen is None:
        replace(found.smallest.plan, budget_bytes=command.budget_bytes).require_floor()
    if command.placement.json:
        print_json(_record(command, found))
    else:
        print("\n".join(_lines(command, found)))
    return 0 if found.chosen else NOTHING_FITS


def given_fields(arguments: Sequence[str]) -> frozenset[str]:
    """Which of the fields that are searched a command line names, whatever value it gives them.

    By a flag of their own, or by a technique in the memory mode's name.
    """
    commands = [
        parse_train_command(FitCommand, arguments, verb="fit", start=partial(_with, probe=probe)) for probe in _PROBES
    ]
    values = [{name: _value(command.config, name) for name in SEARCHED_FIELDS} for command in commands]
    flags = {name for name in SEARCHED_FIELDS if values[0][name] == values[1][name]}
    technique = fields_of_technique(commands[0].placement.memory_mode or DEFAULT_MEMORY_MODE)
    return frozenset(flags | (technique & SEARCHED_FIELDS))


def make_fit(command: FitCommand, *, given: frozenset[str]) -> Fit:
    """The fit that a command line asks for."""
    device_type, budget_bytes, lengths = command.device_type, command.budget_bytes, command.planned_lengths()
    if budget_bytes is None:
        raise ConfigError(f"--device {device_type} is not here, so its memory is not known; give --budget")
    make_encoder = planned_encoder(command.model_name)
    baseline_bytes = current_rss_bytes()  # before plans and timing add to it
    rates = _rates(command) if device_type in available_devices() else None

    def plan_one(candidate: Candidate, config: TrainConfig) -> Trial:
        counted = CountedWork()
        made = plan(
            make_encoder,
            config,
            lengths if candidate.splits == 1 else lengths.longest(config.batch_size),
            device_model(device_type, threads=torch.get_num_threads(), budget_bytes=budget_bytes),
            baseline_bytes=baseline_bytes,
            budget_bytes=max(1, budget_bytes - kept_free_bytes(budget_bytes)),
            active_share=command.active_share,
            counted=counted,
        )
        if rates and config.memory.optimizer_states == "disk":  # a plan asks no disk, but this one is to be written to
            require_room(config.memory.optimizer_states_dir, 2 * made.by_category["parameters"])
        step_time_s = rates.seconds(counted.work) if rates else None
        return Trial(candidate=candidate, config=config, plan=made, work=counted.work, step_time_s=step_time_s)

    candidates = Candidates(command.config, given=given, device=device_type, allow_inexact=command.allow_inexact)
    return fit(candidates, plan_one)


def train_arguments(command: FitCommand, config: TrainConfig) -> list[str]:
    """The flags with which train does what ``command`` says, with this configuration."""
    placement = replace(command.placement, json=False)
    named = {
        name: getattr(command, name) for name in ("model_name", "train_file", "val_file", "output_dir", "overwrite")
    }
    wanted = TrainFlags(**named, placement=placement, config=config)
    default = train_defaults(TrainFlags, command.model_name, placement)
    return list(flags_of(wanted, default))


def _rates(command: FitCommand) -> Rates:
    device = torch.device(command.device_type)
    return calibrated_rates(planned_encoder("tiny"), device, folder=command.config.memory.optimizer_states_dir)


def _with(config: TrainConfig, probe: Mapping[str, Any]) -> TrainConfig:
    memory = {name: value for name, value in probe.items() if hasattr(config.memory, name)}
    run = {name: value for name, value in probe.items() if name not in memory}
    return replace(config, **run, memory=replace(config.memory, **memory))


def _value(config: TrainConfig, name: str) -> object:
    return getattr(config.memory if hasattr(config.memory, name) else config, name)


def _verdict(command: FitCommand, found: Fit) -> str:
    smallest = found.smallest
    budget_bytes = command.budget_bytes
    assert budget_bytes is not None
    free_bytes = kept_free_bytes(budget_bytes)
    over_bytes = smallest.plan.peak_bytes + free_bytes - budget_bytes
    more = "" if command.allow_inexact else ", or --allow-inexact"
    return (
        f"nothing fits in {format_bytes(budget_bytes)}: the smallest plan found is of "
        f"{format_bytes(smallest.plan.peak_bytes)} ({smallest.candidate.describe()}), {format_bytes(over_bytes)} too "
        f"much with {format_bytes(free_bytes)} kept free; choose a smaller --max-length or --batch-size{more}"
    )


def _row(command: FitCommand, trial: Trial) -> dict[str, Any]:
    return {
        "settings": trial.candidate.describe(),
        "inexact": trial.candidate.inexact,
        "fits": trial.fits,
        "peak_bytes": trial.plan.peak_bytes,
        "predicted_step_time_s": trial.step_time_s,
        "product_flops": product_flops(trial.work),
        "train_arguments": train_arguments(command, trial.config),
    }


def _record(command: FitCommand, found: Fit) -> dict[str, Any]:
    chosen = found.chosen
    best = _row(command, chosen) if chosen else {"fits": False, "verdict": _verdict(command, found)}
    return best | {
        "command": _command_line(command, chosen) if chosen else None,
        "smallest": _row(command, found.smallest),
        "runner_ups": [_row(command, trial) for trial in found.runner_ups],
        "frontier": [_row(command, trial) for trial in found.frontier],
        "budget_bytes": command.budget_bytes,
        "device": command.device_type,
        "plans": len(found.trials),
        "active_share": command.active_share,
        "lengths": command.lengths,
        "config": chosen.config.to_dict() if chosen else None,
    }


def _command_line(command: FitCommand, trial: Trial) -> str:
    return shlex.join(["splade-bench", "train", *train_arguments(command, trial.config)])


def _lines(command: FitCommand, found: Fit) -> list[str]:
    budget_bytes = command.budget_bytes
    assert budget_bytes is not None
    texts = "texts of full length" if command.lengths == "full" else "the texts of the widest batch"
    if chosen := found.chosen:
        time = (
            ""
            if chosen.step_time_s is None
            else f", {format_seconds(chosen.step_time_s)} an optimizer step (predicted)"
        )
        lines = [
            _command_line(command, chosen),
            "",
            f"{chosen.candidate.describe()}: peak {_of_budget(chosen, budget_bytes)}{time}",
            *(f"inexact: {name}" for name in chosen.candidate.inexact),
        ]
    else:
        lines = [_verdict(command, found)]
    if found.runner_ups:
        lines += ["", "runner-ups:", _table(found.runner_ups[:_RUNNER_UPS])]
    lines += ["", "frontier, the fastest first:", _table(found.frontier), ""]
    if found.trials[0].step_time_s is None:
        lines.append(f"--device {command.device_type} is not here: ordered by work, no times predicted")
    lines.append(f"assumed: {texts}, {command.active_share:.1%} of the vectors' entries active (--active-share)")
    return lines


def _of_budget(trial: Trial, budget_bytes: int) -> str:
    return f"{format_bytes(trial.plan.peak_bytes)} of {format_bytes(budget_bytes)}"


def _table(trials: Sequence[Trial]) -> str:
    rows = [
        (
            trial.candidate.describe() + (" (inexact)" if trial.candidate.inexact else ""),
            format_bytes(trial.plan.peak_bytes),
            f"{product_flops(trial.work) / 1e12:.3g} TFLOP"
            if trial.step_time_s is None
            else format_seconds(trial.step_time_s),
            "" if trial.fits else "does not fit",
        )
        for trial in trials
    ]
    return tabulate(rows, tablefmt="plain", colalign=("left", "right", "right", "left"))

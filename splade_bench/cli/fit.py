"""``splade-bench fit``: the fastest settings of a training that fit a budget."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tabulate import tabulate

from splade_bench.cli.arguments import show
from splade_bench.cli.flags import PlannedFlags
from splade_bench.cli.planning import plan_request
from splade_bench.cli.train_command import parse_train_command, searched_fields_given, train_arguments
from splade_bench.planner.requests import PlanRequest, make_fit, nothing_fits
from splade_bench.planner.trials import Fit, Trial
from splade_bench.planner.work import product_flops
from splade_bench.units import format_bytes, format_seconds

_RUNNER_UPS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FitCommand(PlannedFlags):
    """Choose the fastest settings whose peak memory fits a budget, and print their train command.

    It takes the flags of train and never changes a setting that you give. It changes only settings that leave the
    gradient the same; with --allow-inexact it may also change others. If the device is in this machine, it predicts
    times too. --force-device and the options of output, saving, validating and faults have no effect here.

    Exit codes:
      0  done
      1  nothing fits
      2  usage error, bad file, a model that cannot be trained, or a budget below the memory that any batch takes
      3  the planner itself failed, which says nothing about the training
    """

    allow_inexact: bool = False
    """Also consider settings that change the gradient: no attention dropout, bfloat16, gradient accumulation."""


def run(arguments: Sequence[str]) -> int:
    """Print the choice; the exit code."""
    command = parse_train_command(FitCommand, arguments, verb="fit")
    given = searched_fields_given(arguments)
    request = replace(plan_request(command, timed=True), given=given, allow_inexact=command.allow_inexact)
    found = make_fit(request)
    record = _record(command, request, found)
    show(record, _text(record), as_json=command.json)
    return 0 if found.chosen else 1


def _record(command: FitCommand, request: PlanRequest, found: Fit) -> dict[str, Any]:
    if found.chosen:
        best = _row(command, found.chosen)
        best["command"] = shlex.join(["splade-bench", "train", *best["train_arguments"]])
    else:
        best = {"fits": False, "verdict": nothing_fits(request, found), "command": None}
    return best | {
        "smallest": _row(command, found.smallest),
        "runner_ups": [_row(command, trial) for trial in found.runner_ups],
        "frontier": [_row(command, trial) for trial in found.frontier],
        "budget_bytes": request.budget_bytes,
        "device": request.device_type,
        "plans": len(found.trials),
        "active_share": command.active_share,
        "lengths": command.lengths,
        "usual_lengths": request.lengths.usual,
        "config": found.chosen.config.to_dict() if found.chosen else None,
    }


def _row(command: FitCommand, trial: Trial) -> dict[str, Any]:
    return {
        "settings": trial.candidate.describe(),
        "inexact": trial.candidate.inexact,
        "fits": trial.fits,
        "peak_bytes": trial.peak_bytes,
        "predicted_step_time_s": trial.step_time_s,
        "product_flops": product_flops(trial.plan.work),
        "train_arguments": train_arguments(command, trial.config),
    }


def _text(record: Mapping[str, Any]) -> str:
    if record["fits"]:
        peak = f"peak {format_bytes(record['peak_bytes'])} of {format_bytes(record['budget_bytes'])}"
        time_s = record["predicted_step_time_s"]
        time = "" if time_s is None else f", {format_seconds(time_s)} per optimizer step (predicted)"
        lines = [record["command"], "", f"{record['settings']}: {peak}{time}"]
        lines += [f"inexact: {name}" for name in record["inexact"]]
    else:
        lines = [record["verdict"]]
    if record["runner_ups"]:
        lines += ["", "runner-ups:", _table(record["runner_ups"][:_RUNNER_UPS])]
    lines += ["", "frontier (no other plan is both faster and smaller), fastest first:", _table(record["frontier"]), ""]
    if record["smallest"]["predicted_step_time_s"] is None:
        sorting = "sorted by the amount of computation (TFLOP); no times are predicted"
        lines.append(f"--device {record['device']} is not in this machine: {sorting}")
    texts = "texts of full length" if record["lengths"] == "full" else "the texts of the widest batch"
    if record["usual_lengths"]:
        texts += " for the peak, those of a usual batch for the time"
    lines.append(f"assumed: {texts}; {record['active_share']:.1%} of the vectors' entries are above 0 (--active-share)")
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        (
            row["settings"] + (" (inexact)" if row["inexact"] else ""),
            format_bytes(row["peak_bytes"]),
            f"{row['product_flops'] / 1e12:.3g} TFLOP"
            if row["predicted_step_time_s"] is None
            else format_seconds(row["predicted_step_time_s"]),
            "" if row["fits"] else "does not fit",
        )
        for row in rows
    ]
    return tabulate(cells, tablefmt="plain", colalign=("left", "right", "right", "left"))

"""The fastest settings of a training, found in another process.

Plans and timings leave memory behind. In the process of the training it would be part of the training's peak. The
request and the reply are one JSON object each, on standard input and output.
"""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import transformers

from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError, DataError, PlanError, SpladeBenchError, TrainingError, error_line
from splade_bench.json_records import ascii_json
from splade_bench.planner.requests import PlanRequest, make_fit, nothing_fits
from splade_bench.planner.trials import SearchEnded
from splade_bench.processes import module_command
from splade_bench.units import format_bytes, format_seconds

_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, PlanError, TrainingError)}


class Fitted(msgspec.Struct, tag=True):
    """The chosen settings, also in words."""

    config: TrainConfig
    settings: str


class Failed(msgspec.Struct, tag=True):
    """The name of an error's class, and its message."""

    error: str
    message: str


def fitted_training(request: PlanRequest) -> Fitted:
    """The fastest settings that fit.

    Raises:
        SpladeBenchError: nothing fits, or the request cannot be planned.
    """
    finished = subprocess.run(
        module_command("splade_bench.planner.process"),
        input=ascii_json(request).encode(),
        stdout=subprocess.PIPE,
    )
    if not finished.stdout:
        ending = f"the planning process ended with exit code {finished.returncode}"
        raise TrainingError(f"no settings were found: {ending}; run splade-bench fit with the same flags to see why")
    reply: Fitted | Failed = msgspec.convert(json.loads(finished.stdout), Fitted | Failed)
    if isinstance(reply, Failed):
        raise _ERRORS.get(reply.error, TrainingError)(reply.message)
    return reply


def main() -> None:
    """Answer the request on standard input."""
    request = msgspec.convert(json.load(sys.stdin), PlanRequest)
    transformers.logging.set_verbosity_error()  # what it says of a plan is not about the training
    reply: Fitted | Failed
    try:
        found = make_fit(request, whole_frontier=False)
        chosen = found.chosen
        if chosen is None:
            raise TrainingError(nothing_fits(request, found))
        time_s = "" if chosen.step_time_s is None else f", {format_seconds(chosen.step_time_s)} an optimizer step"
        predicted = f"predicted: peak {format_bytes(chosen.peak_bytes)}{time_s}"
        reply = Fitted(chosen.config, f"{chosen.candidate.describe()} ({predicted})")
    except SearchEnded:
        reply = Failed(TrainingError.__name__, "there was no time for a plan")
    except (SpladeBenchError, OSError, MemoryError, RuntimeError) as error:
        reply = Failed(type(error).__name__, error_line(error))
    sys.stdout.buffer.write(ascii_json(reply).encode())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # the training's process gets it too
        raise SystemExit(130) from None

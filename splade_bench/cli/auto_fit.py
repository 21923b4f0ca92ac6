"""``train --auto-fit``: the settings that ``fit`` chooses, found in another process (``-m splade_bench.cli.auto_fit``).

Plans and timings leave memory behind. In the process of the training it would be part of the training's peak. The
request and the reply are one JSON object each, on standard input and output.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import msgspec

from splade_bench.cli.planning import FitRequest, make_fit, nothing_fits
from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError, DataError, SpladeBenchError, TrainingError, error_line

_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, TrainingError)}


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedTraining:
    """The settings that were chosen."""

    config: TrainConfig
    settings: str
    """The same in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The reply where there are none, with an exit code other than 0."""

    error: str
    """Name of the error's class."""
    message: str


def fitted_training(request: FitRequest) -> FittedTraining:
    """The fastest settings that fit.

    Raises:
        SpladeBenchError: nothing fits, or the request cannot be planned.
    """
    finished = subprocess.run(
        (sys.executable, "-m", "splade_bench.cli.auto_fit"), input=msgspec.json.encode(request), stdout=subprocess.PIPE
    )
    if not finished.stdout:
        raise TrainingError(f"--auto-fit: the process that plans ended with exit code {finished.returncode}")
    if finished.returncode == 0:
        return msgspec.json.decode(finished.stdout, type=FittedTraining)
    failure = msgspec.json.decode(finished.stdout, type=Failure)
    raise _ERRORS.get(failure.error, TrainingError)(failure.message)


def answer(request: FitRequest) -> FittedTraining:
    """:func:`fitted_training` in this process."""
    found = make_fit(request)
    if found.chosen is None:
        raise TrainingError(nothing_fits(request, found))
    return FittedTraining(config=found.chosen.config, settings=found.chosen.candidate.describe())


def main() -> int:
    """Answer the request on standard input; the exit code."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=FitRequest)
    reply: FittedTraining | Failure
    try:
        reply = answer(request)
    except (SpladeBenchError, OSError, MemoryError, RuntimeError) as error:
        reply = Failure(error=type(error).__name__, message=error_line(error))
    except KeyboardInterrupt:  # the parent gets it too
        return 130
    sys.stdout.buffer.write(msgspec.json.encode(reply))
    return 1 if isinstance(reply, Failure) else 0


if __name__ == "__main__":
    raise SystemExit(main())

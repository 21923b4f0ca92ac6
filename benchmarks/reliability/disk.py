"""Each call of the disk that a training makes fails, one after the other."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from faults import Fault, arm, shared_counts  # type: ignore[import-not-found]  # in tests/support

from reliability.commands import Ended, failure_line, run
from reliability.toy import Toy, debris, weights
from splade_bench.errors import DataError
from splade_bench.training.checkpoints import Checkpoints

FIRST_STEPS, STEPS = 2, 4
EXPECTED = (
    "exit code 0, or 1 or 2 with one line; every checkpoint is sound, and there is one; the next start leaves nothing "
    "behind and ends with the same weights"
)


def fail_calls(call: str, error_name: str, *, every: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: one call fails, or all from one on.

    A training that has a checkpoint goes on, evaluates, saves and rotates, with the fault. Then it goes on without.

    Args:
        call: one of ``faults.CALLS``.
        error_name: such as ENOSPC.
        every: only each so many calls fail.
    """
    error, seen, failures = getattr(errno, error_name), Counter[str](), []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        toy = Toy.make(folder)
        start = folder / "start"
        _require_ok(run(toy.command(start, "--save-total-limit", "1", steps=FIRST_STEPS)))
        expected, counts = _without_fault(toy, start, folder / "reference")
        for number, lasting in product(range(1, counts[call] + 1, every), (False, True)):
            fault = Fault(call=call, number=number, error=error, lasting=lasting)
            output = folder / "output"
            shutil.copytree(start, output)
            outcome, failure = _try(toy, output, fault, expected)
            seen[outcome] += 1
            failures += [failure_line(folder, fault, failure)] if failure else []
            shutil.rmtree(output)
    return {
        "campaign": "disk",
        "fault": f"{call}: {os.strerror(error)} ({error_name}), once and from then on",
        "expected": EXPECTED,
        "tried": sum(seen.values()),
        "seen": dict(seen),
        "failures": failures,
        "figures": {"calls": float(counts[call]), "every": float(every)},
    }


def _command(toy: Toy, output: Path) -> list[str]:
    return toy.command(output, "--save-total-limit", "1", steps=STEPS)


def _without_fault(toy: Toy, start: Path, output: Path) -> tuple[Sequence[str], dict[str, int]]:
    """The weights, and the calls by kind."""
    shutil.copytree(start, output)
    _require_ok(run(_command(toy, output), before=partial(arm, output, Fault())))
    return weights(output), dict(shared_counts())


def _try(toy: Toy, output: Path, fault: Fault, expected: Sequence[str]) -> tuple[str, str | None]:
    """What was seen, and what is wrong with it."""
    ended = run(_command(toy, output), before=partial(arm, output, fault))
    outcome = f"exit code {ended.exit_code}"
    if ended.exit_code == 0 and "cannot be" in ended.output:
        outcome += " with a warning"
    failure = ended.complaint() or _unsound(output) or _wrong_success(ended, output, expected)
    if failure is None:
        ended = run(_command(toy, output))
        failure = ended.complaint(codes=(0,)) or _wrong_success(ended, output, expected)
        left = debris(output)
        failure = failure or (f"left behind: {', '.join(left)}" if left else None)
        failure = failure and f"after the next start: {failure}"
    return outcome, failure


def _unsound(output: Path) -> str | None:
    checkpoints = Checkpoints(output).all()
    try:
        for checkpoint in checkpoints:
            checkpoint.verify()
    except DataError as error:
        return str(error)
    return None if checkpoints else "no checkpoint is left"


def _wrong_success(ended: Ended, output: Path, expected: Sequence[str]) -> str | None:
    """Exit code 0 promises the model, and the record unless a warning says so."""
    if ended.exit_code:
        return None
    model = list(expected)[1]
    try:
        found = weights(output)
        steps = json.loads((output / "run.json").read_text(encoding="utf-8"))["optimizer_steps"]
    except (OSError, ValueError, IndexError) as error:
        return f"exit code 0, but {error}"
    if found[1] != model or ("cannot be" not in ended.output and found != expected):
        return "exit code 0 with other weights"
    return None if steps == STEPS or "run.json: cannot be written" in ended.output else "exit code 0 with an old record"


def _require_ok(ended: Ended) -> None:
    if ended.exit_code:
        raise RuntimeError(f"a training without a fault failed: {ended.output}")

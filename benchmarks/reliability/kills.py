"""Trainings that are killed again and again, and go on each time."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from faults import Fault, arm, shared_counts  # type: ignore[import-not-found]  # in tests/support

from reliability.commands import Ended, failure_line, run
from reliability.toy import MODES, SAVED_EVERY, Toy, debris, weights

STEPS = 12
EXPECTED = "the next start goes on from the newest checkpoint, ends with the same weights, and leaves nothing behind"
_KILLED = -9
# A moment after the end of a training kills nothing, so another one is drawn: at most so many times.
_DRAWS = 4


def kill_at_moments(kills: int, *, seed: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: SIGKILL at random moments of a training's whole life.

    The memory modes take turns. A training may be killed more than once before it ends.
    """
    generator, seen, failures, tries = random.Random(seed), Counter[str](), list[str](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        toy = Toy.make(folder)
        expected, life_s = zip(*(_undisturbed(toy, folder / mode, mode) for mode in MODES), strict=True)
        for training in range(kills * _DRAWS):
            place = training % len(MODES)
            output = folder / str(training)
            while len(tries) < kills and (moment := _kill(toy, output, MODES[place], life_s[place], generator)):
                tries.append({"kill": len(tries) + 1, "training": training + 1, **moment})
                seen[str(moment["found"])] += 1
                if generator.random() < 0.5:
                    break
            failure = _failure(run(_command(toy, output, MODES[place])), output, expected[place])
            failures += [failure_line(folder, MODES[place], tries[-1:], failure)] if failure else []
            for one in tries:
                one.setdefault("weights", "differ" if failure else "equal")
            if len(tries) == kills:
                break
    return {
        "campaign": "kill",
        "fault": "SIGKILL at random moments of a training's life",
        "expected": EXPECTED,
        "tried": len(tries),
        "seen": dict(seen),
        "failures": failures + ([f"only {len(tries)} of {kills} kills"] if len(tries) < kills else []),
        "tries": tries,
        "seed": seed,
    }


def kill_at_calls(*, every: int) -> dict[str, Any]:
    """The same at each call of the disk, or each so many calls."""
    seen, failures = Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        toy = Toy.make(folder)
        steps = 2 * SAVED_EVERY
        command = partial(toy.command, steps=steps)
        output = folder / "reference"
        run(command(output), before=partial(arm, output, Fault()))
        calls, expected = shared_counts()["any"], weights(output)
        for number in range(1, calls + 1, every):
            output = folder / str(number)
            killed = run(command(output), before=partial(arm, output, Fault(number=number)))
            found = _found(output)
            failure = f"ended with {killed.exit_code}" if killed.exit_code != _KILLED else None
            failure = failure or _failure(run(command(output)), output, expected)
            seen[found] += 1
            failures += [failure_line(folder, f"call {number}", found, failure)] if failure else []
    return {
        "campaign": "kill",
        "fault": "SIGKILL at a call of the disk",
        "expected": EXPECTED,
        "tried": sum(seen.values()),
        "seen": dict(seen),
        "failures": failures,
        "figures": {"calls": float(calls), "every": float(every)},
    }


def _command(toy: Toy, output: Path, mode: str) -> list[str]:
    return toy.command(output, steps=STEPS, mode=mode)


def _undisturbed(toy: Toy, output: Path, mode: str) -> tuple[Sequence[str], float]:
    """Weights, and seconds from the first import of the command to its end."""
    ended = run(_command(toy, output, mode))
    if ended.exit_code:
        raise RuntimeError(f"a training that was not killed failed: {ended.output}")
    return weights(output), ended.wall_time_s


def _kill(toy: Toy, output: Path, mode: str, life_s: float, generator: random.Random) -> dict[str, Any] | None:
    """What was killed and found; None if the training had ended."""
    moment_s, before = generator.uniform(0.0, life_s), debris(output)
    ended = run(_command(toy, output, mode), kill_after_s=moment_s)
    if ended.exit_code != _KILLED:
        return None
    return {"memory_mode": mode, "after_s": moment_s, "last_step": _last_step(output), "found": _found(output, before)}


def _found(output: Path, before: Sequence[str] = ()) -> str:
    """What a killed training left; ``before``: what an earlier one had left."""
    if set(debris(output)) - set(before):
        return "killed in a save"
    checkpoints = output.is_dir() and any(path.name.startswith("checkpoint-") for path in output.iterdir())
    return "killed between saves" if checkpoints else "killed before the first checkpoint"


def _last_step(output: Path) -> int:
    """The last optimizer step in the log; 0 without one."""
    try:
        lines = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    steps = [line for line in lines if line.endswith("}") and '"event": "step"' in line]
    return int(json.loads(steps[-1])["step"]) if steps else 0


def _failure(ended: Ended, output: Path, expected: Sequence[str]) -> str | None:
    """What is wrong with a training that went on to its end."""
    if failure := ended.complaint(codes=(0,)):
        return failure
    if left := debris(output):
        return f"left behind: {', '.join(left)}"
    lines = (output / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [one["step"] for one in map(json.loads, lines) if one["event"] == "step"]
    if steps != [*range(1, steps[-1] + 1)]:
        return f"log.jsonl has the optimizer steps {steps}"
    return None if weights(output) == expected else "other weights"

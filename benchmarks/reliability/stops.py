"""Each signal that stops a training, in each part of it."""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reliability.commands import Ended, failure_line, run
from reliability.toy import Toy, debris, record, weights
from splade_bench.cli import training_run
from splade_bench.cli.progress import Progress
from splade_bench.training import saving

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
PARTS = ("batching", "forward", "loss", "backward", "optimizer_step", "evaluation", "saving")
TIMES = (1, 2)
STEPS = 6
LIMIT_S = 5.0
# A batch of the large training, which takes many seconds on two cores.
LARGE_BATCH, LARGE_LENGTH = 64, 128


def stop_in_each_part(*, every: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: a signal when a part of the training begins."""
    cases = [(name, part, times) for part in PARTS for name in SIGNALS for times in TIMES][::every]
    seen, failures, tries = Counter[str](), list[str](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        toy = Toy.make(folder)
        expected = _undisturbed(toy, folder / "reference")
        for number, (name, part, times) in enumerate(cases):
            output = folder / str(number)
            stopped, latency_s = _stopped(toy.command(output, steps=STEPS), name, part, times, folder)
            failure = _wrong_stop(stopped, latency_s, name, output)
            goes_on = run(toy.command(output, steps=STEPS))
            failure = failure or goes_on.complaint(codes=(0,)) or _wrong_end(output, expected)
            seen[f"exit code {stopped.exit_code}"] += 1
            failures += [failure_line(folder, name, f"{part} {times}", failure)] if failure else []
            tries.append({"signal": name, "part": f"{part} {times}", "ended_after_s": latency_s})
    return {
        "campaign": "stop",
        "fault": "a signal in a part of a training, the first time and the second",
        "expected": f"exit code 128 + n within {LIMIT_S:g} s; the next start ends with the same weights",
        **_fields(seen, failures, tries),
    }


def stay_ignored() -> dict[str, Any]:
    """The same for signals that were ignored at the start, as SIGHUP is under nohup."""
    seen, failures = Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        toy = Toy.make(folder)
        expected = _undisturbed(toy, folder / "reference")
        for name in SIGNALS:
            output = folder / name
            ended, _ = _stopped(toy.command(output, steps=STEPS), name, "forward", 2, folder, ignored=True)
            failure = ended.complaint(codes=(0,)) or _wrong_end(output, expected)
            seen[f"exit code {ended.exit_code}"] += 1
            failures += [failure_line(folder, name, failure)] if failure else []
    return {
        "campaign": "stop",
        "fault": "a signal that was ignored when the training began",
        "expected": "it stays ignored: exit code 0 and the same weights",
        **_fields(seen, failures, []),
    }


def stop_large_batch(*, model: str, batch_size: int) -> dict[str, Any]:
    """The same for SIGTERM in a batch that takes long: ``docker stop`` gives ten seconds."""
    seen, failures, tries = Counter[str](), list[str](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        path, generator = folder / "long.jsonl", random.Random(2)
        records = [record(generator, words=(LARGE_LENGTH, LARGE_LENGTH)) for _ in range(batch_size)]
        path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
        for part, times in (("forward", 2), ("backward", 2), ("optimizer_step", 2), ("saving", 1)):
            output = folder / part
            command = [
                *["train", "--device", "cpu", "--model-name", model, "--train-file", str(path)],
                *["--output-dir", str(output), "--max-length", str(LARGE_LENGTH), "--batch-size", str(batch_size)],
                *["--max-steps", "3", "--save-steps", "1"],
            ]
            stopped, latency_s = _stopped(command, "SIGTERM", part, times, folder)
            failure = _wrong_stop(stopped, latency_s, "SIGTERM", output)
            seen[f"exit code {stopped.exit_code}"] += 1
            failures += [failure_line(folder, part, failure)] if failure else []
            tries.append({"signal": "SIGTERM", "part": f"{part} {times}", "ended_after_s": latency_s, "model": model})
    return {
        "campaign": "stop",
        "fault": f"SIGTERM in a batch of {batch_size} x {LARGE_LENGTH} tokens x 3, {model}",
        "expected": f"exit code 143 within {LIMIT_S:g} s, the last complete optimizer step saved",
        **_fields(seen, failures, tries),
    }


def _fields(seen: Counter[str], failures: Sequence[str], tries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    latencies_s = [one["ended_after_s"] for one in tries if one["ended_after_s"] is not None]
    figures = {"longest_s": max(latencies_s)} if latencies_s else {}
    return {"tried": sum(seen.values()), "seen": dict(seen), "failures": failures, "tries": tries, "figures": figures}


def _undisturbed(toy: Toy, output: Path) -> Sequence[str]:
    ended = run(toy.command(output, steps=STEPS))
    if ended.exit_code:
        raise RuntimeError(f"a training without a signal failed: {ended.output}")
    return weights(output)


def _stopped(
    command: Sequence[str], name: str, part: str, times: int, folder: Path, *, ignored: bool = False
) -> tuple[Ended, float | None]:
    """How the command ended, and the seconds from the signal to its end; None if there was no such moment."""
    sent = folder / "sent"
    sent.unlink(missing_ok=True)
    ended = run(command, before=partial(_send, getattr(signal, name), part, times, sent, ignored))
    return ended, ended.ended_s - float(sent.read_text()) if sent.exists() else None


def _send(number: int, part: str, times: int, sent: Path, ignored: bool) -> None:
    """From now on this process sends itself a signal when a part begins for so many times, and notes when."""
    signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    if number == signal.SIGINT and not ignored:
        signal.signal(number, signal.default_int_handler)
    begun = Counter[str]()

    def begin(name: str) -> None:
        begun[name] += 1
        if name == part and begun[name] == times:
            sent.write_text(str(time.perf_counter()))
            os.kill(os.getpid(), number)

    def on_phase(self: Progress, phase: str, *, real: Callable[..., None] = Progress.on_phase) -> None:
        real(self, phase)
        begin(phase)

    def evaluate(*arguments: Any, real: Callable[..., Any] = training_run.evaluate, **keywords: Any) -> Any:  # type: ignore[attr-defined]
        begin("evaluation")
        return real(*arguments, **keywords)

    def save_run(*arguments: Any, real: Callable[..., None] = saving.save_run, **keywords: Any) -> None:  # type: ignore[attr-defined]
        begin("saving")
        real(*arguments, **keywords)

    Progress.on_phase = on_phase  # type: ignore[method-assign]
    training_run.evaluate = evaluate  # type: ignore[attr-defined]
    saving.save_run = save_run  # type: ignore[attr-defined]


def _wrong_stop(ended: Ended, latency_s: float | None, name: str, output: Path) -> str | None:
    """What is wrong with a training that a signal stopped."""
    if latency_s is None:
        return "the signal was never sent"
    if failure := ended.complaint(codes=(128 + getattr(signal, name),)):
        return failure
    if latency_s > LIMIT_S:
        return f"it took {latency_s:.1f} s to end"
    if left := debris(output):
        return f"left behind: {', '.join(left)}"
    done = json.loads((output / "run.json").read_text(encoding="utf-8"))
    has_model = (output / "final_model" / "model.safetensors").is_file()
    is_saved = bool(done["checkpoint"]) and has_model
    if done["status"] != "interrupted" or is_saved != (done["optimizer_steps"] > 0):
        return f"status {done['status']}, {done['optimizer_steps']} optimizer steps, checkpoint {done['checkpoint']}"
    if is_saved and not done["checkpoint"].endswith(f"-{done['optimizer_steps']}"):
        return f"{done['checkpoint']} is not that of optimizer step {done['optimizer_steps']}"
    return None


def _wrong_end(output: Path, expected: Sequence[str]) -> str | None:
    if left := debris(output):
        return f"left behind: {', '.join(left)}"
    return None if weights(output) == expected else "other weights"

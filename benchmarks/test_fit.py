"""What ``fit`` chooses, compared with measurements: a choice keeps to its budget and is nearly the fastest.

The outcomes are written to ``reports/fit.log`` and, for runs that get no more memory than their budget, to
``reports/fit-limits.log``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import pytest

from splade_bench.units import parse_bytes

pytestmark = pytest.mark.part(minutes=2.5)
# Name of a file in the reports folder, line.
Log: TypeAlias = Callable[[str, str], None]
# Flags of a training -> budgets for it, the tightest first.
WORKLOADS = {
    "tiny": (
        ("--model-name", "tiny", "--max-length", "64", "--batch-size", "32"),
        ("550MiB", "700MiB", "1GiB", "4GiB"),
    ),
    "mini": (
        ("--model-name", "mini", "--max-length", "256", "--batch-size", "8"),
        ("800MiB", "1GiB", "1536MiB", "4GiB"),
    ),
    "base": (("--model-name", "base", "--max-length", "128", "--batch-size", "4"), ("2GiB", "2560MiB", "3GiB", "8GiB")),
}
CASES = [(name, budget) for name, (_, budgets) in WORKLOADS.items() for budget in budgets]
STEPS = 3
LIMITED_WORKLOADS = {
    "mini": ("--model-name", "mini", "--max-length", "256", "--batch-size", "32"),
    "base": ("--model-name", "base", "--max-length", "256", "--batch-size", "8"),
}
LIMITED_STEPS = 2
# A choice may take this multiple of the time of the fastest measured alternative.
SLOWER = 1.10
ALTERNATIVES = 3
# A choice and its alternatives take turns, in an order that alternates.
ROUNDS = 2


def splade_bench(*arguments: str, limit_bytes: int | None = None) -> Any:
    """The JSON that a verb prints; a limit is one on its private memory."""
    command = [sys.executable, "-m", "splade_bench", *arguments, "--json"]
    if limit_bytes is not None:
        command = ["bash", "-c", 'ulimit -d "$0" && exec "$@"', str(limit_bytes // 1024), *command]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(finished.stdout)


def full_texts(folder: Path) -> Path:
    """A training file whose texts are all longer than --max-length, as in a plan for full lengths."""
    text = " ".join(f"word{number % 97} of a long text" for number in range(600))
    record = {"query": text, "positive_document": text, "negative_documents": [text]}
    path = folder / "train.jsonl"
    path.write_text((json.dumps(record) + "\n") * 64, encoding="utf-8")
    return path


def train(
    arguments: list[str], folder: Path, *, steps: int = STEPS, limit_bytes: int | None = None
) -> tuple[int, float]:
    """Peak resident bytes and seconds an optimizer step of a training."""
    options = ("--overwrite", "--max-steps", str(steps), "--output-dir", str(folder))
    record = splade_bench("train", *arguments, *options, limit_bytes=limit_bytes)
    return record["peak_rss_bytes"], record["wall_time_s"] / steps


def train_in_turns(choices: list[list[str]], folder: Path) -> list[tuple[int, float]]:
    """Of each line of arguments, the largest peak and the median seconds an optimizer step over rounds."""
    runs: list[list[tuple[int, float]]] = [[] for _ in choices]
    for number in range(ROUNDS):
        turns = list(zip(choices, runs, strict=True))
        for arguments, measured in turns if number % 2 == 0 else turns[::-1]:
            measured.append(train(arguments, folder))
    return [
        (max(peak_bytes for peak_bytes, _ in measured), statistics.median(step_time_s for _, step_time_s in measured))
        for measured in runs
    ]


def outcome(found: Any, peak_bytes: int, step_time_s: float) -> str:
    """What ``fit`` predicts of its choice, and the measurements."""
    return (
        f"{found['settings']}: planned {found['peak_bytes'] / 2**20:.0f} MiB, measured {peak_bytes / 2**20:.0f}; "
        f"predicted {found['predicted_step_time_s']:.2f} s, measured {step_time_s:.2f}"
    )


@pytest.fixture(scope="module")
def log(reports_folder: Path) -> Iterator[Log]:
    """Writes a line to a file, which the first line empties."""
    with ExitStack() as files:
        opened: dict[str, TextIO] = {}

        def write(name: str, line: str) -> None:
            if name not in opened:
                opened[name] = files.enter_context((reports_folder / name).open("w", encoding="utf-8"))
            print(line, file=opened[name], flush=True)

        yield write


@pytest.mark.takes_long
@pytest.mark.parametrize(("name", "budget"), CASES, ids=lambda part: part)
def test_the_choice_keeps_to_its_budget_and_is_nearly_the_fastest(
    name: str, budget: str, tmp_path: Path, log: Log
) -> None:
    flags = [*WORKLOADS[name][0], "--device", "cpu", "--train-file", str(full_texts(tmp_path))]

    found = splade_bench("fit", *flags, "--budget", budget)
    runner_ups = found["runner_ups"][:ALTERNATIVES]
    choices = [row["train_arguments"] for row in (found, *runner_ups)]
    (peak_bytes, step_time_s), *others = train_in_turns(choices, tmp_path / "out")
    alternatives = [(row["settings"], *measured) for row, measured in zip(runner_ups, others, strict=True)]

    log("fit.log", f"{name} {budget}: {outcome(found, peak_bytes, step_time_s)}")
    for settings, other_bytes, other_s in alternatives:
        log("fit.log", f"  {settings}: {other_bytes / 2**20:.0f} MiB, {other_s:.2f} s")
    assert alternatives or budget == WORKLOADS[name][1][0], "only the tightest budget may leave no alternative"
    assert peak_bytes <= parse_bytes(budget)
    assert step_time_s <= SLOWER * min((other_s for _, _, other_s in alternatives), default=step_time_s)


@pytest.mark.takes_long
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
@pytest.mark.parametrize("budget", ["4GiB", "8GiB", "16GiB"])
@pytest.mark.parametrize("name", LIMITED_WORKLOADS)
def test_the_choice_runs_with_no_more_memory_than_its_budget(name: str, budget: str, tmp_path: Path, log: Log) -> None:
    flags = [*LIMITED_WORKLOADS[name], "--device", "cpu", "--train-file", str(full_texts(tmp_path))]

    found = splade_bench("fit", *flags, "--budget", budget)
    peak_bytes, step_time_s = train(
        found["train_arguments"], tmp_path / "out", steps=LIMITED_STEPS, limit_bytes=parse_bytes(budget)
    )

    log("fit-limits.log", f"{name} under {budget}: {outcome(found, peak_bytes, step_time_s)}")
    assert peak_bytes <= parse_bytes(budget)

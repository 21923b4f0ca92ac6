"""Several processes on this machine: a rank that is killed, and how many queries two train on beside one."""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from launched import Launched  # type: ignore[import-not-found]  # in tests/support
from reliability.commands import failure_line
from reliability.toy import Toy, debris, weights

from splade_bench.data.embedded import embedded_corpus
from splade_bench.errors import DataError
from splade_bench.training.checkpoints import Checkpoints

CAMPAIGN = "several processes"
LEAST_SHARE = 0.9
STEPS, TIMEOUT_S, ENDED_WITHIN_S = 40, 10, 30
_KILLED = -9


def kill_ranks(kills: int, *, seed: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: SIGKILL to one of two ranks at random moments of a training.

    Ranks take turns. After each kill both are started again, and end with the weights of a training that nothing was
    done to.
    """
    generator, seen, failures, tries = random.Random(seed), Counter[str](), list[str](), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        toy = Toy.make(folder)
        start_s = time.perf_counter()
        _finish(toy, folder / "undisturbed")
        life_s, expected = time.perf_counter() - start_s, weights(folder / "undisturbed")
        for kill in range(kills):
            output = folder / str(kill)
            moment_s = generator.uniform(0.0, life_s)
            try:
                tries.append({"kill": kill + 1, "rank": kill % 2, **_kill(toy, output, kill % 2, moment_s)})
                _finish(toy, output)
                if weights(output) != expected or debris(output):
                    raise RuntimeError(f"the resumed run ends with other weights, or leaves {debris(output)}")
                seen[str(tries[-1]["the other rank"])] += 1
            except (RuntimeError, DataError, OSError) as error:
                seen["failed"] += 1
                failures.append(failure_line(folder, f"kill {kill + 1}, rank {kill % 2}, {moment_s:.1f} s", error))
    return {
        "campaign": CAMPAIGN,
        "fault": "SIGKILL to one of two ranks, at random moments",
        "expected": f"the other rank ends within {ENDED_WITHIN_S} s and names it; every checkpoint is sound; "
        "the next start ends with the same weights, and leaves nothing behind",
        "tried": kills,
        "seen": dict(seen),
        "failures": failures,
        "tries": tries,
        "seed": seed,
    }


def compare_throughput(model: str, *, batch_size: int, pairs: int, steps: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``: two processes with a thread each, and one with two, in turns.

    Time is that between the first optimizer step and the last one.
    """
    rates: dict[int, list[float]] = {1: [], 2: []}
    records: dict[int, Mapping[str, float]] = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        (folder / "train.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, _records())))
        flags = ["--model-name", model, "--train-file", "train.jsonl", "--batch-size", batch_size, "--no-auto-fit"]
        flags += ["--max-length", 128, "--max-steps", steps, "--save-steps", 0, "--device", "cpu"]
        for pair in range(pairs):
            for size in (1, 2) if pair % 2 == 0 else (2, 1):
                output = folder / f"{pair}-{size}"
                with Launched(folder, size, [*flags, "--output-dir", output], threads=2 // size) as launched:
                    codes = launched.wait(7200)
                if any(codes):
                    failures.append(failure_line(folder, f"pair {pair + 1}, {size} processes", launched.messages(0)))
                    continue
                records[size] = json.loads((output / "run.json").read_text())
                rates[size].append(batch_size * (steps - 1) / _stepping_s(output))
    figures: dict[str, float | None] = {}
    if not failures:
        one, two = (statistics.median(rates[size]) for size in (1, 2))
        figures = {
            **_spread("queries_by_second_of_one_process", rates[1]),
            **_spread("queries_by_second_of_two_processes", rates[2]),
            "two_to_one_share": two / one,
            "exchanged_by_step_bytes": records[2]["exchanged_bytes"] / steps,
            "reduced_by_step_bytes": records[2]["reduced_bytes"] / steps,
        }
        if two < LEAST_SHARE * one:
            failures.append(f"two processes train on {two / one:.1%} of the queries of one")
    return {
        "campaign": CAMPAIGN,
        "fault": f"{model}, batch size {batch_size}: two processes with one thread each, and one with two",
        "expected": f"two processes train on at least {LEAST_SHARE:.0%} as many queries a second",
        "tried": 2 * pairs,
        "seen": {"one process": len(rates[1]), "two processes": len(rates[2])},
        "failures": failures,
        "figures": figures,
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """The median, the smallest and the largest value."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def _records() -> Iterator[dict[str, Any]]:
    for triple in embedded_corpus().triples:
        yield {"query": triple.query, "positive_document": triple.positive, "negative_documents": triple.negatives}


def _stepping_s(output: Path) -> float:
    lines = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    times_s = [line["time_s"] for line in lines if line["event"] == "step"]
    return float(times_s[-1] - times_s[0])


def _flags(toy: Toy, output: Path) -> list[str]:
    return [*toy.command(output, steps=STEPS)[1:], "--process-timeout-s", str(TIMEOUT_S)]


def _finish(toy: Toy, output: Path) -> None:
    """Start both ranks, and wait for their end."""
    with Launched(output.parent, 2, _flags(toy, output)) as launched:
        if any(codes := launched.wait()):
            raise RuntimeError(f"exit codes {codes}: {_last_line(launched.messages(0))}")


def _kill(toy: Toy, output: Path, rank: int, moment_s: float) -> dict[str, Any]:
    """Kill a rank of a training, and look at what the other one does and what is left."""
    with Launched(output.parent, 2, _flags(toy, output)) as launched:
        killed, other = launched.processes[rank], launched.processes[1 - rank]
        time.sleep(moment_s)
        killed.kill()
        start_s = time.perf_counter()
        was_killed = killed.wait() == _KILLED
        code = other.wait(ENDED_WITHIN_S)
        ended_s = time.perf_counter() - start_s
        line = _last_line(launched.messages(1 - rank))
    if was_killed and code == 1 and f"rank {rank}" not in line:
        raise RuntimeError(f"the other rank does not name it: {line}")
    if code not in (0, 1, 2):
        raise RuntimeError(f"the other rank has exit code {code}: {line}")
    checkpoints = Checkpoints(output).all()
    for checkpoint in checkpoints:
        checkpoint.verify()
    last = checkpoints[-1].step if checkpoints else 0
    return {"after_s": moment_s, "last_step": last, "the other rank": f"exit code {code}", "ended_after_s": ended_s}


def _last_line(messages: str) -> str:
    lines: Sequence[str] = messages.strip().splitlines()
    return lines[-1] if lines else ""

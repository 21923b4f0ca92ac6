"""What checkpoints cost: pairs of trainings with them and without, in time and in memory."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from reliability.commands import failure_line, run
from splade_bench.cli.training_run import TrainingRun
from splade_bench.data.embedded import embedded_corpus
from splade_bench.measure.rss import status_bytes

TIME_SHARE, MEMORY_SHARE = 0.03, 0.05


def pay_for_checkpoints(model: str, *, batch_size: int, pairs: int, steps: int, every: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``.

    Time is that of all saves of a training, relative to the rest of it. Memory is the kernel's high-water mark at the
    end of the last optimizer step, above what the process had when the training began, relative to the same without
    checkpoints.
    """
    failures: list[str] = []
    records: dict[bool, list[Mapping[str, float]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        texts = folder / "train.jsonl"
        texts.write_bytes(b"\n".join(map(msgspec.json.encode, _records())))
        command = ["--model-name", model, "--train-file", str(texts), "--batch-size", str(batch_size)]
        for pair in range(pairs):
            for saves in (False, True) if pair % 2 == 0 else (True, False):
                try:
                    records[saves].append(_train(command, folder / f"{pair}-{saves}", steps, every if saves else 0))
                except (OSError, ValueError, RuntimeError) as error:
                    failures.append(failure_line(folder, f"pair {pair + 1}", error))
    figures = _figures(records) if not failures else {}
    for name, limit in (("checkpoint_time_share", TIME_SHARE), ("added_memory_share", MEMORY_SHARE)):
        value = figures.get(name)
        if value is not None and value > limit:
            failures.append(f"{name.replace('_', ' ')} is {value:.1%}")
    return {
        "campaign": "cost",
        "fault": f"{model}, batch size {batch_size}, a checkpoint every {every} optimizer steps",
        "expected": f"at most {TIME_SHARE:.0%} of the time and {MEMORY_SHARE:.0%} more memory",
        "tried": 2 * pairs,
        "seen": {"without checkpoints": len(records[False]), "with checkpoints": len(records[True])},
        "failures": failures,
        "figures": figures,
    }


def _records() -> Iterator[dict[str, Any]]:
    """The embedded corpus as a training file: without held-out queries, nothing is evaluated."""
    for triple in embedded_corpus().triples:
        yield {"query": triple.query, "positive_document": triple.positive, "negative_documents": triple.negatives}


def _train(command: Sequence[str], output: Path, steps: int, every: int) -> dict[str, float]:
    """The figures of a training."""
    flags = ["--device", "cpu", "--max-steps", str(steps), "--save-steps", str(every), "--output-dir", str(output)]
    peak = output.with_suffix(".peak")
    ended = run(["train", *command, *flags], before=partial(_note_peak, peak), threads=None, timeout_s=7200)
    if ended.exit_code:
        raise RuntimeError(ended.output)
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    if every and record["checkpoints_saved"] < steps // every:
        raise RuntimeError(f"{record['checkpoints_saved']} checkpoints were saved")
    peak_bytes = int(peak.read_text())
    names = ("wall_time_s", "checkpoint_time_s")
    return {name: record[name] for name in names} | {"added_bytes": peak_bytes - record["baseline_rss_bytes"]}


def _note_peak(path: Path) -> None:
    """From now on the high-water mark is noted when the last optimizer step is done, before the model is saved."""
    real = TrainingRun.save

    def save(self: TrainingRun) -> None:
        path.write_text(str(status_bytes("VmHWM")))
        real(self)

    TrainingRun.save = save  # type: ignore[method-assign]


def _figures(records: Mapping[bool, list[Mapping[str, float]]]) -> dict[str, float | None]:
    def median(saves: bool, name: str) -> float:
        return statistics.median(record[name] for record in records[saves])

    times_s = [(record["checkpoint_time_s"], record["wall_time_s"]) for record in records[True]]
    without_bytes, with_bytes = median(False, "added_bytes"), median(True, "added_bytes")
    return {
        "checkpoint_time_s": median(True, "checkpoint_time_s"),
        "wall_time_s": median(True, "wall_time_s"),
        "wall_time_without_s": median(False, "wall_time_s"),
        "checkpoint_time_share": statistics.median(saved_s / (all_s - saved_s) for saved_s, all_s in times_s),
        "wall_time_share": median(True, "wall_time_s") / median(False, "wall_time_s") - 1,
        "added_bytes": with_bytes,
        "added_without_bytes": without_bytes,
        "added_memory_share": with_bytes / without_bytes - 1,
    }

"""A training file of a million triples: the memory and the time that the data take."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from reliability.commands import failure_line, run
from splade_bench.batching.sources import TripleBatches
from splade_bench.cli import starting
from splade_bench.cli.progress import Progress
from splade_bench.cli.sources import load_corpus, load_encoder
from splade_bench.config import TrainConfig
from splade_bench.measure.rss import PeakRss

MEMORY_BYTES = 200 * 10**6
FIRST_STEP_S = 5.0
BATCHING_SHARE = 0.03
WORDS, SENTENCES = 5_000, 20_000
BATCHES = 200


def train_on_many(model: str, *, triples: int, steps: int) -> dict[str, Any]:
    """The measured fields of a ``ReliabilityResult``.

    The file is checked in a first process. A second one reads it through the index and makes batches, and a training
    is a third: its first optimizer step begins after the model is loaded, and *batching* is the share of the time of
    the later ones in which it waits for a batch.
    """
    failures, figures = [], dict[str, float | None]()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        path = folder / "train.jsonl"
        _write(path, triples)
        figures["file_bytes"] = float(path.stat().st_size)
        try:
            for name, action in (("check", _load), ("data_path", _make_batches)):
                time_s, added_bytes = _measured(partial(action, path), folder)
                figures |= {f"{name}_s": time_s, f"{name}_added_bytes": added_bytes}
            figures |= _training(model, path, folder, steps)
        except (OSError, ValueError, RuntimeError) as error:
            failures.append(failure_line(folder, error))
    limits = {
        "check_added_bytes": MEMORY_BYTES,
        "data_path_added_bytes": MEMORY_BYTES,
        "first_step_after_s": FIRST_STEP_S,
        "batching_share": BATCHING_SHARE,
    }
    for name, limit in limits.items():
        value = figures.get(name)
        if value is None or value > limit:
            failures.append(f"{name} is {value}, the limit is {limit}")
    return {
        "campaign": "data",
        "fault": f"{triples:,} triples, {model}",
        "expected": "at most 200 MB, the first optimizer step within 5 s, and 3 % of the time",
        "tried": len(limits),
        "seen": {"limits judged": len(limits)},
        "failures": failures,
        "figures": figures,
    }


def _write(path: Path, triples: int) -> None:
    """Records of different texts of natural length: queries of 6 words, documents of 30."""
    generator = random.Random(5)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(WORDS)]
    short, long = ([" ".join(generator.choices(words, k=size)) for _ in range(SENTENCES)] for size in (6, 30))
    with path.open("w", encoding="utf-8") as file:
        for number in range(triples):
            documents = [f"{sentence} {number}" for sentence in generator.choices(long, k=2)]
            record = {
                "query": f"{generator.choice(short)} {number}",
                "positive_document": documents[0],
                "negative_documents": documents[1:],
            }
            file.write(json.dumps(record) + "\n")


def _load(path: Path) -> Any:
    return load_corpus(path, None, need_negatives=True)


def _make_batches(path: Path) -> None:
    """Batches of an epoch's beginning and of its end, from the index."""
    corpus, config = _load(path), TrainConfig(max_length=64, batch_size=32)
    encoder = load_encoder("toy", corpus, seed=0)
    source = TripleBatches.for_config(corpus.triples, encoder.tokenizer, config, encoder.device)
    for start in (0, max(0, source.batches_per_epoch - BATCHES)):
        for _ in islice(source.batches(0, start=start), BATCHES):
            pass


def _measured(action: Callable[[], object], folder: Path) -> tuple[float, float]:
    """Seconds and added bytes of an action in a fork of this process."""
    path = folder / "measured"
    child = os.fork()
    if not child:
        exit_code = 1
        try:
            peak, start_s = PeakRss(), time.perf_counter()
            peak.start()
            action()
            reading = peak.read()
            assert reading.peak_bytes is not None and reading.start_bytes is not None
            path.write_text(json.dumps([time.perf_counter() - start_s, reading.peak_bytes - reading.start_bytes]))
            exit_code = 0
        finally:
            os._exit(exit_code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"{action} failed")
    time_s, added_bytes = json.loads(path.read_text())
    return time_s, added_bytes


def _training(model: str, path: Path, folder: Path, steps: int) -> dict[str, float | None]:
    output, noted = folder / "output", folder / "noted"
    command = ["train", "--device", "cpu", "--model-name", model, "--train-file", str(path), "--max-length", "128"]
    flags = ["--batch-size", "8", "--max-steps", str(steps), "--save-steps", "0", "--output-dir", str(output)]
    ended = run([*command, *flags], before=partial(_note_times, noted), threads=None, timeout_s=3600)
    if ended.exit_code:
        raise RuntimeError(ended.output)
    moments = [(name, float(moment)) for name, moment in map(str.split, noted.read_text().splitlines())]
    (loaded_s,) = (moment for name, moment in moments if name == "loaded")
    first_s = next(moment for name, moment in moments if name == "forward")
    phases = [one for one in moments if one[0] != "loaded"]
    first_end = next(place for place, (name, _) in enumerate(phases) if name == "optimizer_step") + 1
    later = phases[first_end:]
    spans = [(name, end - start) for (name, start), (_, end) in pairwise(later)]
    batching_s = sum(span for name, span in spans if name == "batching")
    return {
        "first_step_after_s": first_s - loaded_s,
        "batching_s": batching_s,
        "batching_share": batching_s / sum(span for _, span in spans),
    }


def _note_times(path: Path) -> None:
    """From now on the end of the model's loading and the begin of each phase are noted."""
    on_phase, load = Progress.on_phase, starting.load_encoder  # type: ignore[attr-defined]
    file = path.open("w", encoding="utf-8", buffering=1)

    def note(name: str) -> None:
        file.write(f"{name} {time.perf_counter()}\n")

    def noted_phase(self: Progress, phase: Any) -> None:
        on_phase(self, phase)
        note(phase)

    def noted_load(*arguments: Any, **keywords: Any) -> Any:
        encoder = load(*arguments, **keywords)
        note("loaded")
        return encoder

    Progress.on_phase = noted_phase  # type: ignore[method-assign]
    starting.load_encoder = noted_load  # type: ignore[attr-defined]

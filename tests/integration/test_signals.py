"""Ctrl-C and termination of a real ``splade-bench train``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from splade_bench.cli.signals import StopSignals
from splade_bench.data.records import Triple

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


@pytest.fixture
def command(tmp_path: Path, triples: Sequence[Triple]) -> list[str]:
    path = tmp_path / "train.jsonl"
    records = (
        {"query": triple.query, "positive_document": triple.positive, "negative_documents": list(triple.negatives)}
        for triple in triples
    )
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return [
        *[sys.executable, "-m", "splade_bench", "train", "--train-file", str(path), "--model-name", "toy"],
        *["--device", "cpu", "--max-steps", "100000", "--output-dir", str(tmp_path / "run")],
    ]


def test_a_second_signal_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    stopped = []

    with StopSignals() as signals:
        signals.on_first(lambda: stopped.append(True))
        signal.raise_signal(signal.SIGTERM)
        assert stopped == [True]
        assert signals.exit_code == 143
        with pytest.raises(SystemExit) as ending:
            signal.raise_signal(signal.SIGINT)

    assert ending.value.code == 130
    assert stopped == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_before_training_ends_at_once() -> None:
    with pytest.raises(SystemExit) as ending, StopSignals():
        signal.raise_signal(signal.SIGTERM)

    assert ending.value.code == 143


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_and_saves_the_model(
    command: list[str], number: signal.Signals, code: int, tmp_path: Path
) -> None:
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("training"):
                time.sleep(1.0)  # some steps
                process.send_signal(number)
                break
        process.stderr.read()
        assert process.wait(timeout=60) == code

    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert 0 < record["optimizer_steps"] < 100000
    assert (tmp_path / "run" / "final_model" / "model.safetensors").is_file()

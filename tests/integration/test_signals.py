"""Ctrl-C and SIGTERM while ``splade-bench train`` runs."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from splade_bench.cli import main
from splade_bench.cli.signals import StopSignals
from splade_bench.data.records import Triple

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


@pytest.fixture
def arguments(tmp_path: Path, triples: Sequence[Triple]) -> list[str]:
    path = tmp_path / "train.jsonl"
    records = (
        {"query": triple.query, "positive_document": triple.positive, "negative_documents": list(triple.negatives)}
        for triple in triples
    )
    path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
    return ["train", "--train-file", str(path), "--model-name", "toy", "--device", "cpu", "--output-dir", str(tmp_path)]


def test_a_second_signal_ends_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    stopped = []

    with StopSignals() as signals:
        signals.on_first = lambda: stopped.append(True)
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


class SignalAtFirstStep(logging.Handler):
    """Sends a signal to this process when the first optimizer steps are reported."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self._number: signal.Signals | None = number

    def emit(self, record: logging.LogRecord) -> None:
        if self._number is not None and record.getMessage().startswith("optimizer step"):
            number, self._number = self._number, None
            signal.raise_signal(number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_and_saves_the_model(
    arguments: list[str], number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("splade_bench.cli.progress")
    monkeypatch.setattr(logger, "handlers", [SignalAtFirstStep(number)])

    assert main([*arguments, "--max-steps", "40"]) == code

    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert record["optimizer_steps"] == 4, "progress is reported ten times a run"
    assert "metrics" not in record
    assert (tmp_path / "final_model" / "model.safetensors").is_file()


def test_ctrl_c_ends_the_process_with_a_saved_model(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "splade_bench", *arguments, "--max-steps", "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("training"):
                time.sleep(1.0)  # some steps
                process.send_signal(signal.SIGINT)
                break
        process.stderr.read()
        assert process.wait(timeout=60) == 130

    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert 0 < record["optimizer_steps"] < 100000
    assert (tmp_path / "final_model" / "model.safetensors").is_file()

"""Signals while ``splade-bench train`` runs."""

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
from splade_bench.training.checkpoints import Checkpoint

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


STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


def test_one_sigterm_after_a_notice_does_not_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm and others send SIGUSR1, and much later SIGTERM: the second is the first that asks for the end."""
    now_s = [100.0]
    monkeypatch.setattr("splade_bench.cli.signals.time.monotonic", lambda: now_s[0])

    with StopSignals() as signals:
        signals.on_first = lambda: None
        signal.raise_signal(signal.SIGUSR1)
        now_s[0] += 60
        signal.raise_signal(signal.SIGTERM)
        now_s[0] += 60
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)

    assert signals.exit_code == 128 + signal.SIGUSR1


@pytest.mark.parametrize("again", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_again_ends_at_once(again: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    before, now_s = signal.getsignal(signal.SIGINT), [100.0]
    monkeypatch.setattr("splade_bench.cli.signals.time.monotonic", lambda: now_s[0])
    stopped = []

    with StopSignals() as signals:
        signals.on_first = lambda: stopped.append(True)
        signal.raise_signal(signal.SIGTERM)
        assert stopped == [True]
        assert signals.exit_code == 143
        signal.raise_signal(again)  # schedulers and shells send several within a moment
        now_s[0] += 2
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(SystemExit) as ending:
            signal.raise_signal(again)

    assert ending.value.code == 128 + again
    assert stopped == [True]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_that_was_ignored_stays_ignored(number: signal.Signals) -> None:
    """As under nohup, and SIGINT in a background job of a script."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signals.on_first = lambda: pytest.fail("the signal was not ignored")
            signal.raise_signal(number)
        assert signals.exit_code == 0
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


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


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_saves_the_last_complete_step(
    arguments: list[str], number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("splade_bench.cli.progress")
    monkeypatch.setattr(logger, "handlers", [SignalAtFirstStep(number)])

    assert main([*arguments, "--max-steps", "40"]) == 128 + number

    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert record["optimizer_steps"] == 4, "progress is reported ten times a run"
    assert "metrics" not in record
    assert record["checkpoint"] == str(tmp_path / "checkpoint-4")
    Checkpoint.at(tmp_path / "checkpoint-4").verify()
    assert (tmp_path / "final_model" / "model.safetensors").is_file()


def test_ctrl_c_ends_the_process_with_a_saved_model(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "splade_bench", *arguments, "--max-steps", "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("training"):
                while not (tmp_path / "log.jsonl").exists():  # the first step
                    time.sleep(0.01)
                process.send_signal(signal.SIGINT)
                break
        process.stderr.read()
        assert process.wait(timeout=60) == 130

    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert 0 < record["optimizer_steps"] < 100000
    assert (tmp_path / "final_model" / "model.safetensors").is_file()

"""``train --auto-fit``: the training has the settings that ``fit`` chooses, or does not start."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from splade_bench.cli import main
from splade_bench.planner import process


def train_arguments(train_file: Path, output: Path, *more: str) -> list[str]:
    """With few settings left to choose, so that there are few plans to wait for."""
    return [
        *["train", "--train-file", str(train_file), "--output-dir", str(output), "--model-name", "toy"],
        *["--device", "cpu", "--max-length", "16", "--batch-size", "2", "--negatives-per-query", "0"],
        *["--optimizer-states", "float32", "--selective-recomputation", "--activation-checkpointing"],
        *["--max-steps", "2", "--auto-fit", *more],
    ]


@pytest.mark.slow
def test_a_training_has_the_settings_that_fit_chooses(
    train_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the process that plans, as here: waiting threads cost time
    more = ("--no-trim-heap", "--memory-tracking")

    assert main(train_arguments(train_file, tmp_path / "out", "--budget", "64GiB", "--json", *more)) == 0

    record = json.loads(capsys.readouterr().out)
    assert record["optimizer_steps"] == 2
    assert record["config"]["batch_size"] == 2
    memory = record["config"]["memory"]
    assert memory["activation_memory"] == "all", "chosen: the default is none"
    assert (memory["trim_heap"], memory["activation_checkpointing"]) == (False, True), "kept, as they were named"
    assert "--memory-tracking" in caplog.text, "the command that has these settings"


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the process that plans be this one, so that a test need not wait for its imports; the replies."""
    replies: list[str] = []

    def run(command: Sequence[str], *, input: bytes, **_: Any) -> subprocess.CompletedProcess[bytes]:
        assert "splade_bench.planner.process" in command
        with pytest.MonkeyPatch.context() as patch:
            output = io.BytesIO()
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(output))
            process.main()
            reply = output.getvalue()
        replies.append(reply.decode())
        return subprocess.CompletedProcess(command, 0, reply)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("splade_bench.planner.fitting.available_devices", lambda: [])  # nothing is timed
    return replies


@pytest.mark.parametrize(
    ("budget", "flags", "code", "error", "message"),
    [
        ("1MiB", [], 2, "ConfigError", "every batch size needs at least"),
        ("1MiB", ["--max-grad-norm", "inf"], 2, "ConfigError", "every batch size needs at least"),
        ("64GiB", ["--max-length", "600"], 2, "ConfigError", "takes at most 512 tokens"),
        ("{tight}", [], 1, "TrainingError", "nothing fits in "),
    ],
)
def test_a_training_does_not_start_where_fit_fails(
    budget: str,
    flags: list[str],
    code: int,
    error: str,
    message: str,
    in_this_process: list[str],
    parses: list[Sequence[str]],
    train_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runtime_bytes = 400 * 2**20
    monkeypatch.setattr("splade_bench.planner.requests.known_rss_bytes", lambda: runtime_bytes)
    budget = budget.format(tight=runtime_bytes + 15 * 2**20)
    out = tmp_path / "out"

    assert main(train_arguments(train_file, out, "--budget", budget, *flags)) == code

    assert len(parses) == 1, "the process that plans gets no command line"
    (reply,) = map(json.loads, in_this_process)
    assert reply["error"] == error
    assert message in reply["message"]
    assert capsys.readouterr().err.splitlines()[-1] == f"splade-bench train: {reply['message']}"
    assert not (out / "run.json").exists()


def test_a_process_that_dies_is_an_error_of_one_line(
    train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -9, b""))

    assert main(train_arguments(train_file, tmp_path / "out")) == 1

    assert (
        "no settings were found: the planning process ended with exit code -9; run splade-bench fit with the same flags"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "run.json").exists()

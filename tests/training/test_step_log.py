"""``log.jsonl``: what a line says, one log across a resume, and a disk that fails."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from contextlib import closing
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from splade_bench.errors import ConfigError
from splade_bench.training.state import StepLoss, TrainState
from splade_bench.training.step_log import StepLog


def loss_of(total: float) -> StepLoss:
    return StepLoss(
        total=total,
        ranking=0.5,
        query_regularizer=0.25,
        document_regularizer=0.125,
        query_active_dims=7.0,
        document_active_dims=9.0,
    )


def state_at(step: int) -> TrainState:
    return TrainState(
        max_steps=100, global_step=step, queries_seen=8 * step, epoch=1, learning_rate=1e-3, gradient_norm=2.0
    )


def log_steps(log: StepLog, *steps: int) -> None:
    for step in steps:
        log.on_step_end(state_at(step), loss_of(float(step)))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Strict JSON: NaN is an error."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def steps_of(path: Path) -> list[int]:
    return [line["step"] for line in lines_of(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_a_step_is_one_line_with_its_loss_and_terms(path: Path) -> None:
    with closing(StepLog(path)) as log:
        log_steps(log, 1)

    (line,) = lines_of(path)
    assert line.pop("time_s") > 1.7e9
    assert line == {
        "event": "step",
        "step": 1,
        "loss": 1.0,
        "ranking": 0.5,
        "query_regularizer": 0.25,
        "document_regularizer": 0.125,
        "query_active_dims": 7.0,
        "document_active_dims": 9.0,
        "learning_rate": 1e-3,
        "gradient_norm": 2.0,
        "queries_seen": 8,
        "epoch": 1,
    }


def test_evaluations_and_other_events_have_the_step_they_follow(path: Path) -> None:
    with closing(StepLog(path)) as log:
        log.event("start", seed=42)
        log_steps(log, 1, 2)
        log.on_evaluation(state_at(2), {"mrr@10": 0.5, "validation_loss": None})
        log.event("checkpoint", path="checkpoint-2")
        log.event("fault", step=3, reason="\ud800 not UTF-8")

    start, _, _, evaluation, checkpoint, fault = lines_of(path)
    assert (start["step"], start["seed"]) == (0, 42)
    assert (evaluation["step"], evaluation["metrics"]) == (2, {"mrr@10": 0.5, "validation_loss": None})
    assert (checkpoint["event"], checkpoint["step"], checkpoint["path"]) == ("checkpoint", 2, "checkpoint-2")
    assert (fault["step"], fault["reason"]) == (3, "\ud800 not UTF-8")


def test_a_number_that_is_not_finite_is_null(path: Path) -> None:
    with closing(StepLog(path)) as log:
        log.on_step_end(state_at(1), loss_of(math.nan))
        log.on_evaluation(state_at(1), {"mrr@10": math.inf})

    step, evaluation = lines_of(path)
    assert step["loss"] is None
    assert evaluation["metrics"] == {"mrr@10": None}


def test_a_line_is_in_the_file_at_once(path: Path) -> None:
    with closing(StepLog(path)) as log:
        log_steps(log, 1)
        assert steps_of(path) == [1]


def test_an_event_is_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)

    with closing(StepLog(path)) as log:
        log_steps(log, 1)
        assert not synced
        log.event("checkpoint")
        assert synced


def test_a_resumed_log_reads_as_that_of_one_run(path: Path) -> None:
    with closing(StepLog(path)) as log:
        log_steps(log, 1, 2)
        log.event("checkpoint")
        log_steps(log, 3)
    with closing(StepLog(path, resume_step=2)) as log:
        log.event("resume")
        log_steps(log, 3, 4)

    assert [(line["event"], line["step"]) for line in lines_of(path)] == [
        ("step", 1),
        ("step", 2),
        ("checkpoint", 2),
        ("resume", 2),
        ("step", 3),
        ("step", 4),
    ]


def test_a_new_run_starts_an_empty_log_with_its_first_line(path: Path) -> None:
    """A run that is refused before leaves the earlier one's log as it was."""
    path.write_text('{"event": "step", "step": 7}\n')

    with closing(StepLog(path)) as log:
        assert steps_of(path) == [7]
        log_steps(log, 1)

    assert steps_of(path) == [1]


@pytest.mark.parametrize(
    "torn", [b'{"event": "st', b'{"event": "step", "step": 2}', b"\0\0\0\0", b"[]\n", b'{"step": null}\n']
)
def test_a_torn_last_line_is_cut_off(path: Path, torn: bytes) -> None:
    with closing(StepLog(path)) as log:
        log_steps(log, 1)
    path.write_bytes(path.read_bytes() + torn)

    with closing(StepLog(path, resume_step=5)) as log:
        log_steps(log, 6)

    assert steps_of(path) == [1, 6]


def test_damage_in_the_middle_costs_no_later_line(path: Path) -> None:
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n{"step": 2}\n{"step": 3}\n')

    with closing(StepLog(path, resume_step=2)) as log:
        log_steps(log, 3)

    assert path.read_bytes().startswith(b'{"step": 1}\n\xff\xfe\n{"step": 2}\n{"event"')


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_only_a_regular_file_is_written(tmp_path: Path, path: Path, kind: str) -> None:
    target = tmp_path / "precious"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    if kind == "link":
        target.write_text("precious\n")

    with pytest.raises(ConfigError, match=r"log\.jsonl: is not a regular file.*remove it"):
        StepLog(path)

    assert not target.exists() or target.read_text() == "precious\n"


def test_a_link_that_appears_at_the_last_moment_is_not_followed(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "precious"
    target.write_text("precious\n")
    path.symlink_to(target)
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)

    with caplog.at_level(logging.WARNING), closing(StepLog(path)) as log:
        log_steps(log, 1)

    assert target.read_text() == "precious\n"
    assert "log.jsonl: cannot be written" in caplog.text


class FullDisk:
    """Writes this many more bytes."""

    def __init__(self, free_bytes: int) -> None:
        self.free_bytes = free_bytes

    def write(self, file: FileIO, data: bytes) -> int:
        if not self.free_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = FileIO.write(file, data[: self.free_bytes])
        self.free_bytes -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    full = FullDisk(10**9)

    class OnThatDisk(FileIO):
        def write(self, data: Any, /) -> int:
            return full.write(self, data)

    monkeypatch.setattr("splade_bench.training.step_log.FileIO", OnThatDisk)
    return full


@pytest.mark.parametrize("free_bytes", [0, 10, 700])
def test_a_full_disk_warns_once_and_leaves_whole_lines(
    path: Path, disk: FullDisk, free_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), closing(StepLog(path)) as log:
        log_steps(log, 1)
        disk.free_bytes = free_bytes
        log_steps(log, 2, 3, 4, 5)
        log.event("checkpoint")
        full = steps_of(path)
        disk.free_bytes = 10**9  # somebody made room
        log_steps(log, 6)

    assert full == [1, 2, 3][: 1 + free_bytes // 300]
    assert steps_of(path) == [*full, 6]
    assert len(caplog.records) == 1
    assert "log.jsonl: cannot be written" in caplog.text


def test_a_log_that_cannot_be_opened_costs_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), closing(StepLog(tmp_path / "missing" / "log.jsonl")) as log:
        log_steps(log, 1)
        log.event("checkpoint")

    assert len(caplog.records) == 1


def test_a_closed_log_drops_what_comes_later(path: Path) -> None:
    log = StepLog(path)
    log.close()
    log.close()
    log_steps(log, 1)

    assert not path.exists()

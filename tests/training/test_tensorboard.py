"""Curves for TensorBoard: their names, a disk that fails, and a package that is not installed."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import pytest

from splade_bench.errors import ConfigError
from splade_bench.training.state import StepLoss, TrainState
from splade_bench.training.tensorboard import TensorBoardLog


class Message(SimpleNamespace):
    """A protocol buffer that is JSON on the disk."""

    Value: Any
    START = "START"

    def SerializeToString(self) -> bytes:
        return json.dumps(self, default=vars).encode() + b"\n"


Message.Value = Message


class Writer:
    """What tensorboard's RecordWriter does, until the disk is full."""

    full = False

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write(self, data: bytes) -> None:
        if Writer.full:
            raise OSError(28, "No space left on device")
        self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        if Writer.full:
            raise OSError(28, "No space left on device")


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    """A stand-in for the package, which this environment may not have."""
    names = ("tensorboard", "tensorboard.compat", "tensorboard.compat.proto", "tensorboard.summary")
    names += ("tensorboard.compat.proto.event_pb2", "tensorboard.compat.proto.summary_pb2")
    names += ("tensorboard.summary.writer", "tensorboard.summary.writer.record_writer")
    for name in names:
        module = ModuleType(name)
        vars(module).update(Event=Message, SessionLog=Message, Summary=Message, RecordWriter=Writer)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Writer, "full", False)
    return Writer


def log_step(log: TensorBoardLog, step: int) -> None:
    loss = StepLoss(
        total=float(step),
        ranking=0.5,
        query_regularizer=0.25,
        document_regularizer=0.125,
        query_active_dims=7.0,
        document_active_dims=9.0,
    )
    log.on_step_end(TrainState(max_steps=9, global_step=step, learning_rate=1e-3, gradient_norm=2.0, epoch=1), loss)


def records_of(folder: Path) -> Iterator[dict[str, Any]]:
    (path,) = folder.iterdir()
    assert "tfevents" in path.name
    return map(json.loads, path.read_text().splitlines())


def scalars_of(record: dict[str, Any]) -> dict[str, float]:
    return {value["tag"]: value["simple_value"] for value in record["summary"]["value"]}


def test_steps_and_evaluations_have_the_names_of_the_hugging_face_trainer(tmp_path: Path, double: type[Writer]) -> None:
    with closing(TensorBoardLog(tmp_path / "new" / "curves")) as log:
        log_step(log, 1)
        log.on_evaluation(TrainState(max_steps=9, global_step=1), {"mrr@10": 0.5, "validation_loss": None})

    version, start, step, evaluation = records_of(tmp_path / "new" / "curves")
    assert version["file_version"] == "brain.Event:2"
    assert (start["step"], start["session_log"]) == (1, {"status": "START"})
    assert step["step"] == evaluation["step"] == 1
    assert scalars_of(step) == {
        "train/loss": 1.0,
        "train/ranking": 0.5,
        "train/query_regularizer": 0.25,
        "train/document_regularizer": 0.125,
        "train/query_active_dims": 7.0,
        "train/document_active_dims": 9.0,
        "train/learning_rate": 1e-3,
        "train/grad_norm": 2.0,
        "train/epoch": 1,
    }
    assert scalars_of(evaluation) == {"eval/mrr@10": 0.5}


def test_a_resumed_run_hides_the_steps_after_its_checkpoint(tmp_path: Path, double: type[Writer]) -> None:
    TensorBoardLog(tmp_path, resume_step=5).close()

    _, start = records_of(tmp_path)
    assert start["step"] == 6


def test_a_full_disk_warns_once_and_the_training_goes_on(
    tmp_path: Path, double: type[Writer], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), closing(TensorBoardLog(tmp_path)) as log:
        log_step(log, 1)
        double.full = True
        log_step(log, 2)
        log_step(log, 3)
        log.on_evaluation(TrainState(max_steps=9, global_step=3), {"mrr@10": 0.5})
        double.full = False  # what is in the file may end in half a record
        log_step(log, 4)

    assert len(caplog.records) == 1
    assert "--log-dir: cannot be written" in caplog.text
    assert [record["step"] for record in records_of(tmp_path) if "summary" in record] == [1]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, double: type[Writer]) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(
        ConfigError, match=r"--log-dir .*file.curves: cannot be written: .*file is not a folder; name another place"
    ):
        TensorBoardLog(tmp_path / "file" / "curves")


def test_a_missing_package_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)

    with pytest.raises(ConfigError, match=r"--log-dir: tensorboard cannot be imported.*pip install tensorboard"):
        TensorBoardLog(tmp_path / "curves")

    assert not (tmp_path / "curves").exists()


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_it(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with closing(TensorBoardLog(tmp_path)) as log:
        for step in (1, 2, 3, 4):
            log_step(log, step)
    with closing(TensorBoardLog(tmp_path, resume_step=2)) as log:
        log_step(log, 3)
        log.on_evaluation(TrainState(max_steps=9, global_step=3), {"mrr@10": 0.5})

    read = accumulator.EventAccumulator(str(tmp_path))
    read.Reload()

    assert [(event.step, event.value) for event in read.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 3)]
    assert [event.value for event in read.Scalars("eval/mrr@10")] == [0.5]

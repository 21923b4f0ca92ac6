"""The output folder of a training."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Set
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from splade_bench.cli.output import OutputFolder
from splade_bench.errors import ConfigError
from splade_bench.model import SpladeEncoder

HOLD = """
import sys
from pathlib import Path
from splade_bench.cli.output import OutputFolder
OutputFolder(Path(sys.argv[1])).prepare(overwrite=False)
print("held", flush=True)
sys.stdin.readline()
"""


def names(folder: Path) -> Set[str]:
    return {path.name for path in folder.iterdir()}


def fill(folder: Path) -> None:
    (folder / "weights").write_text("1")


@pytest.fixture
def output(tmp_path: Path) -> OutputFolder:
    """A folder that a training may write to."""
    output = OutputFolder(tmp_path / "run")
    output.prepare(overwrite=False)
    return output


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigError, match=r"cannot be written: .*file is not a folder; name another"):
        OutputFolder(tmp_path / "file").prepare(overwrite=True)


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "file"])
def test_anything_in_the_place_of_the_model_is_replaced_only_if_asked(
    kind: str, encoder: SpladeEncoder, tmp_path: Path
) -> None:
    output, elsewhere = OutputFolder(tmp_path / "run"), tmp_path / "elsewhere"
    output.prepare(overwrite=False)
    if kind == "file":
        output.model.write_text("old")
    elif kind == "folder":
        output.model.mkdir()
        (output.model / "old").write_text("old")
    else:
        output.model.symlink_to(elsewhere)
    if kind == "link":
        elsewhere.mkdir()
        (elsewhere / "kept").write_text("kept")

    with pytest.raises(ConfigError, match="add --overwrite"):
        output.prepare(overwrite=False)
    output.prepare(overwrite=True)
    output.save_model(encoder)

    assert (output.model / "model.safetensors").is_file()
    assert not output.model.is_symlink()
    assert not (output.model / "old").exists()
    assert kind != "link" or (elsewhere / "kept").read_text() == "kept"
    assert names(output.path) == {".lock", "final_model"}


def test_a_number_that_is_not_finite_is_null_in_the_record(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path)

    output.write_record({"final_loss": float("nan"), "model_name": "é"})

    assert json.loads(output.record.read_text(encoding="utf-8")) == {"final_loss": None, "model_name": "é"}


@pytest.mark.slow
def test_a_second_training_in_the_same_folder_is_refused_until_the_first_one_is_gone(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with first:
        assert first.stdout and first.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"another training \(process {first.pid}\) writes to it"):
            OutputFolder(tmp_path).prepare(overwrite=True)
        first.send_signal(signal.SIGKILL)

    OutputFolder(tmp_path).prepare(overwrite=False)
    assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())


@pytest.mark.parametrize(("host", "shown"), [(socket.gethostname(), ""), ("node7", " on node7")])
def test_the_holder_of_a_folder_is_named(host: str, shown: str, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"123 {host}\n")
        lock.flush()

        with pytest.raises(ConfigError, match=rf"another training \(process 123{shown}\) writes to it"):
            OutputFolder(tmp_path).prepare(overwrite=False)


def test_a_process_may_prepare_its_folder_again(output: OutputFolder) -> None:
    OutputFolder(output.path).prepare(overwrite=False)


def test_where_files_cannot_be_locked_the_training_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)

    OutputFolder(tmp_path).prepare(overwrite=False)

    assert "cannot be locked (No locks available): start only one training" in caplog.text


def test_an_earlier_run_is_refused_and_the_flags_that_help_are_named(output: OutputFolder) -> None:
    output.checkpoints.save(5, fill)

    with pytest.raises(ConfigError, match=r"checkpoint-5 of an earlier run; add --resume-from-checkpoint .*--overwr"):
        output.prepare(overwrite=False)
    with pytest.raises(ConfigError, match="remove one of them"):
        output.prepare(overwrite=True, resuming=True)

    output.prepare(overwrite=False, resuming=True)
    output.prepare(overwrite=True)
    assert names(output.path) == {".lock", "checkpoint-5"}


def test_overwriting_deletes_the_last_run_when_the_training_begins(output: OutputFolder) -> None:
    output.checkpoints.save(5, fill)
    output.checkpoints.save(10, fill)
    output.log.write_text("{}")
    output.record.write_text("{}")
    output.model.mkdir()

    output.begin(overwrite=False)
    assert names(output.path) == {".lock", "checkpoint-5", "checkpoint-10", "log.jsonl", "run.json", "final_model"}

    output.begin(overwrite=True)
    assert names(output.path) == {".lock", "run.json", "final_model"}


def test_what_a_killed_run_left_half_done_goes_and_its_old_model_comes_back(output: OutputFolder) -> None:
    (output.path / f".checkpoint-15.unfinished-{'0' * 32}").mkdir()
    (output.path / f".final_model.replaced-{'1' * 32}").mkdir()
    (output.path / f".final_model.unfinished-{'2' * 32}").mkdir()

    with pytest.raises(ConfigError, match="already has a final_model"):
        output.prepare(overwrite=False)

    assert names(output.path) == {".lock", "final_model"}


def test_a_run_that_cannot_be_deleted_is_not_mixed_with_a_new_one(
    output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.checkpoints.save(5, fill)

    def denied(path: object, *_: object) -> NoReturn:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "rename", denied)  # on Python 3.10 it does not look up os.rename

    with pytest.raises(ConfigError, match=r"--overwrite: .*checkpoint-5 cannot be deleted: Permission denied"):
        output.begin(overwrite=True)


def test_too_little_room_is_refused_with_what_to_change(output: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=2**30, free=2**20))

    output.require_room(2**20)
    with pytest.raises(ConfigError, match="need 2 MiB, and 1 MiB are free; add --save-total-limit 1 or --save-steps 0"):
        output.require_room(2**21)


def test_a_disk_that_does_not_know_its_size_is_not_refused(
    output: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=0, free=0))

    output.require_room(2**40)


@pytest.mark.parametrize("name", [".lock", "log.jsonl", "run.json", "memory-timeline.svg"])
@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_what_is_written_in_place_must_be_a_file(name: str, kind: str, tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "run" / name
    path.parent.mkdir()
    if kind == "link":
        target.write_text("kept")
    path.mkdir() if kind == "folder" else path.symlink_to(target)

    with pytest.raises(ConfigError, match=rf"{name} in it is not a file; delete it"):
        OutputFolder(path.parent).prepare(overwrite=True)

    assert names(tmp_path / "run") == {name}
    assert target.exists() == (kind == "link") and (kind != "link" or target.read_text() == "kept")


@pytest.mark.parametrize("name", ["checkpoint-5", ".checkpoint-5.removed-" + "0" * 32])
def test_overwriting_does_not_delete_through_a_link(name: str, output: OutputFolder, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    fill(tmp_path / "target")
    (output.path / name).symlink_to(tmp_path / "target")

    output.prepare(overwrite=True)
    output.begin(overwrite=True)
    output.checkpoints.save(5, fill)

    assert names(output.path) == {".lock", "checkpoint-5"}
    assert not (output.path / "checkpoint-5").is_symlink()
    assert names(tmp_path / "target") == {"weights"}


def test_a_model_that_cannot_be_saved_leaves_the_old_one_and_no_debris(
    output: OutputFolder, encoder: SpladeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.model.mkdir()
    fill(output.model)

    def full(self: SpladeEncoder, folder: Path) -> NoReturn:
        fill(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SpladeEncoder, "save_pretrained", full)

    with pytest.raises(OSError, match="No space left"):
        output.save_model(encoder)

    assert names(output.path) == {".lock", "final_model"}
    assert names(output.model) == {"weights"}


def test_others_may_read_a_model_as_the_umask_allows(output: OutputFolder, encoder: SpladeEncoder) -> None:
    before = os.umask(0o027)
    try:
        output.save_model(encoder)
    finally:
        os.umask(before)

    assert {(path.is_dir(), path.stat().st_mode & 0o777) for path in output.model.rglob("*")} == {
        (False, 0o640),
        (True, 0o750),
    }

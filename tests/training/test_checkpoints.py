"""The checkpoints of an output folder: saved once, found, rotated and cleaned up."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from written_checkpoints import writer

from splade_bench.errors import DataError, NotFiniteError
from splade_bench.files import remove_debris
from splade_bench.training.checkpoints import MANIFEST, Checkpoint, Checkpoints
from splade_bench.training.tensor_file import StreamedTensor, write_tensors


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


@pytest.fixture
def checkpoint(checkpoints: Checkpoints) -> Checkpoint:
    return checkpoints.save(10, writer(10.0))


def test_a_copy_with_any_name_is_a_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint.path, tmp_path / "before the holidays")

    found = Checkpoint.at(copy)
    found.verify()

    assert found == Checkpoint(copy, 10)
    for path in (tmp_path, tmp_path / "none", copy / "model.safetensors"):
        with pytest.raises(DataError, match="is not a checkpoint"):
            Checkpoint.at(path)


def test_a_sound_checkpoint_is_kept_and_a_damaged_one_is_replaced(
    checkpoints: Checkpoints, checkpoint: Checkpoint
) -> None:
    def unexpected(_: Path) -> NoReturn:
        raise AssertionError

    assert checkpoints.save(10, unexpected) == checkpoint
    (checkpoint.path / "model.safetensors").write_bytes(b"")

    assert checkpoints.save(10, writer(11.0)) == checkpoint

    checkpoint.verify()
    assert json.loads((checkpoint.path / "state" / "trainer.json").read_text()) == {"value": 11.0}
    assert [path.name for path in checkpoints.folder.iterdir()] == ["checkpoint-10"]


def test_a_writer_that_fails_leaves_everything_as_it_was(checkpoints: Checkpoints, checkpoint: Checkpoint) -> None:
    def poisoned(folder: Path) -> None:
        writer(1.0)(folder)
        stream = StreamedTensor.of("layer.weight", torch.tensor([float("nan")]))
        write_tensors(folder / "poisoned", [stream], require_finite=True)

    with pytest.raises(NotFiniteError, match=r"layer\.weight"):
        checkpoints.save(20, poisoned)

    assert checkpoints.newest_sound() == checkpoint
    assert [path.name for path in checkpoints.folder.iterdir()] == ["checkpoint-10"]


def test_files_get_the_permissions_of_the_umask(checkpoints: Checkpoints) -> None:
    before = os.umask(0o027)
    try:
        checkpoint = checkpoints.save(1, writer(1.0))
    finally:
        os.umask(before)

    modes = {path.name: path.stat().st_mode & 0o777 for path in [checkpoint.path, *checkpoint.path.rglob("*")]}
    assert modes.pop("checkpoint-1") == modes.pop("state") == 0o750
    assert set(modes.values()) == {0o640}


def test_only_real_folders_with_the_exact_name_are_checkpoints(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for step in (9, 100, 20):
        checkpoints.save(step, writer(step))
    for name in ("checkpoint-", "checkpoint-07", "checkpoint-1a", ".checkpoint-5", "checkpoint-٣", "final_model"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-6").write_text("a file")
    (tmp_path / "checkpoint-8").symlink_to(tmp_path / "checkpoint-9")

    assert [checkpoint.step for checkpoint in checkpoints.all()] == [9, 20, 100]
    assert checkpoints.get(20) == Checkpoint(tmp_path / "checkpoint-20", 20)
    assert checkpoints.get(8) is None
    assert Checkpoints(tmp_path / "none").all() == []


def test_the_newest_sound_one_is_found_and_each_damaged_one_is_named(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = (checkpoints.save(step, writer(step)) for step in (1, 2, 3))
    (second.path / "state" / "trainer.json").unlink()
    (third.path / "model.safetensors").write_bytes(b"short")

    assert checkpoints.newest_sound() == first
    assert [message.split(": ")[0] for message in caplog.messages] == [
        str(third.path / "model.safetensors"),
        str(second.path / "state" / "trainer.json"),
    ]
    (first.path / MANIFEST).unlink()
    assert checkpoints.newest_sound() is None


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [
        (None, (), [1, 2, 3, 4]),
        (5, (), [1, 2, 3, 4]),
        (2, (), [3, 4]),
        (2, (1,), [1, 4]),
        (1, (), [4]),
        (1, (2,), [2, 4]),
        (0, (), [4]),
        (1, (1, 2, 9), [1, 2, 4]),
        (1, (3,), [3, 4]),
        (2, (3,), [3, 4]),
        (3, (3,), [2, 3, 4]),
    ],
)
def test_the_oldest_go_but_never_the_newest_nor_the_best(
    limit: int | None, keep: tuple[int, ...], left: list[int], checkpoints: Checkpoints
) -> None:
    for step in (3, 1, 4, 2):
        checkpoints.save(step, writer(step))

    checkpoints.rotate(limit=limit, keep=keep)

    assert [checkpoint.step for checkpoint in checkpoints.all()] == left
    assert len(list(checkpoints.folder.iterdir())) == len(left)


def test_one_that_cannot_be_deleted_stays_with_a_warning(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        checkpoints.save(step, writer(step))

    def denied(*_: object) -> NoReturn:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "rename", denied)
    checkpoints.rotate(limit=1)

    assert [checkpoint.step for checkpoint in checkpoints.all()] == [1, 2]
    assert "checkpoint-1: cannot be deleted: Permission denied" in caplog.text


def test_those_of_a_run_that_is_not_gone_on_with_are_deleted(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3):
        checkpoints.save(step, writer(step))

    checkpoints.remove_newer_than(1)

    assert [checkpoint.step for checkpoint in checkpoints.all()] == [1]


def test_what_was_passed_over_is_never_deleted(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, unread, damaged, sound = (checkpoints.save(step, writer(step)) for step in (1, 2, 3, 4))
    (damaged.path / "model.safetensors").write_bytes(b"short")
    with monkeypatch.context() as patch:
        really_open = os.open

        def failing_for_a_moment(path: Path, *arguments: int) -> int:
            if unread.path in Path(path).parents or sound.path in Path(path).parents:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return really_open(path, *arguments)

        patch.setattr(os, "open", failing_for_a_moment)
        assert checkpoints.newest_sound() == first
    names = {path.name for path in checkpoints.folder.iterdir()}
    assert names == {"checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4"}  # looking changes nothing

    checkpoints.remove_newer_than(first.step)

    kept = {path.name.partition(".damaged-")[0]: path for path in checkpoints.folder.iterdir()}
    assert kept.keys() == names
    assert checkpoints.all() == [first]
    for checkpoint in (unread, sound):
        Checkpoint(kept[checkpoint.path.name], checkpoint.step).verify()
        assert f"{checkpoint.path}: is damaged or could not be read; it is kept as checkpoint-" in caplog.text


def test_a_damaged_one_that_nobody_looked_at_is_kept_too(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3):
        checkpoints.save(step, writer(step))
    (checkpoints.folder / "checkpoint-3" / MANIFEST).unlink()

    checkpoints.remove_newer_than(1)
    remove_debris(checkpoints.folder)

    names = sorted(path.name.partition("-")[2].partition("-")[0] for path in checkpoints.folder.iterdir())
    assert names == ["1", "3.damaged"]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_newer_one_that_cannot_be_removed_is_an_error_that_names_it(
    is_damaged: bool, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        checkpoints.save(step, writer(step))
    if is_damaged:
        (checkpoints.folder / "checkpoint-2" / MANIFEST).unlink()

    def denied(source: Path, _: Path) -> NoReturn:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(source))

    monkeypatch.setattr(os, "rename", denied)

    with pytest.raises(OSError, match="checkpoint-2") as refusal:
        checkpoints.remove_newer_than(1)
    assert refusal.value.filename == str(checkpoints.folder / "checkpoint-2")


def test_each_file_is_synced_once(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    really_sync = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)

    checkpoint = checkpoints.save(1, writer(1.0))

    files = [path.stat().st_ino for path in checkpoint.path.rglob("*") if path.is_file()]
    assert sorted(number for number in synced if number in files) == sorted(files)
    assert synced[-1] == checkpoints.folder.stat().st_ino

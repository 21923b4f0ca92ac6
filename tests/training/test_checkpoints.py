"""A checkpoint is complete or absent, whatever fails; a damaged one is noticed, and its file named."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Set
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from faults import ERRORS, KILLED, Fault, build_shim, failing_call, run_with_fault
from safetensors import SafetensorError
from safetensors.torch import save_file

from splade_bench.errors import DataError
from splade_bench.training.checkpoints import FORMAT, MANIFEST, Checkpoint, Checkpoints, _FileEntry, _Manifest
from splade_bench.training.tensor_file import StreamedTensor, TensorReader, write_tensors

DAMAGES = 500
# Runs in a process with the shim. The bound is on the test's time: what a checkpoint needs is about 60 calls.
CAMPAIGN = """
import json
from faults import campaign
from test_checkpoints import check_after_fault, save_second, start_with_one

print(json.dumps(campaign(start_with_one, save_second, check_after_fault)))
"""
SAVE = """
import sys
from pathlib import Path
from typing import NoReturn
from test_checkpoints import save_second

save_second(Path(sys.argv[1]))
"""


def write(folder: Path, *, value: float) -> None:
    """What a training writes: streamed tensors, a file of the library safetensors, and JSON in a folder."""
    write_tensors(folder / "moments.safetensors", [StreamedTensor.of("a", torch.full((3, 5), value))])
    try:
        save_file({"a": torch.full((3, 5), value)}, folder / "model.safetensors")
    except SafetensorError as error:
        raise OSError from error
    (folder / "state").mkdir()
    (folder / "state" / "trainer.json").write_text(json.dumps({"value": value}))


def writer(value: float) -> Callable[[Path], None]:
    return lambda folder: write(folder, value=value)


def start_with_one(folder: Path) -> None:
    folder.mkdir()
    Checkpoints(folder).save(10, writer(10.0))


def save_second(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    checkpoints.save(20, writer(20.0))
    checkpoints.rotate(limit=1)


def check_after_fault(folder: Path, fault: Fault, exit_code: int) -> None:
    """All that has the name of a checkpoint is sound, and there is one; what is left over goes, and saving works."""
    checkpoints = Checkpoints(folder)
    names = visible_names(folder)
    assert names
    for checkpoint in checkpoints.all():
        checkpoint.verify()
        with TensorReader(checkpoint.path / "moments.safetensors") as reader:
            assert reader.read("a").unique().tolist() == [checkpoint.step]
    assert names == {checkpoint.path.name for checkpoint in checkpoints.all()}
    if exit_code == 0:
        assert "checkpoint-20" in names
    if exit_code != KILLED and not fault.lasting and fault.call not in ("remove", "open"):
        assert hidden_names(folder) == set()  # those two calls may fail while it is cleaned up
    checkpoints.remove_debris()
    assert hidden_names(folder) == set()
    save_second(folder)
    assert visible_names(folder) == {"checkpoint-20"}


def visible_names(folder: Path) -> Set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def hidden_names(folder: Path) -> Set[str]:
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


@pytest.fixture
def checkpoint(checkpoints: Checkpoints) -> Checkpoint:
    return checkpoints.save(10, writer(10.0))


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_whatever_call_fails_the_last_or_the_new_checkpoint_is_there(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # without the time of a disk
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        start_with_one(folder)
        failed = False
        with failing_call(number, error) as seen:
            try:
                save_second(folder)
            except OSError:
                failed = True
        if number > len(seen):
            break
        check_after_fault(folder, Fault(call=seen[number - 1], number=number, error=error), int(failed))

    assert {"open", "fsync", "rename", "mkdir"} <= set(seen)
    assert not failed
    assert number > 20


@pytest.mark.slow
def test_whatever_call_fails_or_is_the_last_one_a_checkpoint_is_there(tmp_path: Path) -> None:
    shim = build_shim(tmp_path)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")])

    finished = subprocess.run(
        [sys.executable, "-c", CAMPAIGN],
        env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 0, finished.stderr
    tried = json.loads(finished.stdout)
    for call, name in itertools.product(("write", "fsync", "rename", "mkdir", "open"), errno_names()):
        assert tried[f"{call} 0: {name} -> 1"] > 0, (call, name)
    assert tried[f"any 0: kill -> {KILLED}"] > 40


def errno_names() -> list[str]:
    return [errno.errorcode[error] for error in ERRORS]


@pytest.mark.slow
def test_the_shim_reaches_a_command_and_its_calls_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim, folder = build_shim(tmp_path), tmp_path / "run"
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")])
    monkeypatch.setenv("PYTHONPATH", path)
    command = [sys.executable, "-c", SAVE, str(folder)]
    start_with_one(folder)
    counted = run_with_fault(command, shim=shim, folder=folder)
    assert counted.exit_code == 0, counted.stderr
    assert all(counted.counts[call] for call in ("write", "fsync", "rename", "mkdir", "open", "remove"))
    shutil.rmtree(folder)
    start_with_one(folder)

    killed = run_with_fault(command, shim=shim, folder=folder, fault=Fault(number=counted.counts["any"] // 2))
    full = run_with_fault(command, shim=shim, folder=folder, fault=Fault(call="write", number=1, error=errno.ENOSPC))

    assert killed.exit_code == KILLED
    assert killed.counts["any"] == counted.counts["any"] // 2
    assert full.exit_code == 1 and "No space left on device" in full.stderr
    check_after_fault(folder, Fault(), KILLED)


def test_any_changed_byte_and_any_cut_is_noticed_and_the_file_named(checkpoint: Checkpoint) -> None:
    chance = random.Random(0)
    files = sorted(path for path in checkpoint.path.rglob("*") if path.is_file())
    assert len(files) == 4
    for number in range(DAMAGES):
        path = files[number % len(files)]
        sound = path.read_bytes()
        place = chance.randrange(len(sound))
        flipped = bytes([sound[place] ^ (1 << chance.randrange(8))])
        path.write_bytes(sound[:place] + chance.choice([flipped + sound[place + 1 :], b"", sound[place + 1 :]]))

        with pytest.raises(DataError, match=rf"{path.name}: .*; the checkpoint is damaged: resume from another one"):
            checkpoint.verify()
        path.write_bytes(sound)

    checkpoint.verify()


def test_every_byte_of_the_manifest_counts(checkpoint: Checkpoint) -> None:
    path = checkpoint.path / MANIFEST
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(DataError, match=MANIFEST):
            checkpoint.verify()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 10**5,
        b'{"format": 1, "step": 10, "files": {}, "sha256": "0"}',
        b'{"format": 1, "step": 1e999, "files": {}}',
        b'{"format": 1, "step": 99999999999999999999999, "files": {"\\ud800": 1}}',
    ],
)
def test_a_manifest_of_any_content_is_refused_in_one_line(text: bytes, checkpoint: Checkpoint) -> None:
    (checkpoint.path / MANIFEST).write_bytes(text)

    with pytest.raises(DataError, match=rf"{MANIFEST}: is cut or was changed"):
        checkpoint.verify()
    with pytest.raises(DataError, match=MANIFEST):
        Checkpoint.at(checkpoint.path)


def test_a_manifest_that_fills_the_memory_is_not_read(checkpoint: Checkpoint) -> None:
    os.truncate(checkpoint.path / MANIFEST, 2**40)

    with pytest.raises(DataError, match=rf"{MANIFEST}: is larger than"):
        checkpoint.verify()


def test_a_manifest_of_a_later_format_is_refused_by_that_reason(checkpoint: Checkpoint) -> None:
    (checkpoint.path / MANIFEST).write_text(_Manifest(FORMAT + 1, 10, {}).text())

    with pytest.raises(DataError, match=rf"has the format {FORMAT + 1}; this version reads {FORMAT}"):
        checkpoint.verify()


@pytest.mark.parametrize("name", ["../outside", "state/../../outside", "{absolute}"])
def test_a_name_that_leads_out_of_the_checkpoint_is_refused(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    name = name.format(absolute=tmp_path / "outside")
    shutil.rmtree(checkpoint.path)
    checkpoint.path.mkdir()
    entry = _FileEntry(6, hashlib.sha256(b"secret").hexdigest())
    (checkpoint.path / MANIFEST).write_text(_Manifest(FORMAT, 10, {name: entry}).text())

    with pytest.raises(DataError, match="outside: is missing"):
        checkpoint.verify()


@pytest.mark.parametrize("name", ["state/trainer.json", MANIFEST, "model.safetensors"])
def test_a_missing_file_is_named(name: str, checkpoint: Checkpoint) -> None:
    (checkpoint.path / name).unlink()

    with pytest.raises(DataError, match=rf"checkpoint-10/{name}: is missing"):
        checkpoint.verify()


@pytest.mark.parametrize("name", ["more", "state/more", ".hidden", "line\nbreak"])
def test_a_file_that_is_not_listed_is_named(name: str, checkpoint: Checkpoint) -> None:
    (checkpoint.path / name).write_text("1")

    with pytest.raises(DataError, match=r"checkpoint-10/[\w/. ]+: is not listed in MANIFEST\.json") as refusal:
        checkpoint.verify()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["model.safetensors", MANIFEST, "state"])
def test_a_link_in_a_checkpoint_is_not_followed(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    (checkpoint.path / name).rename(tmp_path / "same")
    (checkpoint.path / name).symlink_to(tmp_path / "same")

    with pytest.raises(DataError, match=f"checkpoint-10/{name}: "):
        checkpoint.verify()


@pytest.mark.parametrize("name", ["model.safetensors", MANIFEST])
def test_a_pipe_in_a_checkpoint_does_not_stop_its_reader(name: str, checkpoint: Checkpoint) -> None:
    (checkpoint.path / name).unlink()
    os.mkfifo(checkpoint.path / name)

    with pytest.raises(DataError, match=f"{name}: is not a regular file"):
        checkpoint.verify()


def test_a_file_that_cannot_be_read_is_named(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = os.open

    def denied(path: Path, *arguments: int) -> int:
        if path.name == "model.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really_open(path, *arguments)

    monkeypatch.setattr(os, "open", denied)

    with pytest.raises(DataError, match=r"model\.safetensors: cannot be read: Input/output error"):
        checkpoint.verify()


def test_a_checkpoint_of_another_step_in_its_place_is_noticed(checkpoint: Checkpoint) -> None:
    moved = checkpoint.path.rename(checkpoint.path.with_name("checkpoint-30"))

    with pytest.raises(DataError, match="is the manifest of step 10"):
        Checkpoint(moved, 30).verify()


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
        write(folder, value=1.0)
        stream = StreamedTensor.of("layer.weight", torch.tensor([float("nan")]))
        write_tensors(folder / "poisoned", [stream], require_finite=True)

    with pytest.raises(ValueError, match=r"layer\.weight"):
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


def test_only_our_own_debris_is_deleted_and_no_link_is_followed(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder, elsewhere = checkpoints.folder, tmp_path / "elsewhere"
    checkpoints.save(1, writer(1.0))
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("1")
    for name in (f".checkpoint-2.unfinished-{'a' * 32}", f".final_model.removed-{'0' * 32}"):
        (folder / name).mkdir()
        (folder / name / "inside").symlink_to(elsewhere)
    (folder / f".run.json.unfinished-{'b' * 32}").write_text("{}")
    (folder / f".checkpoint-3.removed-{'c' * 32}").symlink_to(elsewhere)
    others = {".checkpoint-2.unfinished", f".x.removed-{'A' * 32}", f"checkpoint-2.unfinished-{'a' * 32}", ".cache"}
    for name in others:
        (folder / name).mkdir()

    checkpoints.remove_debris()

    assert {path.name for path in folder.iterdir()} == {"checkpoint-1", "elsewhere", *others}
    assert (elsewhere / "kept").read_text() == "1"

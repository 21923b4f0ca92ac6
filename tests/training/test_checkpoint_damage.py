"""A checkpoint with any byte changed, cut or missing is noticed, and the file named."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
from pathlib import Path

import pytest
from written_checkpoints import writer

from splade_bench.errors import DataError
from splade_bench.training.checkpoints import FORMAT, MANIFEST, Checkpoint, Checkpoints, _FileEntry, _Manifest

DAMAGES = 500


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoints(tmp_path).save(10, writer(10.0))


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

        with pytest.raises(DataError, match=rf"{path.name}: .*; the checkpoint is damaged: use another one"):
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


@pytest.mark.parametrize("name", ["more", "state/more", "line\nbreak"])
def test_a_file_that_is_not_listed_is_named(name: str, checkpoint: Checkpoint) -> None:
    (checkpoint.path / name).write_text("1")

    with pytest.raises(DataError, match=r"checkpoint-10/[\w/. ]+: is not listed in MANIFEST\.json") as refusal:
        checkpoint.verify()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [".DS_Store", ".nfs000000000001", "state/._trainer.json", ".Trash/more"])
def test_a_hidden_file_of_another_program_is_not_a_damage(name: str, checkpoint: Checkpoint) -> None:
    def write_beside(folder: Path) -> None:
        writer(11.0)(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("1")

    later = Checkpoints(checkpoint.path.parent).save(11, write_beside)
    for one in (checkpoint, later):
        (one.path / name).parent.mkdir(exist_ok=True)
        (one.path / name).write_text("2")

        one.verify()


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

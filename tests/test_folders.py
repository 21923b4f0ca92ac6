"""Folders are whole or absent, whatever ends their writer, and what a killed one left goes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from splade_bench.files import remove_debris, replaced_folder, whole_folder


def test_all_of_a_folder_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    really_sync, rename = os.fsync, os.rename

    def sync(descriptor: int) -> None:
        done.append(next(name for name, inode in inodes().items() if inode == os.fstat(descriptor).st_ino))
        really_sync(descriptor)

    def inodes() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in [tmp_path, *tmp_path.rglob("*")]}

    def renamed(source: Path, target: Path) -> None:
        done.append(f"rename {target.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", renamed)

    with replaced_folder(tmp_path / "model") as folder:
        (folder / "a").write_text("1")
        (folder / "inner").mkdir()
        (folder / "inner" / "b").write_text("1")

    *contents, unfinished, renaming, parent = done
    assert {"a", "b", "inner"} <= set(contents)
    assert contents.index("b") < contents.index("inner")
    assert (unfinished, renaming, parent) == (folder.name, "rename model", tmp_path.name)


def test_a_folder_that_cannot_be_renamed_brings_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("1")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if ".unfinished-" in source.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)

    with pytest.raises(OSError, match="Input/output error"), replaced_folder(tmp_path / "model") as folder:
        (folder / "new").write_text("1")

    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["model", "model/old"]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["model", "unfinished"])
def test_a_signal_at_a_rename_leaves_the_old_folder_or_the_new_one(
    late: bool, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it comes right before or right after the old one or the new one is renamed."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("1")
    rename, pending = os.rename, [name]

    def interrupted(source: Path, target: Path) -> None:
        is_here = pending and (source.name if name == "model" else source.name.split("-")[0].split(".")[-1]) == name
        if is_here and late:
            rename(source, target)
        if is_here:
            pending.clear()
            raise SystemExit(143)
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)

    with pytest.raises(SystemExit), replaced_folder(tmp_path / "model") as folder:
        (folder / "new").write_text("1")

    expected = "new" if late and name == "unfinished" else "old"
    assert [path.name for path in (tmp_path / "model").iterdir()] == [expected]
    remove_debris(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == [expected]


def test_what_finishes_a_folder_comes_after_its_files_and_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: done.append("sync"))

    def finish(folder: Path) -> None:
        assert not (tmp_path / "model").exists()
        assert (folder / "a").read_text() == "1"
        done.append("finish")

    with replaced_folder(tmp_path / "model", finish=finish) as folder:
        (folder / "a").write_text("1")

    assert done == ["sync", "sync", "finish", "sync"]  # the file and its folder; the name


def test_only_our_own_debris_is_deleted_and_no_link_is_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("1")
    for name in (f".checkpoint-2.unfinished-{'a' * 32}", f".final_model.removed-{'0' * 32}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inside").symlink_to(elsewhere)
    (tmp_path / f".run.json.unfinished-{'b' * 32}").write_text("{}")
    (tmp_path / f".checkpoint-3.removed-{'c' * 32}").symlink_to(elsewhere)
    others = {".checkpoint-2.unfinished", f".x.removed-{'A' * 32}", f"checkpoint-2.unfinished-{'a' * 32}", ".cache"}
    for name in others:
        (tmp_path / name).mkdir()

    remove_debris(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", *others}
    assert (elsewhere / "kept").read_text() == "1"


def test_a_folder_comes_with_all_that_the_block_puts_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "cache" / "weights") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "cache" / "weights").exists()

    assert (tmp_path / "cache" / "weights" / "a").read_text() == "1"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["weights"]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "weights") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_a_folders_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")

    with pytest.raises(OSError, match="weights"), whole_folder(tmp_path / "weights"):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_who_was_faster_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "weights") as slow:
        (slow / "a").write_text("slow")
        with whole_folder(tmp_path / "weights") as fast:
            (fast / "a").write_text("fast")

    assert (tmp_path / "weights" / "a").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]

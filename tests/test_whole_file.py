"""Files and folders that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from splade_bench.whole_file import whole_folder, write_whole_file


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_whole_file(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_whole_file(path, "\ud800")

    assert path.read_text() == "old"


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

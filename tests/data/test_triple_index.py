"""The index of a training file: kept for that very file, whole or not at all, and made again if it is damaged."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_files import RECORDS, SPELLINGS, settled

from splade_bench.data import triple_index
from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.formats import read_triples
from splade_bench.data.triple_index import FileStamp, load_index
from splade_bench.errors import DataError


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were checked since."""
    checked: list[Path] = []
    write = triple_index.IndexWriter.write

    def counted(self: triple_index.IndexWriter, target: Any) -> Any:
        checked.append(self._records.path)
        return write(self, target)

    monkeypatch.setattr(triple_index.IndexWriter, "write", counted)
    return checked


def test_a_file_is_checked_once(tmp_path: Path, checks: list[Path]) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    first, again = (file_corpus(path, None, cache=tmp_path / "cache") for _ in range(2))

    assert len(checks) == 1
    assert list(again.triples) == list(first.triples)
    assert again.sha256 == first.sha256


def test_another_file_or_other_demands_are_checked_again(tmp_path: Path, checks: list[Path]) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    file_corpus(path, None, cache=tmp_path / "cache")
    file_corpus(path, None, cache=tmp_path / "cache", need_negatives=True)
    val_file = settled(tmp_path / "val.json", SPELLINGS["list"])
    with_val = file_corpus(path, val_file, cache=tmp_path / "cache")
    assert len(checks) == 3

    longer = settled(path, SPELLINGS["lines"].replace("right", "wrong"))
    os.utime(path, (1_700_000_001, 1_700_000_001))
    changed = file_corpus(longer, val_file, cache=tmp_path / "cache")
    assert len(checks) == 4
    assert changed.sha256 != with_val.sha256


@pytest.mark.parametrize("way", ["written over it", "in its place"])
def test_another_file_of_the_same_size_and_time_is_checked_again(tmp_path: Path, checks: list[Path], way: str) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    before = path.stat()
    first = file_corpus(path, None, cache=tmp_path / "cache")
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system ticks every few milliseconds
        target = path if way == "written over it" else tmp_path / "other"
        settled(target, SPELLINGS["lines"].replace("right", "wrong")).replace(path)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    second = file_corpus(path, None, cache=tmp_path / "cache")

    assert len(checks) == 2
    assert second.sha256 != first.sha256


@pytest.mark.parametrize("field", ["size_bytes", "mtime_ns", "inode", "ctime_ns"])
def test_an_index_is_that_of_one_stamp(tmp_path: Path, field: str) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    file_corpus(path, None, cache=tmp_path / "cache")
    (index,) = (tmp_path / "cache" / "indexes").iterdir()
    stamp = FileStamp.of(path.stat())
    found = load_index(index, stamp)
    assert found
    found[0].close()

    assert load_index(index, replace(stamp, **{field: getattr(stamp, field) + 1})) is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_index_is_not_open_when_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows renames no open file."""
    rename = Path.replace

    def replaced(source: Path, target: Path) -> Path:
        opened = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
        assert str(source) not in opened
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", replaced)
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])

    assert len(file_corpus(path, None, cache=tmp_path / "cache").triples) == len(RECORDS)
    assert len(list((tmp_path / "cache" / "indexes").iterdir())) == 1


@pytest.mark.parametrize("other", ["of another file", "cut off", "removed"])
def test_an_index_that_another_process_replaces_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    another = settled(tmp_path / "another.json", json.dumps(RECORDS[:3]))
    file_corpus(another, None, cache=tmp_path / "cache")
    (foreign_index,) = (tmp_path / "cache" / "indexes").iterdir()
    content, rename = foreign_index.read_bytes(), Path.replace

    def replaced(source: Path, target: Path) -> Path:
        rename(source, target)
        if other == "removed":
            target.unlink()
        else:
            target.write_bytes(content if other == "of another file" else content[:-9])
        return target

    monkeypatch.setattr(Path, "replace", replaced)
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])

    assert list(file_corpus(path, None, cache=tmp_path / "cache").triples) == list(read_triples(path))


def test_what_a_killed_check_left_is_removed_after_a_day(tmp_path: Path) -> None:
    indexes = tmp_path / "cache" / "indexes"
    indexes.mkdir(parents=True)
    settled(indexes / ".unfinished-old", "x")
    settled(indexes / "kept.index", "x")
    (indexes / ".unfinished-new").write_text("x")

    file_corpus(settled(tmp_path / "train.json", SPELLINGS["lines"]), None, cache=tmp_path / "cache")

    names = {path.name for path in indexes.iterdir()}
    assert len(names) == 3
    assert names > {".unfinished-new", "kept.index"}


def test_the_index_of_a_file_that_was_just_written_is_not_kept(tmp_path: Path, checks: list[Path]) -> None:
    path = tmp_path / "train.json"
    for word in ("right", "wrong"):  # two files of the same size, perhaps with the same time stamp
        path.write_text(SPELLINGS["lines"].replace("right", word))
        assert word in file_corpus(path, None, cache=tmp_path / "cache").triples[0].positive

    assert len(checks) == 2


@pytest.mark.parametrize("place", [0, 100, -100, -5, -1])
@pytest.mark.parametrize("damage", ["changed", "cut off"])
def test_a_damaged_index_is_made_again(tmp_path: Path, checks: list[Path], place: int, damage: str) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    expected = list(file_corpus(path, None, cache=tmp_path / "cache").triples)
    (index,) = (tmp_path / "cache" / "indexes").iterdir()
    content = bytearray(index.read_bytes())
    content[place] ^= 1
    index.write_bytes(content if damage == "changed" else content[:place])

    assert list(file_corpus(path, None, cache=tmp_path / "cache").triples) == expected
    assert list(file_corpus(path, None, cache=tmp_path / "cache").triples) == expected
    assert len(checks) == 2
    assert [one.name for one in (tmp_path / "cache" / "indexes").iterdir()] == [index.name]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    (tmp_path / "cache").write_text("in the way")

    assert len(file_corpus(path, None, cache=tmp_path / "cache").triples) == len(RECORDS)


def test_no_room_for_an_index_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_room(self: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triple_index.IndexWriter, "write", without_room)
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])

    with pytest.raises(DataError, match=r"index of the training file cannot be written there \(No space left"):
        file_corpus(path, None, cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "indexes").iterdir()) == []

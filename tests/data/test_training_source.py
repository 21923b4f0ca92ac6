"""Conversions of training data: kept until a source changes, whole or not at all, in bounded memory."""

from __future__ import annotations

import gzip
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_examples import EXAMPLES, read
from training_files import RECORDS, SPELLINGS, settled

from splade_bench.data import training_source
from splade_bench.data.file_corpus import file_corpus
from splade_bench.errors import DataError


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was converted since."""
    converted: list[Path] = []
    write = training_source._write_records

    def counted(path: Path, *arguments: Any) -> None:
        converted.append(path)
        write(path, *arguments)

    monkeypatch.setattr(training_source, "_write_records", counted)
    return converted


def old(folder: Path) -> Iterator[Path]:
    """The files of a folder, written some time ago, so that conversions are kept."""
    for path in [path for path in (folder, *folder.rglob("*")) if path.is_file()]:
        os.utime(path, (1_700_000_000, 1_700_000_000))
        yield path


@pytest.mark.parametrize("name", ["table.csv", "beir"])
def test_a_conversion_is_kept_until_a_source_changes(
    copied: Path, tmp_path: Path, name: str, conversions: list[Path]
) -> None:
    cache, files = tmp_path / "cache", list(old(copied / name))
    first, again = (file_corpus(copied / name, None, cache=cache) for _ in range(2))

    assert len(conversions) == 1
    assert list(first.triples) == list(again.triples) == EXAMPLES[name]
    assert first.sha256 == again.sha256
    settled(files[-1], files[-1].read_bytes().replace(b"Pay", b"Buy").replace(b"d1\t1", b"d1\t2"))
    os.utime(files[-1], (1_700_000_009, 1_700_000_009))
    read(copied / name, cache=cache)
    assert len(conversions) == 2
    assert len(list((cache / "conversions").iterdir())) == 1, "the older one is removed"


def test_a_conversion_of_a_file_that_was_just_written_is_not_kept(
    copied: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    for _ in range(2):
        (copied / "table.csv").touch()
        assert read(copied / "table.csv", cache=tmp_path / "cache") == EXAMPLES["table.csv"]

    assert len(conversions) == 2


def test_a_cache_that_cannot_be_written_is_done_without(copied: Path, tmp_path: Path) -> None:
    list(old(copied))
    (tmp_path / "cache").write_text("in the way")

    assert read(copied / "table.csv", cache=tmp_path / "cache") == EXAMPLES["table.csv"]


def test_no_room_for_a_conversion_is_one_line(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_source, "_write_records", without_room)

    with pytest.raises(DataError, match=r"training file cannot be converted there \(No space left .*; set TMPDIR or"):
        read(examples / "table.csv")


def test_a_source_that_changes_while_it_is_converted_is_noticed(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = training_source._write_records

    def changing(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        path.write_text("query,positive\n")

    monkeypatch.setattr(training_source, "_write_records", changing)

    with pytest.raises(DataError, match=r"table.csv: was changed while it was read; start again"):
        read(copied / "table.csv")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
def test_a_compressed_pipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = gzip.compress(SPELLINGS["list"].encode())
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    triples = read(tmp_path / "pipe", cache=tmp_path / "cache")
    writer.join()

    assert len(triples) == len(RECORDS)


@pytest.mark.parametrize("kind", ["csv", "jsonl.gz", "folder"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, kind: str) -> None:
    rows = [(f"query {number}", f"positive {number} " + "x" * 500, "n" * 500) for number in range(4000)]
    path = tmp_path / f"train.{kind}"
    if kind == "csv":
        path.write_text("query,positive,negative\n" + "".join(",".join(row) + "\n" for row in rows))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), compresslevel=1))
    else:
        path.mkdir()
        (path / "queries.tsv").write_text("".join(f"{number}\t{row[0]}\n" for number, row in enumerate(rows)))
        (path / "collection.tsv").write_text("".join(f"{number}\t{row[1]}\n" for number, row in enumerate(rows)))
        (path / "triples.tsv").write_text("".join(f"{number}\t{number}\n" for number in range(len(rows))))
    del rows
    tracemalloc.start()
    try:
        triples = file_corpus(path, None).triples
        assert triples[3999].query == "query 3999"
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 3e6

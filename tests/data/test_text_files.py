"""Files of texts to encode."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from splade_bench.data.text_files import read_text_file, text_file
from splade_bench.errors import DataError


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("one text\r\n\n  another \n", [("1", "one text"), ("3", "another")]),
        ("\ufeffone", [("1", "one")]),
        ('\n{"_id": "a", "title": "T", "text": "one"}\n', [("a", "T one")]),
        ('\ufeff[{"_id": 4, "text": "one"}]', [("4", "one")]),
        ("[1] one\n{x} two\n", [("1", "[1] one"), ("2", "{x} two")]),
        ("{x} one\n", [("1", "{x} one")]),
    ],
)
def test_each_kind_of_file_is_recognised(tmp_path: Path, content: str, texts: list[object], pack: type) -> None:
    path = tmp_path / "texts"
    path.write_bytes(pack(content.encode()))

    assert list(read_text_file(path)) == texts


def test_a_beir_folder_has_a_file_for_each_kind(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl.gz").write_bytes(b"")

    assert text_file(tmp_path, queries=False) == tmp_path / "corpus.jsonl.gz"
    assert text_file(tmp_path / "x.txt", queries=True) == tmp_path / "x.txt"
    with pytest.raises(DataError, match=r"has no queries.jsonl; a BEIR folder has"):
        text_file(tmp_path, queries=True)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "texts: holds no texts"),
        (b" \n\n", "texts: holds no texts"),
        (b"one\n\xff\n", "texts:2: is not UTF-8"),
        (b'{"text": "one"}\n', "texts:1: Object missing required field _id"),
        (gzip.compress(b"one\n" * 5000, mtime=0)[:40], "texts:.*is compressed and damaged, or cut off"),
    ],
)
def test_a_fault_names_its_place(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "texts"
    path.write_bytes(content)

    with pytest.raises(DataError, match=complaint):
        list(read_text_file(path))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_table_has_an_id_before_each_text(tmp_path: Path, pack: type) -> None:
    path = tmp_path / "collection.tsv"
    path.write_bytes(pack(b"7\tone text\n\n8 \ta\ttab \n"))

    assert list(read_text_file(path)) == [("7", "one text"), ("8", "a\ttab")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.tsv", b"7\tone\n7\ttwo\n", r"t\.tsv:2: the id '7' repeats; give each line its own"),
        ("t.tsv", b"7\tone\ntwo\n", r"t\.tsv:2: has no tab; write an id, a tab and a text"),
        ("t.tsv", b"\n", r"t\.tsv: holds no texts"),
        ("t.csv.gz", b"id,text\n1,one\n", r"t\.csv\.gz: is CSV, which is not read here; write JSON Lines"),
        ("t", b"PAR1\x15\x04\x15\x1e", r"t: is a Parquet file, which is not read here; write it as JSON Lines"),
        ("t", b"\xff\xfeo\0n\0e\0", r"t: is UTF-16; save the file as UTF-8"),
    ],
)
def test_what_is_not_read_says_what_it_is(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(DataError, match=complaint):
        list(read_text_file(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: cannot be read"):
        list(read_text_file(tmp_path / "nowhere"))

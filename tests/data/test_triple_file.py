"""The triples of a training file: checked once, read from the disk one by one, never misread."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from training_files import RECORDS, SPELLINGS, settled

from splade_bench.data import triple_file, triple_index
from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.formats import Demands, read_triples
from splade_bench.data.records import fewest_negatives, sha256_of_texts
from splade_bench.data.triple_file import TripleFile
from splade_bench.errors import DataError


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_triple_file_is_the_list_of_its_records(tmp_path: Path, spelling: str) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS[spelling])
    expected = list(read_triples(path))
    triples = TripleFile.open(path, Demands(need_negatives=True))

    assert len(expected) == len(RECORDS)
    assert list(triples) == expected
    assert triples[-1] == expected[-1]
    assert triples[5:30:7] == expected[5:30:7]
    assert fewest_negatives(triples) == fewest_negatives(expected) == 1
    with pytest.raises(IndexError):
        triples[len(RECORDS)]


def test_records_are_named_as_a_user_finds_them(tmp_path: Path) -> None:
    lines = settled(tmp_path / "train.jsonl", SPELLINGS["lines in UTF-8"])
    one_list = settled(tmp_path / "train.json", SPELLINGS["list"])

    assert TripleFile.open(lines, Demands()).record_name(1) == f"{lines}:3"
    assert TripleFile.open(one_list, Demands()).record_name(1) == f"{one_list}: record 2"


def test_records_keep_their_names_where_others_are_left_out(tmp_path: Path) -> None:
    for spelling in ("lines", "list"):
        text = SPELLINGS[spelling].replace('"query \\u00e9 1"', '""')
        path = settled(tmp_path / "train.json", text)
        triples = TripleFile.open(path, Demands(skip_bad_records=True))

        assert triples.record_name(1).endswith(("train.json:3", "train.json: record 3"))
        assert triples[1].query == "query \u00e9 2"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_hash_is_that_of_all_texts(tmp_path: Path, spelling: str) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS[spelling])
    texts = [[triple.query, triple.positive, triple.negatives] for triple in read_triples(path)]

    assert file_corpus(path, None).sha256 == sha256_of_texts(texts, None)


@pytest.mark.parametrize("change", ["rewritten", "appended"])
def test_a_file_that_changes_is_noticed(tmp_path: Path, change: str) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    triples = TripleFile.open(path, Demands())
    assert triples[0].query
    if change == "rewritten":
        path.write_text(SPELLINGS["lines"].replace("right", "wrong"))
    else:
        with path.open("a") as file:
            file.write("\n")

    with pytest.raises(DataError, match=r"train.json: was changed after it was checked"):
        triples[0]


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_file_that_is_replaced_or_removed_is_read_to_the_end(tmp_path: Path, change: str) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    whole = list(read_triples(path))
    triples = TripleFile.open(path, Demands())
    if change == "replaced":
        (tmp_path / "other").write_text(SPELLINGS["lines"].replace("right", "wrong"))
        (tmp_path / "other").replace(path)
    else:
        path.unlink()

    assert list(triples) == whole


def test_other_permissions_end_no_run(tmp_path: Path) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    triples = TripleFile.open(path, Demands(), cache=tmp_path / "cache")
    path.chmod(0o400)
    path.with_name("copy").hardlink_to(path)

    assert list(triples) == list(read_triples(path))


def test_a_file_that_changes_behind_its_time_stamp_is_not_misread(tmp_path: Path) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    triples = TripleFile.open(path, Demands())
    settled(path, " " * path.stat().st_size)

    with pytest.raises(DataError, match=r"train.json:31: is not JSON: .*; the file was changed after it was checked"):
        triples[30]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")
def test_a_pipe_is_copied(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(SPELLINGS["list"],))
    writer.start()
    corpus = file_corpus(pipe, None, cache=tmp_path / "cache")
    writer.join()

    assert len(list(corpus.triples)) == len(RECORDS)
    assert not (tmp_path / "cache").exists(), "the next content of a pipe is another one"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such devices")
@pytest.mark.parametrize(
    ("path", "complaint"),
    [("/dev/null", "is a device"), ("/dev/zero", "is a device"), ("/", "is a folder without training data")],
)
def test_what_is_no_file_is_refused_in_one_line(path: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        file_corpus(Path(path), None)


def test_bad_records_are_refused_with_the_flag_that_leaves_them_out(tmp_path: Path) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"].replace('"wrong 4"', '" "'))

    with pytest.raises(DataError, match=r"train.json:5: negative_documents\[1\] is empty; --skip-bad-records leaves"):
        file_corpus(path, None, cache=tmp_path / "cache")


def test_bad_records_are_left_out_counted_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = SPELLINGS["lines"].split("\n")
    lines[3] = '{"query": "", "positive_document": "p", "negative_documents": ["n"]}'
    lines[4] = "{oops"
    lines[5] = '{"query": "q", "positive_document": "p", "negative_documents": ["", "n", "\\ud83d"]}'
    lines[6] = '{"query": "q", "positive_document": "p", "negative_documents": [""]}'
    path = settled(tmp_path / "train.json", "\n".join(lines))

    for _ in range(2):  # from a check, and from its index
        caplog.clear()
        corpus = file_corpus(path, None, need_negatives=True, skip_bad_records=True, cache=tmp_path / "cache")
        assert len(corpus.triples) == len(RECORDS) - 3
        assert (corpus.skipped_records, corpus.skipped_negatives) == (3, 2)
        assert corpus.triples[3].negatives == ("n",)
        assert [reason.removeprefix(f"{path}:") for reason in corpus.skipped_reasons] == [
            "4: query is empty",
            "5: is not JSON: Expecting property name enclosed in double quotes",
            "6: negative_documents[0] is empty",
            "6: negative_documents[2] has a broken \\u escape (half a pair); write the character itself",
            "7: has no negative_documents; add at least one, or give --negatives-per-query 0",
        ]
        (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert "3 records and 2 negatives of other records are left out: " in message
        assert f"{path}:4: query is empty" in message


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode")
def test_a_file_name_that_is_not_utf_8_can_be_in_a_reason(tmp_path: Path) -> None:
    path = settled(tmp_path / os.fsdecode(b"tr\xff.jsonl"), "{\n" + SPELLINGS["lines"])

    (reason,) = file_corpus(path, None, skip_bad_records=True, cache=tmp_path / "cache").skipped_reasons

    assert "tr\\udcff.jsonl:1: is not JSON" in reason


def test_reasons_are_the_first_twenty(tmp_path: Path) -> None:
    path = settled(tmp_path / "train.json", "{\n" * 30 + SPELLINGS["lines"])

    corpus = file_corpus(path, None, skip_bad_records=True)

    assert (corpus.skipped_records, len(corpus.skipped_reasons)) == (30, 20)


def test_a_file_with_more_bad_records_than_good_ones_is_not_the_right_one(tmp_path: Path) -> None:
    path = settled(tmp_path / "train.json", "{\n" * 100 + SPELLINGS["lines"])

    with pytest.raises(DataError, match=r"100 of \d+ records cannot be used: is it the right file\? The first: .*:1: "):
        file_corpus(path, None, skip_bad_records=True)


def test_a_file_of_bad_records_alone_is_refused(tmp_path: Path) -> None:
    path = settled(tmp_path / "train.json", '{"query": "a"}\n{"query": "b"}')

    with pytest.raises(DataError, match=r"holds no records that can be used; the first: .*train.json:1: "):
        file_corpus(path, None, skip_bad_records=True)


@pytest.mark.parametrize("spelling", ["lines", "list"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, spelling: str) -> None:
    record = json.dumps({"query": "q", "positive_document": "word " * 200})
    separator, ends = ("\n", ("", "")) if spelling == "lines" else (",\n", ("[", "]"))
    path = settled(tmp_path / "train.json", ends[0] + separator.join([record] * 4_000) + ends[1])
    tracemalloc.start()
    try:
        triples = file_corpus(path, None).triples
        for row in range(0, 4_000, 100):
            assert triples[row].query == "q"
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert path.stat().st_size > 4e6
    assert peak_bytes < 2e6


def test_a_long_check_says_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    caplog.set_level(logging.INFO)
    file_corpus(path, None)
    assert "checking" not in caplog.text
    monkeypatch.setattr(triple_index, "_PROGRESS_INTERVAL_S", 0)

    file_corpus(path, None)

    assert f"checking {path}: 1 records, 0%" in caplog.text


def test_a_change_during_the_check_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled(tmp_path / "train.json", SPELLINGS["lines"])
    keep = triple_index.keep_index

    def changing(*arguments: Any) -> Any:
        kept = keep(*arguments)
        path.write_text(SPELLINGS["list"])
        return kept

    monkeypatch.setattr(triple_file, "keep_index", changing)

    with pytest.raises(DataError, match="was changed after it was checked"):
        file_corpus(path, None, cache=tmp_path / "cache")

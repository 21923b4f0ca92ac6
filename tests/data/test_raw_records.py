"""Where records begin and end, at any size of what is read at once; and files that have none."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splade_bench.data import raw_records
from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.raw_records import RawRecords
from splade_bench.errors import DataError

GOOD = {"query": "who?", "positive_document": "she"}
LINE = json.dumps(GOOD)


def records_of(content: bytes, *, at_once: int = 2**18) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_records, "_CHUNK_BYTES", at_once)
        found = list(RawRecords(Path("train.json"), io.BytesIO(content)))
    for raw in found:
        assert content[raw.offset : raw.offset + len(raw.text)] == raw.text
        assert raw.line == 1 + content[: raw.offset].count(b"\n")
    return [json.loads(raw.text) for raw in found]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('ab"\\[]{},\n\u00e9\U0001f6b2')),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


@settings(deadline=None, derandomize=True)
@given(st.lists(VALUES, max_size=5), st.booleans(), st.sampled_from([None, 2]), st.integers(1, 9))
def test_the_items_of_a_list_are_found_in_pieces_of_any_size(
    values: list[Any], ascii_only: bool, indent: int | None, at_once: int
) -> None:
    content = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode()

    assert records_of(b" \n" + content + b"\n", at_once=at_once) == values


@pytest.mark.parametrize("at_once", [1, 5, 2**18])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'[{"a": 1}, {"b"', "train.json:1: is not JSON: the list does not end"),
        (b'[\n{"a": 1},\n{"b": "no end]\n', "train.json:2: is not JSON: the list does not end"),
        (b"[" * 1000, "train.json:1: is not JSON: the list does not end"),
        (b'[{"a": 1}]\n{"b": 2}', "train.json:1: is not JSON: text follows the end of the list"),
        (b"[1]]", "train.json:1: is not JSON: text follows the end of the list"),
        (b'[\n{"a": 1}}', "train.json:2: is not JSON: a bracket has no partner"),
    ],
)
def test_a_list_that_is_none_is_refused(content: bytes, complaint: str, at_once: int) -> None:
    with pytest.raises(DataError, match=complaint):
        records_of(content, at_once=at_once)


@pytest.mark.parametrize("content", [b"[1,]", b"[,1]", b"[1,,2]"])
def test_a_missing_item_is_a_bad_record(content: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        records_of(content)


@pytest.mark.parametrize("content", [b'{"a": "' + b"x" * 100 + b'"}', b'[{"a": "' + b"x" * 100 + b'"}]'])
def test_a_record_without_an_end_does_not_fill_the_memory(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_records, "MAX_RECORD_BYTES", 50)

    with pytest.raises(DataError, match=r"train.json:1: a record is larger than .*; a quote or a newline"):
        records_of(content, at_once=10)


def test_records_of_20_mb_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"query": "q", "positive_document": "\U0001f6b2" * 5_000_000}, ensure_ascii=False))

    (triple,) = file_corpus(path, None).triples

    assert len(triple.positive) == 5_000_000


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(LINE.encode(), mtime=0)[:-9], r"train.json: is compressed and damaged, or cut off"),
        (b"PAR1\x15\x04\x15", r"train.json: is a Parquet file that cannot be read"),
        (b"\x80\x04\x95", r"train.json: is a pickle, which can run code and is never read; .* python -c "),
        (b"PK\x03\x04\x14\x00", r"train.json: is a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"train.json: is a Git LFS pointer.*git lfs pull"),
        (LINE.encode("utf-16"), r"train.json: is UTF-16; save the file as UTF-8"),
        (LINE.encode("utf-16-le"), r"train.json: has NUL bytes, as UTF-16 .* UTF-8"),
        (b"\0" * 100, r"train.json: has NUL bytes"),
        (b'["q", "p"]\n["r", 3]\n', r'train.json:2: \[1\]: Expected str, got int; write each record as \["query"'),
        (b'[["q"]]', r'record 1: Expected object, got array; write each record as \{"query"'),
        (json.dumps({"a": [GOOD], "b": [GOOD]}, indent=2), r"train.json: has a second list, 'b'; write .* JSON Lines"),
        (json.dumps({"a": [GOOD], "b": 3}, indent=2)[:-2], r"train.json:\d+: is not JSON: the object around the list"),
        (json.dumps(GOOD, indent=2) + "\n" + json.dumps(GOOD, indent=2), r"train.json:1: an object is spread over"),
        (
            b'{"ask": "q", "tell": "p", "\\u001b[31m": 1}',
            r"train.json:1: Object missing required field query; its keys are: ask, tell, [^\x1b]*; write it as",
        ),
        (b'{"\\ud800": 1}', r"train.json:1: a key has a broken \\u escape"),
        (json.dumps(dict.fromkeys("abcdefghij")), r"its keys are: a, b, c, d, e, f, g, h, \.\.\.; write it as"),
        (b'{"query": 7, "positive_document": 9}', r"query: Expected str, got int; write the text itself, not an id"),
        (b"q,p\n", r"train.json:1: begins with 'q,p', which is neither JSON nor a table .*; would be read: JSON, "),
        (b"<html>\n<body>", r"train.json:1: begins with '<html>', which is neither JSON nor"),
        (LINE.encode("utf-32"), r"train.json: is UTF-32; save the file as UTF-8"),
        (b'{"query": NaN, "positive_document": "p"}', r"query: Expected str, got float"),
        (b'{"query": "a\0b", "positive_document": "p"}', r"train.json:1: is not JSON: Invalid control character"),
    ],
)
def test_a_foreign_file_is_called_what_it_is(tmp_path: Path, content: str | bytes, complaint: str) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(DataError, match=complaint) as caught:
        file_corpus(path, None)

    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [gzip.compress(b"x", mtime=0), b'["q"]\n["r"]', json.dumps([GOOD])[:-3]])
def test_a_foreign_file_is_no_bad_record(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(DataError):
        file_corpus(path, None, skip_bad_records=True)


@pytest.mark.parametrize("first", ["{", '{"query": "a",', "# a comment", "[1, 2]"])
def test_a_bad_first_line_may_be_left_out(tmp_path: Path, first: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f"{first}\n{LINE}\n{LINE}\n")

    if first.startswith("["):
        with pytest.raises(DataError, match="text follows the end of the list"):
            file_corpus(path, None, skip_bad_records=True)
    else:
        assert len(file_corpus(path, None, skip_bad_records=True).triples) == 2


@pytest.mark.parametrize("at_once", [1, 7, 2**18])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("after", [{}, {"total": 2, "empty": []}])
def test_a_list_may_be_wrapped_in_an_object(indent: int | None, after: dict[str, Any], at_once: int) -> None:
    records = [GOOD, {**GOOD, "query": "\u00e9 ]}"}]
    content = json.dumps({"version": "\u00e9", "data": records} | after, indent=indent, ensure_ascii=False)

    assert records_of(content.encode(), at_once=at_once) == records
    assert records_of(b"\xef\xbb\xbf\n" + content.encode(), at_once=at_once) == records


@pytest.mark.parametrize(
    "content",
    [
        '{"query": "q", "positive_document": "p", "negative_documents": [{"document": "n"}]}',
        '{"_id": "1", "metadata": [{"a": 1}], "text": "t"}',
        '{"data": [{"a": 1}]}\n{"data": [{"a": 2}]}',
    ],
)
def test_a_record_with_a_list_in_it_is_a_record(content: str) -> None:
    assert records_of(content.encode()) == [json.loads(line) for line in content.split("\n")]


@pytest.mark.parametrize(
    "extra",
    [
        '"score": NaN',
        '"score": -Infinity',
        '"n": 1e999',
        '"query": "the last one counts"',
        '"x": ' + "[" * 50 + "]" * 50,
    ],
)
def test_other_fields_may_hold_anything(tmp_path: Path, extra: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"query": "q\\u0000", "positive_document": "p", {extra}}}')

    assert len(file_corpus(path, None).triples) == 1

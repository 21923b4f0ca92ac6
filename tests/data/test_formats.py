"""Training files: both spellings are read, and every error names the file and the line or record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.formats import read_triples, retrieval_dataset
from splade_bench.data.records import Triple
from splade_bench.errors import DataError

GOOD = {"query": "who?", "positive_document": "she", "negative_documents": ["he", {"document": "they"}]}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([GOOD]),
        json.dumps(GOOD),
        "\n" + json.dumps(GOOD) + "\r\n\n",
        "\ufeff" + json.dumps([GOOD], indent=2),
    ],
    ids=["list", "lines", "blank lines and CRLF", "byte order mark"],
)
def test_both_spellings_are_read(tmp_path: Path, content: str) -> None:
    assert list(read_triples(write(tmp_path / "train.json", content))) == [
        Triple(query="who?", positive="she", negatives=("he", "they"))
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (json.dumps([GOOD])[:-5], r"train.json:1: is not JSON"),
        (json.dumps(GOOD) + "\n{oops", r"train.json:2: is not JSON"),
        (json.dumps(GOOD) + '\n{"query": "cut off",\n' + json.dumps(GOOD), r"train.json:2: is not JSON"),
        (json.dumps(GOOD).encode() + b"\n\xff\xfe", r"train.json:2: is not UTF-8"),
        (json.dumps(GOOD) + "\n\n" + json.dumps({**GOOD, "query": ""}), r"train.json:3: query is empty"),
        (json.dumps(GOOD) + "\n[3]\n", r"train.json:2: Expected object, got array"),
        ("", r"train.json: holds no records"),
        ("[]", r"train.json: holds no records"),
        ("[3]", r"train.json: record 1: Expected object, got int"),
        (json.dumps([GOOD, {**GOOD, "query": ""}]), r"train.json: record 2: query is empty"),
        (json.dumps([{**GOOD, "query": 7}]), r"record 1: query: Expected str, got int"),
        (json.dumps([{**GOOD, "query": " \n"}]), r"record 1: query is empty"),
        (json.dumps([{**GOOD, "query": "\ud83d"}]), r"record 1: query has a broken \\u escape"),
        ("[" * 100_000, r"train.json:1: is not JSON"),
        ("[1" + "0" * 5000 + "]", r"train.json:1: is not JSON"),
        (
            json.dumps([{"query": "q", "negative_documents": ["n"]}]),
            r"record 1: Object missing required field positive_document",
        ),
        (
            json.dumps([{**GOOD, "negative_documents": []}]),
            r"record 1: has no negative_documents; add at least",
        ),
        (
            json.dumps([{"query": "q", "positive_document": "p"}]),
            r"record 1: has no negative_documents; .*negatives-per-query 0",
        ),
        (json.dumps([{**GOOD, "negative_documents": "n"}]), r"negative_documents: Expected array or null, got str"),
        (
            json.dumps([{**GOOD, "negative_documents": [{"text": "n"}]}]),
            r"negative_documents\[0\]: Object missing required field document",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, content: str | bytes, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as caught:
        list(read_triples(write(tmp_path / "train.json", content), need_negatives=True))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("without", [{}, {"negative_documents": []}, {"negative_documents": None}])
def test_pairs_are_enough_where_no_negatives_are_needed(tmp_path: Path, without: dict[str, Any]) -> None:
    pair = {"query": "q", "positive_document": "p", **without}
    path = write(tmp_path / "train.json", json.dumps([pair]))

    assert list(read_triples(path)) == [Triple(query="q", positive="p")]
    dataset = retrieval_dataset(read_triples(path))
    assert dataset.qrels == {"q0": {"d0": 1}}
    assert not dataset.candidates, "a query ranked against its own positive alone says nothing"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing.json: cannot be read"):
        list(read_triples(tmp_path / "nothing.json"))


@settings(deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["query", "positive_document", "negative_documents", "document"]), inner)
        ),
    )
)
def test_no_json_at_all_ends_in_anything_but_triples_or_one_line(tmp_path_factory: Any, value: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "train.json"
    complaint = ""
    triples = []
    try:
        triples = list(read_triples(write(path, json.dumps(value))))
    except DataError as error:
        complaint = str(error)

    assert bool(triples) != bool(complaint)
    assert "\n" not in complaint


def test_a_query_is_ranked_against_all_documents_with_its_own_as_candidates() -> None:
    dataset = retrieval_dataset(
        [
            Triple(query="a", positive="one", negatives=("two",)),
            Triple(query="b", positive="two", negatives=("three",)),
            Triple(query="a", positive="three", negatives=("one",)),
        ]
    )

    assert dict(dataset.corpus) == {"d0": "one", "d1": "two", "d2": "three"}
    assert dict(dataset.qrels) == {"q0": {"d0": 1, "d2": 1}, "q1": {"d1": 1}}
    assert list(dataset.candidates["q0"]) == ["d0", "d1", "d2"]


def test_the_hash_names_the_texts(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", json.dumps([GOOD]))
    same = write(tmp_path / "b.jsonl", json.dumps(GOOD))
    other = write(tmp_path / "c.json", json.dumps([{**GOOD, "query": "where?"}]))

    assert file_corpus(first, None).sha256 == file_corpus(same, None).sha256
    assert file_corpus(first, None).sha256 != file_corpus(other, None).sha256
    assert file_corpus(first, None).sha256 != file_corpus(first, other).sha256
    judged = write(tmp_path / "d.json", json.dumps([{**GOOD, "positive_document": "another"}]))
    assert file_corpus(first, first).sha256 != file_corpus(first, judged).sha256

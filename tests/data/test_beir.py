"""Collections in BEIR's format: texts, graded judgements, and one line for each fault."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from splade_bench.data.beir import is_beir_folder, read_beir, read_texts
from splade_bench.errors import DataError

DOCUMENTS = [
    {"_id": "d1", "title": "Cats", "text": "purr"},
    {"_id": "d2", "text": "dogs bark", "metadata": {}},
    {"_id": "d3", "title": None, "text": ""},
    {"_id": "d4", "title": "", "text": "cats climb"},
    {"_id": 5, "title": "Fish", "text": ""},
]
QUERIES = [{"_id": "q1", "text": "cat"}, {"_id": "q2", "text": "dog"}, {"_id": "q3", "text": "never judged"}]
HEADER = "query-id\tcorpus-id\tscore\n"
JUDGEMENTS = "q1\td4\t1\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\nq2\td3\t1\nq1\t5\t-1\n"

Maker = Callable[..., Path]


def lines(records: list[dict[str, object]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Writes a folder; a keyword replaces the content of one file, and None leaves the file out."""

    def make_folder(**replaced: str | bytes | None) -> Path:
        contents: dict[str, str | bytes | None] = {
            "corpus": lines(DOCUMENTS),
            "queries": lines(QUERIES),
            "test": HEADER + JUDGEMENTS,
        } | replaced
        (tmp_path / "qrels").mkdir()
        for name, content in contents.items():
            path = tmp_path / (f"{name}.jsonl" if name in ("corpus", "queries") else f"qrels/{name}.tsv")
            if content is not None:
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return make_folder


def test_a_collection_has_the_judged_queries_and_all_documents(make: Maker) -> None:
    dataset = read_beir(make())

    assert dataset.queries == {"q1": "cat", "q2": "dog"}
    assert dataset.corpus == {"d1": "Cats purr", "d2": "dogs bark", "d3": "", "d4": "cats climb", "5": "Fish"}
    assert dataset.qrels == {"q1": {"d4": 1, "d1": 2, "d2": 0, "5": -1}, "q2": {"d2": 1, "d3": 1}}
    assert not dataset.candidates
    assert list(dataset.corpus) == ["d1", "d2", "d3", "d4", "5"]
    assert list(dataset.corpus.values())[4] == dataset.corpus["5"] == "Fish"
    assert len(dataset.corpus) == 5
    assert "d6" not in dataset.corpus


def test_compressed_files_are_read_as_the_others(make: Maker) -> None:
    folder = make()
    plain = read_beir(folder)
    corpus = dict(plain.corpus.items())
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()

    assert is_beir_folder(folder)
    assert read_beir(folder) == replace(plain, corpus=corpus)


def test_windows_line_ends_a_byte_order_mark_blank_lines_and_repeated_judgements_are_read(make: Maker) -> None:
    text = "\ufeff" + (HEADER + JUDGEMENTS + "q1\td1\t2\n\n").replace("\n", "\r\n")

    assert read_beir(make(test=text)).qrels["q1"] == {"d4": 1, "d1": 2, "d2": 0, "5": -1}


@pytest.mark.parametrize(
    "judgements",
    [
        "q1\td4\t1\nq1\td1\t2\n",
        "\nquery-id\tcorpus-id\tscore\nq1\td4\t1.0\nq1\td1\t2.0\n",
        "q1 0 d4 1\nq1 0 d1 2\n",
        "q1\tQ0\td4\t1\nq1\tQ0\td1\t2\n",
    ],
    ids=["without a header", "a blank line and points", "TREC", "TREC with tabs"],
)
def test_judgements_of_other_tools_are_read(judgements: str, make: Maker) -> None:
    assert read_beir(make(test=judgements)).qrels == {"q1": {"d4": 1, "d1": 2}}


def test_another_split_is_read_by_its_name(make: Maker) -> None:
    folder = make(dev=HEADER + "q3\td1\t1\n")

    assert read_beir(folder, "dev").queries == {"q3": "never judged"}
    with pytest.raises(DataError, match=r"has no split 'valid'; it has dev, test$"):
        read_beir(folder, "valid")


@pytest.mark.parametrize(
    ("replaced", "complaint"),
    [
        ({"test": HEADER + "q1\td9\t1\n"}, r"test.tsv:2: judges the document 'd9', which is not in corpus.jsonl"),
        ({"test": HEADER + "q1\td1\t1\nq9\td1\t1\n"}, r"test.tsv:3: judges the query 'q9', which is not in queries"),
        ({"test": HEADER + "q1 d1\n"}, r"test.tsv:2: is not a judgement; write a query's id, a document's id and a nu"),
        ({"test": HEADER + "q1\t\t1\n"}, r"test.tsv:2: is not a judgement"),
        ({"test": HEADER + "q1\td1\tnan\n"}, r"test.tsv:2: is not a judgement"),
        ({"test": "q1\t1\n"}, r"test.tsv:1: is not a judgement"),
        ({"test": HEADER + "q1\td1\t0\nq1\td4\t-1\n"}, r"test.tsv: judges no document relevant: every score is 0 or"),
        ({"test": HEADER + "q1\td1\t0.5\n"}, r"test.tsv:2: the score 0.5 is not a whole number"),
        ({"test": HEADER + "q1\td1\t1\nq1\td1\t2\n"}, r"test.tsv:3: contradicts line 2"),
        ({"test": HEADER + "\n"}, r"test.tsv: holds no judgements"),
        ({"test": HEADER.encode() + b"\xff\t1\t1\n"}, r"test.tsv:2: is not UTF-8"),
        ({"test": None}, r"has no split 'test'; put judgements into qrels/test.tsv"),
        ({"corpus": None}, r"has no corpus.jsonl; a BEIR folder has"),
        ({"corpus": lines([*DOCUMENTS, DOCUMENTS[0]])}, r"corpus.jsonl:6: the _id 'd1' repeats"),
        ({"queries": lines([*QUERIES, QUERIES[0]])}, r"queries.jsonl:4: the _id 'q1' repeats"),
        ({"queries": lines([{"_id": "q1", "text": " "}])}, r"queries.jsonl: the query 'q1' is empty"),
        ({"corpus": '{"_id": "d1"}\n'}, r"corpus.jsonl:1: Object missing required field text; write each line as"),
        ({"corpus": '{"text": "d1"}\n'}, r"corpus.jsonl:1: Object missing required field _id"),
        ({"corpus": '\n{"_id": "d1", "text": 3}\n'}, r"corpus.jsonl:2: Expected str, got int in text"),
        ({"corpus": '{"_id": "d1", "te\n'}, r"corpus.jsonl:1: is not JSON"),
        ({"corpus": b'{"_id": "d1", "text": "\xff"}\n'}, r"corpus.jsonl:1: is not UTF-8"),
        ({"corpus": '{"_id": "d1", "text": "\\ud83d cut"}\n'}, r"corpus.jsonl:1: is not JSON"),
        ({"corpus": "\n"}, r"corpus.jsonl: holds no records"),
    ],
)
def test_a_fault_is_one_line_that_names_the_place(
    make: Maker, replaced: dict[str, str | bytes | None], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint) as raised:
        read_beir(make(**replaced))

    assert "\n" not in str(raised.value)


def test_a_compressed_file_that_is_cut_off_is_an_error(make: Maker) -> None:
    folder = make(corpus=None)
    packed = gzip.compress(lines(DOCUMENTS * 50).encode())
    for size in (len(packed) // 2, len(packed) - 4, 5):
        (folder / "corpus.jsonl.gz").write_bytes(packed[:size])
        with pytest.raises(DataError, match=r"corpus.jsonl.gz.*(cannot be read|damaged, or cut off|repeats)"):
            read_beir(folder)


def test_texts_come_one_by_one(make: Maker) -> None:
    texts = read_texts(make(corpus=lines(DOCUMENTS) + "{") / "corpus.jsonl")

    assert next(texts) == ("d1", "Cats purr")
    with pytest.raises(DataError, match=r"corpus.jsonl:6"):
        list(texts)

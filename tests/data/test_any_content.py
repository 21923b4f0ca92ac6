"""Whatever a file or a folder has in it: training examples, or one line that says why there are none."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.training_formats import TrainFormat
from splade_bench.data.triple_file import TripleFile
from splade_bench.errors import DataError

WORDS = [
    "query",
    "positive",
    "negative_1",
    "label",
    "pos",
    "neg",
    "qid",
    "negative_documents",
    "7",
    "a b",
    "1.5",
    "nan",
]
MARKS = [
    ",",
    "\t",
    "\n",
    "\r",
    "\r\n",
    '"',
    '""',
    "[",
    "]",
    "{",
    "}",
    ":",
    "\0",
    "\ufeff",
    "\u2028",
    "\ud800",
    "\u00e9",
]
RECORDS = ['{"query":"a","positive":"b"}', '["a","b"]']
TEXTS = st.lists(st.sampled_from(WORDS + MARKS + RECORDS), max_size=25).map("".join)
CONTENTS = TEXTS.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=40)
FORMATS: list[TrainFormat] = ["auto", "csv", "tsv", "json", "lists", "sentence-transformers", "parquet", "arrow"]
LINES = [
    *("1", "7\td", "8\te", "1\ta", "1\t7", "1\t7\t8", "1 0 7 1", "q\td\tscore", "1\t7\tnan", "1\t\t1", "\t", "\0"),
    *("null", "[]", "{}", "[1,7,8]", '{"qid":1,"pos_doc_id":7}', '{"qid":1,"pos":[7],"neg":{"a":[8]}}', '{"qid":[1]}'),
    *('{"qid":1,"pos":7,"neg":[[8]]}', '{"qid":1,"positive_doc_ids":[7]}', '{"qid":1,"positive_doc_ids":[null,[7]]}'),
    *('{"qid":1,"scores":{"7":1,"8":null}}', '{"qid":true,"scores":{"7":"x"}}', '{"1":{"7":2}}'),
    *('{"_id":"1","text":"q"}', '{"_id":"7","title":null,"text":"d"}', '{"_id":8,"text":"\\ud800"}'),
]
FILES = st.lists(st.sampled_from(LINES), max_size=4).map("\n".join)
NAMES = [
    ("queries.jsonl", "corpus.jsonl", "qrels/train.tsv"),
    ("query_master.ndjson", "doc_master.ndjson", "positive_lists.ndjson"),
    ("queries.tsv", "collection.tsv", "qrels.train.tsv"),
    ("queries.tsv", "collection.tsv", "triples.tsv"),
    ("queries.tsv", "collection.tsv", "triples.jsonl"),
]


def read_or_complaint(path: Path, *, skip_bad_records: bool, train_format: TrainFormat = "auto") -> None:
    complaint, triples = "", None
    try:
        triples = file_corpus(path, None, skip_bad_records=skip_bad_records, train_format=train_format).triples
    except DataError as error:
        complaint = str(error)

    assert bool(triples) != bool(complaint)
    assert "\n" not in complaint
    if triples:
        assert isinstance(triples, TripleFile)
        assert all(triples.record_name(row).startswith(str(path)) for row in range(len(triples)))
        assert all(triple.query and triple.positive for triple in triples)
    else:
        assert str(path) in complaint


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    CONTENTS,
    st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(FORMATS),
)
def test_any_file_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    name: str,
    compressed: bool,
    skip: bool,
    wanted: TrainFormat,
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(gzip.compress(content) if compressed else content)

    read_or_complaint(path, skip_bad_records=skip, train_format=wanted)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.sampled_from(NAMES), FILES, FILES, FILES, st.none() | FILES, st.booleans(), st.booleans())
def test_any_folder_of_ids_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    names: tuple[str, str, str],
    queries: str,
    documents: str,
    examples: str,
    scores: str | None,
    sound_texts: bool,
    skip: bool,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-folder"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "qrels").mkdir(parents=True)
    if sound_texts:
        is_table = names[0].endswith(".tsv")
        queries = "1\tq" if is_table else '{"_id":1,"text":"q"}'
        documents = "7\td\n8\te" if is_table else '{"_id":7,"text":"d"}\n{"_id":8,"text":"e"}'
    for name, content in zip(names, (queries, documents, examples), strict=True):
        (folder / name).write_text(content, encoding="utf-8")
    if scores is not None:
        (folder / "some-scores.jsonl").write_text(scores, encoding="utf-8")

    read_or_complaint(folder, skip_bad_records=skip)

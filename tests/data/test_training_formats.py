"""Training data in every format: the examples of docs/data.md are read, and what cannot be read is one line."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import os
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from training_examples import EXAMPLES, GUIDE, read

from splade_bench.data.columns import COLUMNS
from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.formats import read_triples
from splade_bench.data.id_folders import ID_FOLDERS
from splade_bench.data.records import Triple
from splade_bench.data.training_formats import FILE_FORMATS, TrainFormat
from splade_bench.data.triple_file import TripleFile
from splade_bench.errors import DataError


def test_the_guide_has_a_file_of_each_format(examples: Path) -> None:
    assert {path.name for path in examples.iterdir()} == EXAMPLES.keys()


def test_the_guide_names_each_format() -> None:
    rows = {row.name for row in (*FILE_FORMATS, *COLUMNS, *ID_FOLDERS)}
    names = {"auto", "lists", "datasets", "hub", "titles", *rows}
    table = re.search(r"(?:^\|.*\|$\n)+", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)

    assert table
    assert set(get_args(TrainFormat)) == names
    assert {name for row in table[0].splitlines()[2:] for name in re.findall(r"`([\w-]+)`", row.split("|")[1])} == names


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_guides_examples_are_read(examples: Path, name: str) -> None:
    assert read(examples / name) == EXAMPLES[name]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_guides_examples_can_be_used_for_evaluation(examples: Path, name: str) -> None:
    assert list(read_triples(examples / name)) == EXAMPLES[name]


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "." in name])
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_is_read(examples: Path, tmp_path: Path, name: str, compress: Any) -> None:
    path = tmp_path / f"{name}.gz"
    path.write_bytes(compress((examples / name).read_bytes()))

    assert read(path) == EXAMPLES[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "ours.jsonl",
            "2 training examples; JSON, columns query, positive_document, negative_documents (splade-bench)",
        ),
        ("lists.jsonl", "2 training examples; JSON, lists of a query, a positive and negatives (lists)"),
        ("table.csv", "CSV, columns query, positive, negative_1, negative_2, labels (sentence-transformers)"),
        ("triples.tsv", "TSV, lists of a query, a positive and negatives"),
        ("train.parquet", "1 training examples; a Parquet file, columns anchor, positive, negative (sentence-"),
        ("beir", "2 training examples; a BEIR folder: queries.jsonl, corpus.jsonl, qrels/train.tsv"),
        ("light-splade", "a folder of light-splade: .*, positive_lists.ndjson, hard_negative_scores.ndjson"),
    ],
)
def test_the_format_is_said_in_one_line(examples: Path, name: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file_corpus(examples / name, None)

    (line,) = [record.getMessage() for record in caplog.records if "training examples" in record.getMessage()]
    assert line.startswith(f"{examples / name}: ")
    assert re.search(said if ".*" in said else re.escape(said), line)


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("ours.jsonl", 1, "ours.jsonl:2"),
        ("wrapped.json", 0, "wrapped.json: record 1"),
        ("table.csv", 1, "table.csv:3"),
        ("triples.tsv", 1, "triples.tsv:2"),
        ("train.parquet", 0, "train.parquet: row 1"),
        ("beir", 1, "beir/qrels/train.tsv:4"),
        ("light-splade", 0, "light-splade/positive_lists.ndjson:1"),
        ("ms-marco", 1, "ms-marco/triples.tsv:2"),
    ],
)
def test_a_record_is_named_as_a_user_finds_it(examples: Path, name: str, row: int, expected: str) -> None:
    triples = file_corpus(examples / name, None).triples

    assert isinstance(triples, TripleFile)
    assert triples.record_name(row) == f"{examples}/{expected}"


@pytest.mark.parametrize(
    ("name", "wanted", "complaint"),
    [
        ("ours.jsonl", "parquet", r"ours.jsonl: is JSON; --train-format parquet reads a Parquet file"),
        ("ours.jsonl", "csv", r"ours.jsonl: is JSON; --train-format csv reads CSV"),
        ("ours.jsonl", "beir", r"ours.jsonl: is JSON; --train-format beir reads a folder"),
        ("train.parquet", "json", r"train.parquet: is a Parquet file; --train-format json reads JSON"),
        ("table.csv", "pos-neg", r"table.csv:1: has not the columns of --train-format pos-neg; .*write it as"),
        ("beir", "json", r"beir: is a folder; --train-format json reads a file"),
        ("beir", "ms-marco", r"beir: is a folder without training data of --train-format ms-marco; would be"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(examples: Path, name: str, wanted: TrainFormat, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        read(examples / name, train_format=wanted)


def test_a_table_may_have_any_name_if_its_format_is_named(copied: Path) -> None:
    path = (copied / "triples.tsv").rename(copied / "triples.jsonl")

    with pytest.raises(DataError, match=r"triples.jsonl:1: begins with .*; if it is a table, add --train-format"):
        read(path)
    assert read(path, train_format="tsv") == EXAMPLES["triples.tsv"]


def test_what_each_row_of_a_table_lacks_is_said(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('query,positive\n"two\nlines",p\nq\n"",p\nq,p\n')
    triples = file_corpus(path, None, skip_bad_records=True)

    assert [triple.query for triple in triples.triples] == ["two\nlines", "q"]
    assert triples.skipped_reasons == (
        f"{path}:4: has 1 columns, and the header 2",
        f"{path}:5: query is empty",
    )


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.csv", "query,text\nq,p\n", r"t.csv:1: Object missing .* positive_document; its keys are: query, text; wr"),
        ("t.csv", "query,positive,positive\nq,p,p\n", r"t.csv:1: two columns are called 'positive'"),
        (
            "t.csv",
            "query,positive,positive_document\nq,p,p\n",
            r"t.csv:1: has the columns of splade-bench .* --train-f",
        ),
        ("t.csv", 'query,positive\nq,"p\n', r"t.csv:2: is not a row that can be read: .*; write a quote within"),
        ("t.csv", "query;positive\nhow?;so\n", r"t.csv:1: has semicolons between its cells; write commas, or tabs in"),
        ("t.csv", "how?\nwhy?\n", r"t.csv:1: has one column; write a query, a positive and any number of negatives"),
        ("t.csv", "how?,so,0.5\n", r"t.csv:1: .* column 3 is a number; begin with a header that names the"),
        ("t.csv", b"query,positive\nq,p\nq,\xff\n", r"t.csv:3: is not UTF-8"),
        ("t.csv", "query,positive\n", r"t.csv: holds no records"),
        ("t.tsv", "1\t2\t3\n", r"t.tsv:1: has ids, not texts; give --train-file the folder .* collection.tsv"),
        ("t.tsv", "qid\tpid\n1\t2\n", r"t.tsv:1: has ids, not texts; its keys are: qid, pid"),
        ("t.tsv", "\n", r"t.tsv: holds no records|t.tsv:1: is empty"),
        ("t.jsonl.gz", gzip.compress(b"x" * 99, mtime=0)[:-9], r"t.jsonl.gz: is compressed and damaged, or cut off"),
        ("t.csv.gz", gzip.compress(os.urandom(2**19).hex().encode())[:-9], r"t.csv.gz.*: is compressed and damaged"),
        ("t.csv", "query,positive\nq,p\n".encode("utf-16"), r"t.csv: is UTF-16; save the file as UTF-8"),
        ("t.parquet", b"PAR1 is not one", r"t.parquet: is a Parquet file that cannot be read"),
        ("t.arrow", b"ARROW1 is not one", r"t.arrow: is an Arrow file that cannot be read"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, name: str, content: str | bytes, complaint: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(DataError, match=complaint) as caught:
        file_corpus(path, None)

    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_folder_says_what_would_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder without training data; would be read: a BEIR folder, .*Parquet"):
        read(tmp_path)


def test_lines_are_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffQuery,Positive\r\nq\u00e9,p\r\n".encode())

    assert read(path) == [Triple(query="q\u00e9", positive="p")]


@pytest.mark.parametrize("name", ["t.tsv", "t.txt"])
@pytest.mark.parametrize("wanted", ["auto", "tsv"])
def test_a_text_may_begin_with_a_bracket(tmp_path: Path, name: str, wanted: str) -> None:
    path = tmp_path / name
    path.write_text("[1] why?\tso\n{x} how?\tlike this\n")

    assert [triple.query for triple in read(path, train_format=wanted)] == ["[1] why?", "{x} how?"]


def test_a_column_of_row_numbers_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "pandas.csv"
    path.write_text(",query,positive,negative\n0,how to pay?,Pay with a card.,Close the door.\n")

    assert read(path) == [Triple(query="how to pay?", positive="Pay with a card.", negatives=("Close the door.",))]


def test_a_header_of_unknown_columns_is_no_training_example(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("id,user_query,passage\nx1,how to pay?,Pay with a card.\n")

    with pytest.raises(
        DataError, match=r"train\.csv:1: looks like a header of columns that are not known: id, user_query"
    ):
        read(path)

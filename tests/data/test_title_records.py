"""Titles of a collection as queries, beside its judged queries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from training_examples import EXAMPLES, read

from splade_bench.data.records import Triple
from splade_bench.errors import DataError

TITLED = Triple(query="Paying", positive="Pay with a card.", negatives=())


def test_titles_are_queries_beside_the_judged_ones(copied: Path) -> None:
    assert read(copied / "beir", train_format="titles") == [TITLED, *EXAMPLES["beir"]]


@pytest.mark.parametrize("missing", [("qrels/train.tsv",), ("qrels/train.tsv", "queries.jsonl")])
def test_a_collection_without_judgements_has_its_titles(copied: Path, missing: tuple[str, ...]) -> None:
    folder = copied / "beir"
    for name in missing:
        (folder / name).unlink()

    assert read(folder, train_format="titles") == [TITLED]


def test_a_collection_without_judgements_names_the_format(copied: Path) -> None:
    (copied / "beir" / "qrels" / "train.tsv").unlink()

    with pytest.raises(
        DataError, match=r"beir: is a BEIR folder, .*; or, to train on titles, give --train-format titles$"
    ):
        read(copied / "beir")


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"_id": "d9", "title": 5, "text": "t"}, r"beir/corpus.jsonl:1: has a title or a text that is not a string"),
        ({"_id": "d9", "title": " ", "text": "t"}, r"corpus.jsonl: has no document with a title and a text; leave"),
        ({"_id": "d9", "title": "t", "text": ""}, r"corpus.jsonl: has no document with a title and a text; leave"),
        ({"_id": "d9", "text": "t"}, r"corpus.jsonl: has no document with a title and a text; leave --train-format"),
        (None, r"beir: has no corpus.jsonl, whose titles --train-format titles reads; name a BEIR folder"),
    ],
)
def test_a_collection_without_titles_is_one_line(copied: Path, document: object, complaint: str) -> None:
    corpus = copied / "beir" / "corpus.jsonl"
    if document is None:
        corpus.unlink()
    else:
        corpus.write_text(json.dumps(document) + "\n")
        (copied / "beir" / "qrels" / "train.tsv").unlink()

    with pytest.raises(DataError, match=complaint):
        read(copied / "beir", train_format="titles")


def test_a_file_has_no_titles(examples: Path) -> None:
    with pytest.raises(DataError, match="--train-format titles reads a folder"):
        read(examples / "ours.jsonl", train_format="titles")

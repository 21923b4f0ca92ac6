"""The columns of a record: which are read, what a label means, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.records import Triple
from splade_bench.errors import DataError

OURS = {"query": "q", "positive_document": "p", "negative_documents": ["n"]}
PAIR = {"query": "q", "positive": "p"}
DOCUMENTS = {"query": "q", "positive": "p", "negative_1": "n", "negative_2": "m"}


def read(tmp_path: Path, *records: Any, **settings: Any) -> list[Triple]:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return list(file_corpus(path, None, **settings).triples)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"anchor": "q", "positive": "p"}, Triple(query="q", positive="p")),
        ({"question": "q", "answer": "p"}, Triple(query="q", positive="p")),
        ({"sentence1": "q", "sentence2": "p", "score": 0.5}, Triple(query="q", positive="p", teacher_scores=(0.5,))),
        ({**DOCUMENTS, "negative_2": None}, Triple(query="q", positive="p", negatives=("n",))),
        ({**PAIR, "negatives": ["n", "m"]}, Triple(query="q", positive="p", negatives=("n", "m"))),
        (
            {"query": "q", "positive": ["p", "o"], "negative": ["n"]},
            Triple(query="q", positive="p", other_positives=("o",), negatives=("n",)),
        ),
        ({"qid": 7, "query": "q", "pos": ["p"], "neg": None}, Triple(query="q", positive="p")),
        (
            {"query": "q", "pos": ["p", "o"], "neg": ["n"], "pos_scores": [3, 2], "neg_scores": [1]},
            Triple(query="q", positive="p", other_positives=("o",), negatives=("n",), teacher_scores=(3, 2, 1)),
        ),
        (["q", "p", "n"], Triple(query="q", positive="p", negatives=("n",))),
        (
            {**PAIR, "negatives": '["n", "m"]', "labels": "[9, 1, 0.5]"},
            Triple(query="q", positive="p", negatives=("n", "m"), teacher_scores=(9, 1, 0.5)),
        ),
        ({**PAIR, "negatives": "[1] a source"}, Triple(query="q", positive="p", negatives=("[1] a source",))),
    ],
)
def test_columns_of_other_tools_are_read(tmp_path: Path, record: Any, expected: Triple) -> None:
    assert read(tmp_path, record) == [expected]


def test_numbered_negatives_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    record = {"negative_10": "ten", "anchor": "q", "negative_2": "two", "positive": "p", "negative_1": "one"}

    assert read(tmp_path, record)[0].negatives == ("one", "two", "ten")


@pytest.mark.parametrize(
    ("label", "scores"),
    [([9, 4.5, -1], (9, 4.5, -1)), ([4.5, 10], (0, -4.5, -10)), ([0, -1.5], (0, 0, 1.5))],
    ids=["scores", "margins", "negative margins"],
)
@pytest.mark.parametrize("name", ["label", "labels", "score", "scores"])
def test_a_label_is_scores_or_margins(tmp_path: Path, name: str, label: list[float], scores: tuple[float, ...]) -> None:
    assert read(tmp_path, {**DOCUMENTS, name: label})[0].teacher_scores == scores


def test_one_number_is_the_margin_of_the_only_negative(tmp_path: Path) -> None:
    (triple,) = read(tmp_path, {**PAIR, "negative": "n", "label": 2.5})
    positive, negative = triple.teacher_scores

    assert positive - negative == 2.5


def test_scores_of_negatives_that_are_left_out_are_left_out_too(tmp_path: Path) -> None:
    record = {**OURS, "negative_documents": ["n", " ", "m"], "teacher_scores": [4, 3, 2, 1]}

    (triple,) = read(tmp_path, record, skip_bad_records=True)

    assert (triple.negatives, triple.teacher_scores) == (("n", "m"), (4, 3, 1))


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (
            {**OURS, "positive": "p"},
            r"has the columns of splade-bench \(.*\) and of sent.*; take those of one out, or na",
        ),
        ({**DOCUMENTS, "anchor": "q"}, r"two columns may be the query: anchor, query; leave one of them out"),
        ({**DOCUMENTS, "answer": "p"}, r"two columns may be the positive: positive, answer"),
        ({**DOCUMENTS, "label": 1, "score": 2}, r"two columns may be the teacher's scores: label, score"),
        ({"qid": 1, "pos_doc_id": 2, "neg_doc_id": 3}, r"has ids, not texts; its keys are: qid, .*; give .*folder"),
        ({"1": {"2": 0.5}}, r"has ids, not texts"),
        ({"qid": 1, "pos": [2], "neg": {"bm25": [3]}}, r"has ids, not texts"),
        ({"query": "q", "pos": [2]}, r"pos\[0\]: Expected str, got int; write the text itself, not an id"),
        ({"query": 1, "positive": "p"}, r"query: Expected str, got int; write the text itself"),
        ({"query": "q", "pos": []}, r"pos is empty; give at least one document that answers the query"),
        ({"query": "q", "positive": " "}, r"positive is empty"),
        ({"query": "q", "positive": None}, r"positive is empty"),
        ({"query": None, "positive": "p"}, r"query is empty"),
        ({**DOCUMENTS, "negative_2": ""}, r"negative_2 is empty"),
        ({**DOCUMENTS, "negative_2": {"text": "n"}}, r"negative_2: Expected str or array, got object"),
        ({**OURS, "teacher_scores": [1]}, r"teacher_scores has 1 scores; give 2, one for each document"),
        ({**OURS, "teacher_scores": [1, 2, 3]}, r"teacher_scores has 3 scores; give 2"),
        ({**OURS, "teacher_scores": 1}, r"teacher_scores is one number; give 2"),
        ({**OURS, "teacher_scores": [1, float("nan")]}, r"teacher_scores\[1\] is not finite"),
        ({**OURS, "teacher_scores": [1, float("-inf")]}, r"teacher_scores\[1\] is not finite"),
        ({**OURS, "teacher_scores": [1, 10**400]}, r"teacher_scores\[1\] is not finite"),
        ({**OURS, "teacher_scores": [1, -1e19]}, r"teacher_scores\[1\] is -1e\+19, which is too large to compute with"),
        ({**OURS, "teacher_scores": [1, "high"]}, r"teacher_scores\[1\]: Expected a number, got str"),
        ({**OURS, "teacher_scores": [1, None]}, r"teacher_scores\[1\]: Expected a number, got null"),
        ({**DOCUMENTS, "label": [1]}, r"label has 1 scores; give 3, one for each document, or 2 margins, one"),
        ({**DOCUMENTS, "label": 1}, r"label is one number; give a list of 3 scores"),
        ({"query": "q", "answer": "p", "label": 0}, r"label is 0: these texts do not belong together; leave"),
        ({"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1]}, r"neg_scores has 0 scores; give 1"),
        ({**PAIR, "negatives": "['n', 'm']"}, r"negatives is a list as Python prints it; write it as JSON, with json"),
        ({"query": "q", "pos": "['p'\n 'o']"}, r"pos is a list as Python prints it"),
        (["q", "p", 3], r"\[2\]: Expected str, got int; write each record as \["),
        (["q", ""], r"\[1\] is empty"),
    ],
)
def test_what_cannot_be_told_is_one_line(tmp_path: Path, record: Any, complaint: str) -> None:
    good = [json.loads(json.dumps(OURS)), ["q", "p"]][isinstance(record, list)]
    with pytest.raises(DataError, match=rf"train.jsonl:2: {complaint}") as caught:
        read(tmp_path, good, record)

    assert "\n" not in str(caught.value)


def test_a_name_says_which_columns_are_meant(tmp_path: Path) -> None:
    both = {"query": "q", "positive_document": "ours", "positive": "theirs", "pos": ["other"]}

    for name, positive in (("splade-bench", "ours"), ("sentence-transformers", "theirs"), ("pos-neg", "other")):
        assert read(tmp_path, both, train_format=name)[0].positive == positive


def test_a_name_that_does_not_fit_says_what_would_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"train.jsonl:1: has not the columns of --train-format pos-neg; its keys are: q"
    ):
        read(tmp_path, OURS, train_format="pos-neg")
    with pytest.raises(DataError, match=r"train.jsonl:1: Expected array, got object; write each record as \["):
        read(tmp_path, OURS, train_format="lists")


def test_a_file_may_have_several_formats_of_columns(tmp_path: Path) -> None:
    triples = read(tmp_path, OURS, {"anchor": "a", "positive": "b"}, {"query": "c", "pos": ["d"]})

    assert [triple.query for triple in triples] == ["q", "a", "c"]

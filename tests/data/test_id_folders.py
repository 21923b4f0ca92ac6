"""Folders of ids: BEIR, light-splade, MS MARCO; scores and hard negatives beside them; ids that do not fit."""

from __future__ import annotations

import gzip
import json
import pickle
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_examples import EXAMPLES, PAIR, PAY, WHERE, read

from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.id_records import MAX_NEGATIVES
from splade_bench.data.records import Triple
from splade_bench.data.texts_by_id import TextsById
from splade_bench.errors import DataError


@pytest.mark.parametrize("name", ["beir", "light-splade", "ms-marco"])
def test_the_files_of_a_folder_may_be_compressed(copied: Path, name: str) -> None:
    for path in [path for path in (copied / name).rglob("*") if path.is_file()]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()

    assert read(copied / name) == EXAMPLES[name]


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("beir/qrels/train.tsv", "q1\td9\t1", r"qrels/train.tsv:2: document d9 is not in corpus.jsonl; add it there"),
        ("beir/qrels/train.tsv", "q9\td1\t1", r"beir/qrels/train.tsv:6: query q9 is not in queries.jsonl"),
        ("beir/qrels/train.tsv", "q1\td1\t0", r"beir/qrels/train.tsv:2: query q1 has document d1 twice; leave one"),
        ("beir/qrels/train.tsv", "q3\td1\t0", r"beir/qrels/train.tsv:6: query q3 has no relevant document"),
        ("beir/qrels/train.tsv", "q3 d1", r"qrels/train.tsv:6: is not a judgement; write a query's id, a document's"),
        ("beir/corpus.jsonl", '{"_id": "d1", "text": "t"}', r"beir/corpus.jsonl:5: the id 'd1' is that of line 1 too"),
        ("beir/corpus.jsonl", '{"text": "t"}', r"beir/corpus.jsonl:5: has no id or no text; write each line as"),
        ("beir/corpus.jsonl", '{"_id": ', r"beir/corpus.jsonl:5: is not JSON"),
        ("beir/queries.jsonl", "[1]", r"beir/queries.jsonl:3: is not a JSON object"),
        ("ms-marco/collection.tsv", "10 text", r"ms-marco/collection.tsv:4: has no tab; write an id, a tab and a text"),
        ("ms-marco/triples.tsv", "1\t7\t6", r"ms-marco/triples.tsv:3: document 6 is not in collection.tsv"),
        ("ms-marco/triples.tsv", "1", r"ms-marco/triples.tsv:3: has one column; write the ids of a query"),
        (
            "light-splade/positive_lists.ndjson",
            '{"qid": 2, "positive_doc_ids": [7]}',
            r"light-splade/positive_lists.ndjson:2: query 2 is not in the file of scores",
        ),
        (
            "light-splade/hard_negative_scores.ndjson",
            '{"qid": "1", "scores": {}}',
            r"light-splade/hard_negative_scores.ndjson:2: query 1 has scores in line 1 too",
        ),
    ],
)
def test_ids_that_do_not_fit_together_are_one_line(copied: Path, file: str, line: str, complaint: str) -> None:
    with (copied / file).open("a") as opened:
        opened.write(f"{line}\n")

    with pytest.raises(DataError, match=complaint) as caught:
        read(copied / file.partition("/")[0])

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scores", "complaint"),
    [
        ('{"7": 1}', None),
        ('{"8": 1}', r"positive_lists.ndjson:1: document 7 has no score for query 1 in the file of scores"),
        ('{"7": 1, "8": NaN}', r"positive_lists.ndjson:1: teacher_scores\[1\] is not finite"),
        ('{"7": 1, "8": "high"}', r"positive_lists.ndjson:1: teacher_scores\[1\]: Expected a number, got str"),
        ('{"7": 1, "6": 1}', r"positive_lists.ndjson:1: document 6 is not in doc_master.ndjson"),
        ("[1]", r'hard_negative_scores.ndjson:1: has not the form \{"qid": 1, "scores"'),
    ],
)
def test_scores_that_do_not_fit_are_one_line(copied: Path, scores: str, complaint: str | None) -> None:
    folder = copied / "light-splade"
    (folder / "hard_negative_scores.ndjson").write_text(f'{{"qid": 1, "scores": {scores}}}')

    if complaint is None:
        assert read(folder) == [Triple(query="how do I pay?", positive="Pay with a card.", teacher_scores=(1,))]
        return
    with pytest.raises(DataError, match=complaint):
        read(folder)


def test_scores_over_several_lines_are_one_line(copied: Path) -> None:
    folder = copied / "ms-marco"
    (folder / "ce-scores.json").write_text(json.dumps({"1": {"7": 3.5}}, indent=2))

    with pytest.raises(DataError, match=r"ce-scores\.json:1: JSON over several lines; write it on one, as jq -c does"):
        read(folder)


def test_scores_may_be_one_object_beside_any_folder(copied: Path) -> None:
    folder = copied / "ms-marco"
    (folder / "ce-scores.json").write_text('{"1": {"7": 3.5, "8": -2}, "2": {"8": 0, "9": 1}}')

    assert [triple.teacher_scores for triple in read(folder)] == [(3.5, -2), (1, 0)]


@pytest.mark.parametrize(
    "line",
    [
        '{"qid": 1, "pos_doc_id": 7, "neg_doc_id": 8}',
        "[1, 7, 8]",
        '{"qid": 1, "pos": [7], "neg": {"bm25": [8], "other": [8, 7]}}',
    ],
)
def test_triples_of_ids_may_be_json(copied: Path, line: str) -> None:
    folder = copied / "ms-marco"
    (folder / "triples.tsv").unlink()
    name = "msmarco-hard-negatives.jsonl" if "bm25" in line else "triples.jsonl"
    (folder / name).write_text(line)

    assert read(folder) == [PAY]


@pytest.mark.parametrize("line", ["[1]", "3", '{"qid": 1}', '{"qid": 1, "pos": [{}], "neg": []}', '{"qid"', "[" * 9999])
def test_bad_triples_of_ids_are_one_line(copied: Path, line: str) -> None:
    folder = copied / "ms-marco"
    (folder / "triples.tsv").rename(folder / "triples.jsonl").write_text(line)

    with pytest.raises(DataError, match=r"ms-marco/triples.jsonl:1: ") as caught:
        read(folder)

    assert "\n" not in str(caught.value)


def test_judgements_of_trec_are_read(copied: Path) -> None:
    folder = copied / "ms-marco"
    (folder / "triples.tsv").unlink()
    (folder / "qrels.train.tsv").write_text("2\t0\t9\t1\n1\t0\t7\t1\n")

    assert read(folder) == [WHERE, PAIR]


def test_of_many_negatives_some_are_taken_from_all_parts_of_the_ranking(copied: Path) -> None:
    folder = copied / "light-splade"
    (folder / "doc_master.ndjson").write_text(
        "".join(f'{{"doc_id": {number}, "text": "text {number}"}}\n' for number in range(101))
    )
    scores = {"7": 5.0} | {str(number): -float(number) for number in range(101) if number != 7}
    (folder / "hard_negative_scores.ndjson").write_text(json.dumps({"qid": 1, "scores": scores}))

    (triple,) = read(folder)

    assert len(triple.negatives) == MAX_NEGATIVES
    assert list(triple.teacher_scores) == sorted(triple.teacher_scores, reverse=True)
    assert triple.negatives[0] == "text 0" and int(triple.negatives[-1].split()[1]) > 95


def test_a_folder_of_light_splade_may_have_its_scores_beside_its_splits(copied: Path) -> None:
    whole = copied / "data"
    (copied / "light-splade").rename(copied / "train")
    whole.mkdir()
    (copied / "train").rename(whole / "train")
    (whole / "train" / "hard_negative_scores.ndjson").rename(whole / "hard-negatives-cross-encoder-scores.ndjson")

    assert read(whole) == EXAMPLES["light-splade"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda folder: (folder / "qrels" / "train.tsv").unlink(), r"beir: is a BEIR folder, without qrels/train.tsv"),
        (lambda folder: (folder / "scores.pkl.gz").touch(), r"scores.pkl.gz: is a pickle, .* never read; .* python -c"),
        (
            lambda folder: [(folder / name).touch() for name in ("a-scores.json", "b-scores.json")],
            r"a-scores.json: does what b-scores.json does; leave one of them in the folder",
        ),
        (lambda folder: (folder / "corpus.jsonl").unlink(), r"beir: is a folder without training data; would be read:"),
    ],
)
def test_a_folder_that_lacks_something_is_one_line(copied: Path, change: Any, complaint: str) -> None:
    change(copied / "beir")

    with pytest.raises(DataError, match=complaint):
        read(copied / "beir")


def test_the_command_that_converts_a_pickle_works(tmp_path: Path, copied: Path) -> None:
    """A test may make a pickle; the package never reads one."""
    folder = copied / "ms-marco"
    with gzip.open(folder / "scores.pkl.gz", "wb") as file:
        pickle.dump({1: {7: 3.5, 8: -2.0}, 2: {8: 0.0, 9: 1.0}}, file)
    with pytest.raises(DataError) as caught:
        read(folder)
    command = shlex.split(str(caught.value).partition("as JSON Lines: ")[2].replace("FILE", "scores.pkl.gz"))
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], cwd=folder, check=True)

    assert [triple.teacher_scores for triple in read(folder)] == [(3.5, -2), (1, 0)]


@pytest.mark.parametrize("splits", [["train", "test"], ["train", "test", "dev"]])
def test_a_beir_folder_is_evaluated_on_a_split_that_is_not_trained_on(copied: Path, splits: list[str]) -> None:
    folder = copied / "beir"
    for name in splits[1:]:
        (folder / "qrels" / f"{name}.tsv").write_text(f"query-id\tcorpus-id\tscore\nq1\td{len(name)}\t2\n")
    corpus = file_corpus(folder, folder)

    assert list(corpus.triples) == EXAMPLES["beir"]
    assert corpus.test
    assert corpus.test.qrels == {"q1": {f"d{len(splits[-1])}": 2}}
    assert len(corpus.test.corpus) == 4


def test_a_judgement_that_is_there_twice_counts_once(copied: Path) -> None:
    with (copied / "beir" / "qrels" / "train.tsv").open("a") as file:
        file.write("q1\td1\t1\n")

    assert read(copied / "beir") == EXAMPLES["beir"]


def test_many_judgements_are_grouped_without_reading_all_texts_for_each() -> None:
    texts = TextsById()
    for number in range(500):
        texts.add(f"q{number % 50}", number, f"d{number}")

    groups = [*texts.groups()]
    plan = texts._database.execute("EXPLAIN QUERY PLAN SELECT text FROM texts WHERE id = ?", ("q1",)).fetchall()

    assert [len(found) for _, _, found in groups] == [10] * 50
    assert [text_id for text_id, _, _ in groups] == [f"q{number}" for number in range(50)]
    assert any("INDEX" in row[-1] for row in plan)
    texts.close()

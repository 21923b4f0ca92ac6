"""The harvest of docstrings: which are used, how they are cut, and what is never in two splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from splade_bench.data.docstrings import (
    TEST_SHARE,
    DocstringPair,
    harvest,
    retrieval_dataset,
    train_triples,
)
from splade_bench.errors import DataError

BODY = "It reads every line of the file and gives back those lines that hold the word."


def write_module(root: Path, name: str, *docstrings: str) -> None:
    functions = (f'def function_{number}():\n    """{text}"""\n' for number, text in enumerate(docstrings))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(functions), encoding="utf-8")


def test_first_sentence_is_the_query_and_the_rest_the_document(tmp_path: Path) -> None:
    write_module(tmp_path, "search.py", f"Find the lines that hold a word. In a file.\n\n    {BODY}\n")

    (pair,) = harvest(tmp_path)

    assert pair == DocstringPair(
        name="search.function_0", query="Find the lines that hold a word.", document=f"In a file. {BODY}"
    )


def test_console_examples_and_rulers_are_left_out(tmp_path: Path) -> None:
    write_module(tmp_path, "search.py", f"Find lines that hold words.\n\n    =====\n    >>> find('a')\n    {BODY}\n")

    assert harvest(tmp_path)[0].document == BODY


def test_repeated_docstrings_are_taken_once_so_that_none_is_in_two_splits(tmp_path: Path) -> None:
    text = f"Find the lines that hold a word.\n\n    {BODY}\n"
    write_module(tmp_path, "one.py", text, text)
    write_module(tmp_path, "two.py", text)

    assert [pair.name for pair in harvest(tmp_path)] == ["one.function_0"]


def test_tests_and_unparsable_files_are_passed_over(tmp_path: Path) -> None:
    text = f"Find the lines that hold a word.\n\n    {BODY}\n"
    write_module(tmp_path, "test/test_search.py", text)
    (tmp_path / "broken.py").write_text("def (:", encoding="utf-8")
    write_module(tmp_path, "search.py", text)

    assert [pair.name for pair in harvest(tmp_path)] == ["search.function_0"]


def test_an_interpreter_without_sources_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--train-file"):
        harvest(tmp_path)


def test_the_split_depends_on_the_name_alone_and_has_its_share() -> None:
    pairs = [DocstringPair(name=f"module.function_{number}", query="q", document="d") for number in range(4000)]

    shares = sum(pair.split == "test" for pair in pairs) / len(pairs)

    assert shares == pytest.approx(TEST_SHARE, abs=0.02)
    assert pairs[0].split == DocstringPair(name=pairs[0].name, query="other", document="other").split


def test_negatives_come_from_the_given_pairs_and_are_never_the_positive() -> None:
    pairs = [
        DocstringPair(name=f"m.f{number}", query="open a file", document=f"open the file number {number}")
        for number in range(6)
    ]

    for pair, triple in zip(pairs, train_triples(pairs), strict=True):
        assert triple.positive == pair.document
        assert triple.positive not in triple.negatives
        assert set(triple.negatives) <= {other.document for other in pairs}


def test_queries_of_a_split_are_ranked_against_every_document() -> None:
    pairs = [
        DocstringPair(name=f"m.f{number}", query=f"open file {number}", document=f"file number {number}")
        for number in range(50)
    ]

    dataset = retrieval_dataset(pairs, "test")

    assert set(dataset.queries) == {pair.name for pair in pairs if pair.split == "test"}
    assert len(dataset.corpus) == 50
    assert all(dataset.qrels[name] == {name: 1} for name in dataset.queries)
    assert all(candidates[0] == name for name, candidates in dataset.candidates.items())


def test_the_standard_library_gives_a_corpus(pairs: Sequence[DocstringPair]) -> None:

    assert len(pairs) > 1500
    assert len({pair.name for pair in pairs}) == len(pairs)

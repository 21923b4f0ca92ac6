"""What a vocabulary is made from, and what validation data take, where files are large."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from splade_bench.data import records, wordpiece
from splade_bench.data.file_corpus import file_corpus
from splade_bench.data.formats import read_triples, retrieval_dataset
from splade_bench.data.wordpiece import inverse_document_frequencies, train_tokenizer


def pairs_file(path: Path, count: int, *, words: int = 1) -> Path:
    lines = (json.dumps({"query": f"q{n}", "positive_document": f"{n} " + "word " * words}) for n in range(count))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_small_file_is_the_sample_itself(tmp_path: Path) -> None:
    corpus = file_corpus(pairs_file(tmp_path / "train.jsonl", 30), None)

    assert list(corpus.training_texts) == [
        text for triple in corpus.triples for text in (triple.query, triple.positive)
    ]
    assert list(corpus.training_documents) == [triple.positive for triple in corpus.triples]


def test_a_file_of_many_records_is_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_SAMPLED_TRIPLES", 4)
    corpus = file_corpus(pairs_file(tmp_path / "train.jsonl", 30), None)

    assert [text for text in corpus.training_texts if text.startswith("q")] == ["q0", "q7", "q15", "q22"]
    assert len(list(corpus.training_documents)) == 4


def test_a_file_of_long_records_is_sampled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pairs_file(tmp_path / "train.jsonl", 30, words=100)
    monkeypatch.setattr(records, "MAX_SAMPLED_BYTES", path.stat().st_size // 10)

    assert len(list(file_corpus(path, None).training_documents)) == 2
    monkeypatch.setattr(records, "MAX_SAMPLED_BYTES", 1)
    assert len(list(file_corpus(path, None).training_documents)) == 1


def test_of_a_long_text_its_beginning_is_sampled(tmp_path: Path) -> None:
    record = {"query": "q " * 60_000, "positive_document": "p " * 80_000, "negative_documents": ["n " * 70_000]}
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(record))
    corpus = file_corpus(path, None)

    texts = [letter * 50_000 for letter in ("q ", "p ", "n ")]
    assert list(corpus.training_texts) == texts
    assert list(corpus.training_documents) == texts[1:2]
    assert corpus.triples[0].positive == "p " * 80_000, "only the sample is cut"


def test_long_documents_are_encoded_one_by_one() -> None:
    documents = ["open " * 100, "door " * 20_000, "window " * 30_000, "open " * 100, "door"] + ["a"] * 300
    given: list[list[str]] = []

    class Watched:
        def encode_batch(self, texts: list[str], **options: Any) -> Any:
            given.append(texts)
            return tokenizer.encode_batch(texts, **options)

    tokenizer = train_tokenizer(documents, vocab_size=100)
    inverse_document_frequencies(Watched(), documents, vocab_size=100)  # type: ignore[arg-type]

    assert [text for texts in given for text in texts] == documents
    assert max(sum(map(len, texts)) for texts in given) <= 2**18
    assert [len(texts) for texts in given] == [2, 256, 47]


def test_document_frequencies_are_counted_over_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer(["open window door"] * 3, vocab_size=100)
    documents = ["open window", "open door", "door", "open open"] * 5
    expected = inverse_document_frequencies(tokenizer, documents, vocab_size=100)
    monkeypatch.setattr(wordpiece, "_TEXTS_AT_ONCE", 3)

    assert inverse_document_frequencies(tokenizer, iter(documents), vocab_size=100) == expected
    rarity = dict(zip((tokenizer.id_to_token(token) for token in range(100)), expected, strict=True))
    assert rarity["open"] < rarity["door"] < rarity["window"]


def test_validation_data_take_little_more_than_their_texts(tmp_path: Path) -> None:
    path = pairs_file(tmp_path / "val.jsonl", 2_000, words=400)
    tracemalloc.start()
    try:
        dataset = retrieval_dataset(read_triples(path))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    texts_bytes = sum(map(len, dataset.corpus.values()))
    assert len(dataset.corpus) == 2_000
    assert peak_bytes < 2 * texts_bytes

"""What a vocabulary is made from, and what validation data take, where files are large."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

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


def test_document_frequencies_are_counted_over_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = train_tokenizer(["open window door"] * 3, vocab_size=100)
    documents = ["open window", "open door", "door", "open open"] * 5
    expected = inverse_document_frequencies(tokenizer, documents, vocab_size=100)
    monkeypatch.setattr(wordpiece, "_ENCODED_AT_ONCE", 3)

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

"""The embedded corpus on disk: prepared once, whole, without held-out texts in training; and its tokenizer."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import pytest

from splade_bench.data import embedded
from splade_bench.data.docstrings import DocstringPair
from splade_bench.data.embedded import PreparedCorpus, embedded_corpus
from splade_bench.data.wordpiece import inverse_document_frequencies, train_tokenizer
from splade_bench.errors import ConfigError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedCorpus:
    return PreparedCorpus.prepare(tmp_path_factory.mktemp("cache"), [600])


def test_what_is_read_back_is_what_was_prepared(prepared: PreparedCorpus, pairs: Sequence[DocstringPair]) -> None:
    corpus = prepared.load()
    made = embedded_corpus(pairs)

    assert corpus.sha256 == made.sha256
    assert corpus.triples == made.triples
    assert corpus.test == made.test
    assert corpus.test_triples == made.test_triples


def test_a_prepared_corpus_is_not_made_again(prepared: PreparedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "harvest", lambda: pytest.fail("harvested again"))
    monkeypatch.setattr(embedded, "train_tokenizer", lambda *_, **__: pytest.fail("trained again"))

    assert PreparedCorpus.prepare(prepared.folder.parent, [600]).folder == prepared.folder


@pytest.mark.parametrize("damage", ["", "null", '{"triples": []', "return -> nruter"])
def test_a_damaged_corpus_is_made_again(
    prepared: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(embedded, "embedded_corpus", prepared.load)  # as harvested, in less time
    folder = PreparedCorpus.prepare(tmp_path, []).folder
    path = folder / "corpus.json"
    whole = path.read_text()
    path.write_text(whole.replace("return", "nruter") if "->" in damage else damage)

    PreparedCorpus.prepare(tmp_path, [])

    assert path.read_text() == whole


def test_a_place_that_keeps_nothing_is_one_line(
    prepared: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "embedded_corpus", prepared.load)  # as harvested, in less time
    a_file = tmp_path / "file"
    a_file.touch()
    (tmp_path / prepared.folder.name / "something").mkdir(parents=True)

    for cache, reason in ((a_file, "File exists"), (tmp_path, "No such file")):
        with pytest.raises(ConfigError, match=f"{cache}: .*{reason}.*SPLADE_BENCH_CACHE"):
            PreparedCorpus.prepare(cache, [])


def test_a_tokenizer_that_cannot_be_kept_is_one_line(prepared: PreparedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded, "write_whole_file", full)
    cache = prepared.folder.parent

    with pytest.raises(ConfigError, match=r"No space left on device.*SPLADE_BENCH_CACHE"):
        PreparedCorpus.prepare(cache, [500])


def test_nothing_unfinished_is_left_behind(prepared: PreparedCorpus) -> None:
    names = {path.name for path in prepared.folder.parent.rglob("*") if path.is_file()}

    assert names == {"corpus.json", "tokenizer-600.json"}


def test_no_held_out_text_is_trained_on(prepared: PreparedCorpus) -> None:
    corpus = prepared.load()
    assert corpus.test is not None
    held_out = {text for triple in corpus.test_triples for text in (triple.query, triple.positive)}

    assert len(held_out) > 500
    assert held_out.isdisjoint(corpus.training_texts)


def test_test_pairs_are_not_part_of_the_development_corpus(pairs: Sequence[DocstringPair]) -> None:
    corpus = embedded_corpus(pairs, "development")
    assert corpus.test is not None
    test_documents = {pair.document for pair in pairs if pair.split == "test"}

    assert test_documents.isdisjoint(corpus.test.corpus.values())
    assert test_documents.isdisjoint(corpus.training_texts)


def test_a_tokenizer_is_the_same_for_the_same_texts(prepared: PreparedCorpus) -> None:
    texts = list(prepared.load().training_texts)[:800]

    first, second = (train_tokenizer(texts, vocab_size=900).get_vocab() for _ in range(2))

    assert first == second
    assert len(first) == 900


def test_rare_tokens_weigh_more_than_common_ones() -> None:
    documents = ["the socket", "the parser", "the parser is the parser"]
    tokenizer = train_tokenizer(documents * 2, vocab_size=100)

    idf = inverse_document_frequencies(tokenizer, documents, vocab_size=120)

    token = {word: tokenizer.token_to_id(word) for word in ("the", "parser", "socket")}
    assert idf[token["socket"]] > idf[token["parser"]] > idf[token["the"]] > 0
    assert idf[119] == max(idf)


def test_a_vocabulary_never_outgrows_what_was_asked_for() -> None:
    texts = ["".join(chr(0x4E00 + number) for number in range(start, start + 50)) for start in range(0, 1000, 50)]

    tokenizer = train_tokenizer([*texts, texts[0]], vocab_size=300)

    assert tokenizer.get_vocab_size() <= 300
    assert max(tokenizer.encode(texts[0]).ids) < 300

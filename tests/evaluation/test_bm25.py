"""BM25 against its formula, written out for each document, and the memory of its index."""

from __future__ import annotations

import math
import random
import tracemalloc

import pytest

from splade_bench.data.bm25 import BM25, has_spaced_words, words

_WORDS = [f"word{number}" for number in range(40)]


def random_texts(count: int, length: int, *, seed: int) -> dict[str, str]:
    rng = random.Random(seed)
    return {f"d{number}": " ".join(rng.choices(_WORDS, k=rng.randint(1, length))) for number in range(count)}


def score(query: str, document: str, corpus: dict[str, str]) -> float:
    """The formula of Robertson and Walker, with Lucene's idf."""
    k1, b = 1.5, 0.75
    bags = {name: words(text) for name, text in corpus.items()}
    mean_length = sum(map(len, bags.values())) / len(bags)
    total = 0.0
    for word in words(query):
        having = sum(word in bag for bag in bags.values())
        idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
        frequency = bags[document].count(word)
        norm = k1 * (1 - b + b * len(bags[document]) / mean_length)
        total += idf * frequency * (k1 + 1) / (frequency + norm)
    return total


def test_scores_are_exactly_those_of_the_formula_best_first() -> None:
    corpus = random_texts(30, 60, seed=0)
    index = BM25(corpus)
    for query in random_texts(10, 5, seed=1).values():
        expected = {name: score(query, name, corpus) for name in corpus}
        ranked = sorted((name for name in corpus if expected[name] > 0), key=lambda name: (-expected[name], name))

        found = index.search(query, top_k=12)

        assert list(found.items()) == [(name, expected[name]) for name in ranked[:12]]


def test_ties_are_ordered_by_document_id_and_unknown_words_find_nothing() -> None:
    index = BM25({"b": "one two", "c": "one two", "a": "one two", "d": ""})

    assert list(index.search("two", top_k=2)) == ["a", "b"]
    assert list(index.search("two", top_k=2, larger_ids_first=True)) == ["c", "b"]
    assert index.search("three", top_k=2) == {}
    assert BM25({}).search("one", top_k=2) == {}


def test_the_index_takes_about_eight_bytes_for_each_word_of_a_document() -> None:
    corpus = random_texts(2000, 60, seed=2)
    tracemalloc.start()
    index = BM25(corpus)
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    different_words = sum(len(set(words(text))) for text in corpus.values())
    assert size_bytes < 12 * different_words + 40 * len(corpus)  # and for each document: norm, name's pointer
    assert index.search("word1", top_k=1)


@pytest.mark.parametrize(
    ("texts", "spaced"),
    [
        (["The cat sat.", "Die Tür", "дверь и окно", "고양이가 앉았다", "قطة على السجادة"], True),
        (["猫坐在垫子上。", "门是开着的。"], False),
        (["ネコはマットの上に座った。", "ドアは開いている。"], False),
        (["แมวนั่งบนเสื่อ"], False),
        (["កញ្ឆា អង្គុយ"], False),
        (["PyTorch と NumPy を使って学習する方法", "Python の使い方"], False),
        (["A page on the character 猫, which means cat."] * 3, True),
        (["12 + 3 = 15", ""], True),
        ([], True),
    ],
)
def test_languages_without_spaces_are_told_by_their_letters(texts: list[str], spaced: bool) -> None:
    assert has_spaced_words(texts) is spaced

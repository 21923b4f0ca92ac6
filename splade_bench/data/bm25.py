"""BM25 over a small corpus: the reference ranking, and the source of hard negatives."""

from __future__ import annotations

import heapq
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, of any script."""
    return _WORD.findall(text.lower())


class BM25:
    """Okapi BM25 (Robertson and Walker 1994) with Lucene's idf, ``log(1 + (N - n + 0.5) / (n + 0.5))``.

    A library would bring stemmers and a matrix package. Memory: 8 bytes for each different word of a document, some
    hundred bytes for each different word of the corpus.
    """

    def __init__(self, corpus: Mapping[str, str], *, k1: float = 1.5, b: float = 0.75) -> None:
        self._k1 = k1
        self._ids = list(corpus)
        # Of each word: a document's row, how often the word is in it, the next document's row, and so on.
        self._postings: dict[str, array[int]] = defaultdict(lambda: array("I"))
        lengths = array("Q")
        for row, text in enumerate(corpus.values()):
            count = Counter(words(text))
            lengths.append(count.total())
            for word, term_frequency in count.items():
                self._postings[word].extend((row, term_frequency))
        mean_length = sum(lengths) / max(1, len(lengths)) or 1.0
        self._norms = array("d", (k1 * (1 - b + b * length / mean_length) for length in lengths))

    def search(self, query: str, *, top_k: int) -> dict[str, float]:
        """Document id -> score of the best ``top_k``, best first, ties by document id."""
        scores: dict[int, float] = defaultdict(float)
        for word in words(query):
            posting = self._postings.get(word, ())
            document_frequency = len(posting) // 2
            idf = math.log(1 + (len(self._ids) - document_frequency + 0.5) / (document_frequency + 0.5))
            numbers = iter(posting)
            for row, term_frequency in zip(numbers, numbers, strict=True):
                scores[row] += idf * term_frequency * (self._k1 + 1) / (term_frequency + self._norms[row])
        best = heapq.nsmallest(top_k, scores.items(), key=lambda item: (-item[1], self._ids[item[0]]))
        return {self._ids[row]: score for row, score in best}

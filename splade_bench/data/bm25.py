"""BM25 over a small corpus: the reference ranking, and the source of hard negatives."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits, of any script."""
    return _WORD.findall(text.lower())


class BM25:
    """Okapi BM25 (Robertson and Walker 1994) with Lucene's idf, ``log(1 + (N - n + 0.5) / (n + 0.5))``.

    For a few thousand texts; a library would bring stemmers and a matrix package.
    """

    def __init__(self, corpus: Mapping[str, str], *, k1: float = 1.5, b: float = 0.75) -> None:
        counts = {document_id: Counter(words(text)) for document_id, text in corpus.items()}
        lengths = {document_id: count.total() for document_id, count in counts.items()}
        mean_length = sum(lengths.values()) / max(1, len(lengths)) or 1.0
        frequencies = Counter(word for count in counts.values() for word in count)
        self._postings: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for document_id, count in counts.items():
            norm = k1 * (1 - b + b * lengths[document_id] / mean_length)
            for word, term_frequency in count.items():
                document_frequency = frequencies[word]
                idf = math.log(1 + (len(counts) - document_frequency + 0.5) / (document_frequency + 0.5))
                weight = idf * term_frequency * (k1 + 1) / (term_frequency + norm)
                self._postings[word].append((document_id, weight))

    def search(self, query: str, *, top_k: int) -> dict[str, float]:
        """Document id -> score of the best ``top_k``, best first, ties by document id."""
        scores: dict[str, float] = defaultdict(float)
        for word in words(query):
            for document_id, weight in self._postings.get(word, ()):
                scores[document_id] += weight
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:top_k]
        return dict(best)

"""Plain-text records of training and retrieval data."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from splade_bench.errors import DataError

# A vocabulary and the frequencies of its tokens hardly change with more texts than these.
MAX_SAMPLED_TRIPLES = 50_000
MAX_SAMPLED_BYTES = 32 * 2**20
# Of one text. No model reads as much of a document.
MAX_SAMPLED_CHARACTERS = 100_000

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> relevance; other documents are not relevant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Triple:
    """One training example: a query, the documents that answer it, and documents that do not."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()
    other_positives: tuple[str, ...] = ()
    teacher_scores: tuple[float, ...] = ()
    """A teacher's score of each document: of the positive, the other positives, the negatives. Empty if there is
    none."""

    def __post_init__(self) -> None:
        documents = 1 + len(self.other_positives) + len(self.negatives)
        if self.teacher_scores and len(self.teacher_scores) != documents:
            raise DataError(f"there are {len(self.teacher_scores)} teacher scores for {documents} documents")

    @property
    def positives(self) -> tuple[str, ...]:
        """All documents that answer the query."""
        return self.positive, *self.other_positives


class IndexedTriples(Sequence[Triple]):
    """Triples that are read one by one from where they are stored, with what their index knows of all of them."""

    @property
    @abstractmethod
    def fewest_negatives(self) -> int:
        """Negatives of the triple that has the fewest."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Of all triples together, where they are stored."""

    @property
    @abstractmethod
    def largest_bytes(self) -> int:
        """Of the largest triple, where it is stored."""

    @abstractmethod
    def record_name(self, row: int) -> str:
        """The triple number ``row``, counted from 0, as a user finds it: "train.jsonl:17"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalDataset:
    """Held-out queries, their judged documents, and the corpus that every query is ranked against."""

    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    qrels: Qrels
    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Query id -> document ids of the article's protocol: the query's positive and its own negatives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Training triples and held-out data for evaluation; ``sha256`` is the hash of all texts."""

    triples: Sequence[Triple]
    test: RetrievalDataset | None
    test_triples: Sequence[Triple]
    """Held-out triples for a validation loss."""
    sha256: str
    skipped_records: int = 0
    """Records of the training file that were left out."""
    skipped_negatives: int = 0
    """Negatives that were left out of records which stay."""
    skipped_reasons: Sequence[str] = ()
    """Why, for the first few: one line each, with file and line."""

    @property
    def training_texts(self) -> Iterator[str]:
        """The unique texts of the sampled triples, to train a tokenizer on; held-out texts are not among them.

        Of a long text it is the beginning: :data:`MAX_SAMPLED_CHARACTERS`.
        """
        texts = (text for triple in self._sample() for text in (triple.query, *triple.positives, *triple.negatives))
        return iter(dict.fromkeys(text[:MAX_SAMPLED_CHARACTERS] for text in texts))

    @property
    def training_documents(self) -> Iterator[str]:
        """The unique positives of the same triples, cut alike, to count in how many of them each token is."""
        texts = (text for triple in self._sample() for text in triple.positives)
        return iter(dict.fromkeys(text[:MAX_SAMPLED_CHARACTERS] for text in texts))

    def _sample(self) -> Iterator[Triple]:
        """All triples; of a large training file, as many as memory allows, at equal distances."""
        count = len(self.triples)
        taken = min(count, MAX_SAMPLED_TRIPLES)
        if isinstance(self.triples, IndexedTriples):
            taken = min(taken, max(1, count * MAX_SAMPLED_BYTES // max(1, self.triples.size_bytes)))
        return at_equal_distances(self.triples, taken)


def at_equal_distances(triples: Sequence[Triple], count: int) -> Iterator[Triple]:
    """At most so many triples, at equal distances."""
    taken = min(count, len(triples))
    return (triples[number * len(triples) // taken] for number in range(taken))


def held_out_triples(dataset: RetrievalDataset) -> list[Triple]:
    """A triple for each query that has a judged document and other candidates."""
    triples = []
    for query_id, query in dataset.queries.items():
        judged = dataset.qrels.get(query_id, {})
        positives = [document_id for document_id, relevance in judged.items() if relevance > 0]
        others = [name for name in dataset.candidates.get(query_id, ()) if name not in positives]
        if positives and others:
            negatives = tuple(dataset.corpus[name] for name in others)
            triples.append(Triple(query=query, positive=dataset.corpus[positives[0]], negatives=negatives))
    return triples


def fewest_negatives(triples: Sequence[Triple]) -> int:
    """Negatives of the triple that has the fewest; 0 without triples."""
    if isinstance(triples, IndexedTriples):
        return triples.fewest_negatives
    return min((len(triple.negatives) for triple in triples), default=0)


def sha256_of_texts(*parts: object) -> str:
    """Hash of JSON-serialisable parts, equal for equal data on every machine."""
    digest = hashlib.sha256()
    for part in parts:
        update_digest(digest, part)
    return digest.hexdigest()


def update_digest(digest: hashlib._Hash, part: object) -> None:
    """Add one part of :func:`sha256_of_texts`, piece by piece: its JSON is never in memory as a whole."""
    for piece in json.JSONEncoder(ensure_ascii=False, sort_keys=True).iterencode(part):
        digest.update(piece.encode())
    digest.update(b"\n")

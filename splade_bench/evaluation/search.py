"""Exact ranking by sparse dot product, in bounded memory.

Shapes: Q queries, D documents, V vocabulary, K best documents; q and d rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from splade_bench.evaluation.vectors import SparseReps

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ROWS_PER_BLOCK = 512
# Of one dense block. With a large vocabulary, blocks have fewer rows.
_BLOCK_BYTES = 64 * 2**20
# Share of the vocabulary that two vectors have in common by chance, above which a dense product is faster.
_DENSE_SHARES = 0.01

Best = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Scores and rows of a query's best documents, best first."""
_Found = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


def top_documents(
    queries: SparseReps,
    documents: SparseReps,
    *,
    top_k: int,
    places: NDArray[np.int32] | None = None,
    left_out: Mapping[int, Sequence[int]] | None = None,
    on_block: Callable[[], None] = lambda: None,
) -> Iterator[Best]:
    """Scores and rows of each query's best documents by dot product: at most ``top_k``, with scores above 0.

    Equal scores are ordered by ``places``. Scores are added up in float64, so that equal documents have equal scores
    wherever they are.

    Args:
        queries: [Q, V].
        documents: [D, V].
        top_k: at most so many documents of each query.
        places: [D], of which the smaller one comes first among equal scores. None: the smaller row.
        left_out: of a query's row, the rows of documents that it does not return.
        on_block: is called before each pair of blocks, of at most 512 queries and 512 documents; what it raises ends
            the search.

    Memory: a block of queries and a block of documents (dense, if many of their entries are active), the scores between
    them, and K documents of each query of the block; never [Q, D], [D, V] or [Q, K].
    """
    size = max(1, min(ROWS_PER_BLOCK, _BLOCK_BYTES // (8 * max(1, documents.vocab_size))))
    for query_start, query_end in _blocks(len(queries), size):
        query_block = _block(queries, query_start, query_end)
        best = _BestOfBlock(query_end - query_start, top_k, places)
        for start, end in _blocks(len(documents), size):
            on_block()
            scores = _products(query_block, _block(documents, start, end))
            for query in range(query_start, query_end) if left_out else ():
                for row in (left_out or {}).get(query, ()):
                    if start <= row < end:
                        scores[query - query_start, row - start] = 0
            best.add(scores, start)
        yield from best.rankings()


def larger_ids_first(ids: Sequence[str]) -> NDArray[np.int32]:
    """The place of each id [D] if the largest comes first, as ``trec_eval`` orders documents with equal scores."""
    places = np.empty(len(ids), np.int32)
    places[sorted(range(len(ids)), key=ids.__getitem__, reverse=True)] = np.arange(len(ids))
    return places


class _BestOfBlock:
    """The best documents of each query of a block so far: columns of query, score and row, best first."""

    def __init__(self, queries: int, top_k: int, places: NDArray[np.int32] | None) -> None:
        self._queries = np.arange(queries)
        self._top_k = top_k
        self._places = places
        self._found: _Found = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        # Of each query, the score that the next document must reach.
        self._thresholds = np.zeros(queries, np.float32)

    def add(self, scores: NDArray[np.float32], first_row: int) -> None:
        """Scores [q, d] of the next documents."""
        line, column = np.nonzero((scores > 0) & (scores >= self._thresholds[:, None]))
        if not len(line):
            return
        new: _Found = line, scores[line, column], column + first_row
        query, row = (np.concatenate((self._found[part], new[part])) for part in (0, 2))
        score = np.concatenate((self._found[1], new[1]))
        order = np.lexsort((row if self._places is None else self._places[row], -score, query))
        starts = np.searchsorted(query[order], self._queries)
        place = np.arange(len(order)) - starts[query[order]]
        kept = order[place < self._top_k]
        last = order[place == self._top_k - 1]
        self._found = query[kept], score[kept], row[kept]
        self._thresholds[query[last]] = score[last]

    def rankings(self) -> Iterator[Best]:
        query, score, row = self._found
        ends = np.searchsorted(query, self._queries, side="right")
        for start, end in zip([0, *ends], ends, strict=False):
            yield score[start:end], row[start:end]


def _products(queries: csr_array, documents: csr_array) -> NDArray[np.float32]:
    """Scores [q, d]. The sparse product costs time only for the entries that a query and a document have in common."""
    shares = [block.nnz / max(1, block.shape[0] * block.shape[1]) for block in (queries, documents)]
    if shares[0] * shares[1] > _DENSE_SHARES:
        scores = queries.toarray() @ documents.toarray().T
    else:
        scores = (queries @ documents.T).toarray()
    return scores.astype(np.float32)  # type: ignore[no-any-return]


def _block(reps: SparseReps, start: int, end: int) -> csr_array:
    """Rows ``start`` to ``end`` (not included) as [end - start, V] in float64."""
    from scipy.sparse import csr_array  # not in the memory of a training that evaluates nothing

    first, last = int(reps.row_starts[start]), int(reps.row_starts[end])
    starts = (reps.row_starts[start : end + 1] - first).int()
    parts = reps.values[first:last].double(), reps.entries[first:last], starts
    return csr_array(tuple(part.numpy() for part in parts), shape=(end - start, reps.vocab_size))


def _blocks(rows: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, size):
        yield start, min(start + size, rows)

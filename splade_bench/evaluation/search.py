"""Exact ranking by sparse dot product, in bounded memory.

Shapes: Q queries, D documents, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

ROWS_PER_BLOCK = 512
FIRST_BUFFER_SIZE = 2**20


class _GrowingTensor:
    """Numbers in one buffer, which doubles when it is full.

    A small tensor for each batch, even of 128 bytes, would lie between the activations of two batches, and the heap
    would keep the holes around it: up to 190 KB a batch.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._buffer = torch.empty(FIRST_BUFFER_SIZE, dtype=dtype)
        self._size = 0

    @property
    def filled(self) -> Tensor:
        return self._buffer[: self._size]

    def extend(self, numbers: Tensor) -> None:
        size = self._size + len(numbers)
        if size > len(self._buffer):
            larger = torch.empty(max(2 * len(self._buffer), size), dtype=self._buffer.dtype)
            larger[: self._size] = self.filled
            self._buffer = larger
        self._buffer[self._size : size] = numbers
        self._size = size


@dataclass(frozen=True, slots=True)
class SparseReps:
    """Rows of a sparse matrix [N, V]: ``entries`` and ``values`` of the active dims, ``row_starts`` [N + 1]."""

    row_starts: Tensor
    entries: Tensor
    values: Tensor
    vocab_size: int

    @classmethod
    def from_dense(cls, blocks: Iterable[Tensor]) -> Self:
        """Collect dense blocks [n, V], one at a time, on the CPU."""
        counts, entries, values = (_GrowingTensor(dtype) for dtype in (torch.int64, torch.int32, torch.float32))
        vocab_size = 0
        for block in blocks:
            dense = block.detach().cpu().float()
            row, entry = dense.nonzero(as_tuple=True)
            counts.extend(torch.bincount(row, minlength=len(dense)))
            entries.extend(entry)
            values.extend(dense[row, entry])
            vocab_size = dense.shape[1]
        row_starts = torch.nn.functional.pad(counts.filled.cumsum(0), (1, 0))
        return cls(row_starts, entries.filled, values.filled, vocab_size)

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    def active_dims(self) -> Tensor:
        """Active entries of each row: [N]."""
        return self.row_starts.diff()

    def dense(self, start: int, end: int) -> Tensor:
        """Rows ``start`` to ``end`` (not included) as [end - start, V]."""
        first, last = int(self.row_starts[start]), int(self.row_starts[end])
        block = torch.zeros(end - start, self.vocab_size)
        rows = torch.repeat_interleave(torch.arange(end - start), self.row_starts[start : end + 1].diff())
        block[rows, self.entries[first:last].long()] = self.values[first:last]
        return block


def top_documents(
    queries: SparseReps, documents: SparseReps, *, top_k: int, on_block: Callable[[], None] = lambda: None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and rows of each query's best documents by dot product: two tensors [top_k] a query, best first.

    ``on_block`` is called before each pair of blocks, of 512 queries and 512 documents; what it raises ends the search.

    Memory: two dense blocks of 512 rows and the scores between them; never [Q, D], [D, V] or [Q, top_k].
    """
    for query_start, query_end in _blocks(len(queries)):
        query_block = queries.dense(query_start, query_end)
        scores = torch.empty(query_end - query_start, 0)
        rows = torch.empty(query_end - query_start, 0, dtype=torch.int64)
        for start, end in _blocks(len(documents)):
            on_block()
            block_rows = torch.arange(start, end).expand(len(query_block), -1)
            scores = torch.cat([scores, query_block @ documents.dense(start, end).t()], 1)
            rows = torch.cat([rows, block_rows], 1)
            scores, kept = scores.topk(min(top_k, scores.shape[1]), dim=1)
            rows = rows.gather(1, kept)
        yield from zip(scores, rows, strict=True)


def _blocks(rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, ROWS_PER_BLOCK):
        yield start, min(start + ROWS_PER_BLOCK, rows)

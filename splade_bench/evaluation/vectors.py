"""Sparse vectors of many texts, in memory.

Shapes: N rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_BUFFER_SIZE = 2**20
# Entries that are counted at a time: torch copies them as int64.
_COUNTED = 2**20


@dataclass(frozen=True, slots=True)
class SparseReps:
    """Rows of a sparse matrix [N, V]: ``entries`` and ``values`` of the active dims, ``row_starts`` [N + 1]."""

    row_starts: Tensor
    entries: Tensor
    values: Tensor
    vocab_size: int

    @classmethod
    def from_dense(cls, blocks: Iterable[Tensor]) -> SparseReps:
        """Collect dense blocks [n, V], one at a time, on the CPU."""
        rows = SparseRows()
        for block in blocks:
            rows.extend_dense(block)
        return rows.reps()

    def __len__(self) -> int:
        return len(self.row_starts) - 1

    def active_dims(self) -> Tensor:
        """Active entries of each row: [N]."""
        return self.row_starts.diff()

    def activation_shares(self) -> Tensor:
        """Of each entry, the share of rows in which it is active: [V] (float64)."""
        counts = torch.zeros(self.vocab_size, dtype=torch.int64)
        for part in self.entries.split(_COUNTED):
            counts += torch.bincount(part, minlength=self.vocab_size)
        return counts.double() / max(1, len(self))

    def take(self, rows: Sequence[int]) -> SparseReps:
        """A copy of these rows, in this order."""
        starts = self.row_starts.tolist()
        parts = [slice(starts[row], starts[row + 1]) for row in rows]
        counts = torch.tensor([part.stop - part.start for part in parts], dtype=torch.int64)
        entries, values = (
            torch.cat([numbers[:0], *(numbers[part] for part in parts)]) for numbers in (self.entries, self.values)
        )
        return SparseReps(_row_starts(counts), entries, values, self.vocab_size)

    def dense(self, start: int, end: int) -> Tensor:
        """Rows ``start`` to ``end`` (not included) as [end - start, V]."""
        first, last = int(self.row_starts[start]), int(self.row_starts[end])
        block = torch.zeros(end - start, self.vocab_size)
        rows = torch.repeat_interleave(torch.arange(end - start), self.row_starts[start : end + 1].diff())
        block[rows, self.entries[first:last].long()] = self.values[first:last]
        return block


class SparseRows:
    """Collects rows on the CPU, in buffers that grow.

    Memory: 8 bytes for each active entry, and up to 16 while a buffer that is full doubles.
    """

    def __init__(self, vocab_size: int = 0) -> None:
        self._counts, self._entries, self._values = (
            _GrowingTensor(dtype) for dtype in (torch.int64, torch.int32, torch.float32)
        )
        self._vocab_size = vocab_size

    def extend_dense(self, block: Tensor) -> None:
        """Add the rows of a dense block [n, V]."""
        dense = block.detach().cpu().float()
        row, entry = dense.nonzero(as_tuple=True)
        self._counts.extend(torch.bincount(row, minlength=len(dense)))
        self._entries.extend(entry)
        self._values.extend(dense[row, entry])
        self._vocab_size = dense.shape[1]

    def extend(self, reps: SparseReps) -> None:
        """Add sparse rows."""
        self._counts.extend(reps.active_dims())
        self._entries.extend(reps.entries)
        self._values.extend(reps.values)
        self._vocab_size = reps.vocab_size

    def clear(self) -> None:
        """Forget the rows and keep the buffers. Do not use what :meth:`reps` returned before."""
        for numbers in (self._counts, self._entries, self._values):
            numbers.clear()

    def reps(self) -> SparseReps:
        """The rows so far, in the same memory."""
        counts, entries, values = (numbers.filled for numbers in (self._counts, self._entries, self._values))
        return SparseReps(_row_starts(counts), entries, values, self._vocab_size)


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

    def clear(self) -> None:
        self._size = 0


def _row_starts(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))

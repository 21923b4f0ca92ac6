"""Vectors shared out by the vocabulary: from a process's own rows to its slice of all rows, and back.

Shapes: n rows of one process, N of all; w columns, of which each process takes about the same number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from splade_bench.distributed.group import Group


def even_sizes(total: int, parts: int) -> list[int]:
    """``total`` in parts that differ by at most 1, the larger ones first."""
    size, more = divmod(total, parts)
    return [size + (part < more) for part in range(parts)]


def even_parts(total: int, parts: int) -> list[range]:
    """The same, as consecutive ranges."""
    ends = [*accumulate(even_sizes(total, parts))]
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def slice_of_all(group: Group, own: Tensor, rows: Sequence[int]) -> Tensor:
    """All processes' rows in this process's share of the columns: own [n, w] -> [N, w / processes].

    Args:
        group: the processes.
        own: this process's rows.
        rows: rows of each process.

    Memory: a copy of ``own``, and the result, which is of the same size if all have as many rows.
    """
    widths = even_sizes(own.shape[1], group.size)
    sent = torch.cat([part.reshape(-1) for part in own.split(widths, 1)])
    width = widths[group.rank]
    received = group.exchange(sent, [len(own) * one for one in widths], [count * width for count in rows])
    return received.view(sum(rows), width)


def rows_of_own(group: Group, columns: Tensor, rows: Sequence[int], *, width: int) -> Tensor:
    """The way back: a slice of all rows [N, width / processes] -> this process's rows [n, width]."""
    widths, count = even_sizes(width, group.size), rows[group.rank]
    sizes = [count * one for one in widths]
    received = group.exchange(columns.reshape(-1), [one * columns.shape[1] for one in rows], sizes)
    return torch.cat([part.view(count, one) for part, one in zip(received.split(sizes), widths, strict=True)], 1)


class Columns:
    """A matrix [n, V] in blocks of columns, which was made block by block. An index takes rows of all blocks."""

    def __init__(self, blocks: Sequence[Tensor]) -> None:
        self._blocks = blocks

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """The rows [_, V], copied."""
        return torch.cat([block[rows] for block in self._blocks], 1)

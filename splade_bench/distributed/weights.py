"""All weights of a model: shared out between processes by their elements, and sent in few messages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

# A tensor is cut at multiples of this only. A kernel computes the elements of a tensor in vectors and its last few one
# by one, which may round otherwise: so every element is computed as in the whole tensor.
ALIGNMENT_ELEMENTS = 64
# Smaller tensors travel together, in copies of at most so many bytes.
_BUCKET_BYTES = 4 * 2**20


def element_shares(sizes: Sequence[int], processes: int) -> list[list[slice]]:
    """By rank, the elements of each tensor that are this process's: an even share of all of them laid end to end.

    Rank 0 has the largest share: at most 2 * ``ALIGNMENT_ELEMENTS`` elements more than an even one.

    Args:
        sizes: elements of each tensor.
        processes: how many there are.
    """
    starts = [0, *accumulate(sizes)]

    def cut_before(place: int) -> int:
        start = starts[bisect_right(starts, min(place, starts[-1])) - 1]
        return min(start + (place - start) // ALIGNMENT_ELEMENTS * ALIGNMENT_ELEMENTS, starts[-1])

    # So much more than an even share that the last process has less, although each one before it is cut short.
    largest = cut_before(starts[-1] // processes + 2 * ALIGNMENT_ELEMENTS)
    cuts = [0, *accumulate(range(processes - 1), lambda cut, _: cut_before(cut + largest), initial=largest)]
    cuts[-1] = starts[-1]
    return [
        [
            overlap(slice(0, size), slice(first - start, last - start))
            for start, size in zip(starts, sizes, strict=False)
        ]
        for first, last in pairwise(cuts)
    ]


def overlap(own: slice, window: slice) -> slice:
    """The elements that are in both; an empty slice within ``own`` if there are none."""
    start = min(max(own.start, window.start), own.stop)
    return slice(start, max(start, min(own.stop, window.stop)))


def in_few_messages(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """Each large tensor, flat, and copies of small ones end to end. What becomes of a copy, the small ones then are.

    Memory: a copy of 4 MiB.

    Args:
        tensors: contiguous. Those of one type travel together.
    """
    for bucket in _buckets(tensors):
        if len(bucket) == 1:
            yield bucket[0].view(-1)
            continue
        together = torch.cat([tensor.view(-1) for tensor in bucket])
        yield together
        for tensor, part in zip(bucket, together.split([one.numel() for one in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, small ones of one type together."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size_bytes = tensor.nbytes + sum(one.nbytes for one in bucket)
        if bucket and (size_bytes > _BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket

"""Elements shared out between processes, and tensors that travel together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from splade_bench.distributed.weights import ALIGNMENT_ELEMENTS, element_shares, in_few_messages

# Of no tensor, of one, of a toy, of a model whose embeddings are most of it.
MODELS: Sequence[Sequence[int]] = ((), (1,), (70, 3, 129, 64, 0, 500), (512 * 30, *(30, 900, 30) * 9, 511))


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", MODELS, ids=len)
def test_every_element_is_one_processs_and_the_shares_are_even(sizes: Sequence[int], processes: int) -> None:
    shares = element_shares(sizes, processes)

    for number, size in enumerate(sizes):
        parts = [share[number] for share in shares]
        assert [place for part in parts for place in range(part.start, part.stop)] == [*range(size)]
        assert all(part.start % 64 == 0 or part.start == size for part in parts)
    counts = [sum(part.stop - part.start for part in share) for share in shares]
    assert max(counts) == counts[0] <= sum(sizes) / processes + 2 * ALIGNMENT_ELEMENTS


def test_small_tensors_travel_together_and_get_what_became_of_the_copy() -> None:
    large, *small = (torch.zeros(shape) for shape in ((1100, 1000), (3,), (2, 2)))
    other = torch.zeros(5, dtype=torch.float64)

    for number, message in enumerate(in_few_messages([large, *small, other]), start=1):
        message.fill_(number)

    assert [tensor.unique().tolist() for tensor in (large, *small, other)] == [[1], [2], [2], [3]]
    assert next(in_few_messages([large])).data_ptr() == large.data_ptr()

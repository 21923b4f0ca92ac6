"""Sparse rows: they come back as they went in, and only a few buffers hold them."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from splade_bench.evaluation import vectors
from splade_bench.evaluation.vectors import SparseReps, SparseRows


def random_sparse(rows: int, vocab_size: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(rows, vocab_size, generator=generator)
    return torch.where(dense > 0.8, dense, torch.zeros(()))


@pytest.mark.parametrize("first_buffer_size", [1, 50, 10**6])
def test_rows_come_back_as_they_went_in(first_buffer_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "FIRST_BUFFER_SIZE", first_buffer_size)
    dense = random_sparse(10, 32, seed=2)
    dense[4] = 0

    reps = SparseReps.from_dense(dense.split(3))

    assert len(reps) == 10
    assert torch.equal(reps.dense(0, 10), dense)
    assert torch.equal(reps.dense(3, 6), dense[3:6])
    assert reps.active_dims()[4] == 0


def test_rows_are_taken_in_another_order_and_collected_again() -> None:
    dense = random_sparse(10, 32, seed=2)
    dense[4] = 0
    reps = SparseReps.from_dense([dense])
    order = [4, 9, 0, 4]

    taken = reps.take(order)
    rows = SparseRows(32)
    for part in (reps.take([]), taken, reps.take([3])):
        rows.extend(part)

    assert torch.equal(taken.dense(0, 4), dense[order])
    assert torch.equal(rows.reps().dense(0, 5), dense[[*order, 3]])


def test_a_cleared_buffer_forgets_its_rows() -> None:
    rows = SparseRows(32)
    rows.extend_dense(random_sparse(5, 32, seed=0))
    rows.clear()
    dense = random_sparse(3, 32, seed=1)
    rows.extend_dense(dense)

    assert torch.equal(rows.reps().dense(0, 3), dense)
    assert len(rows.reps()) == 3


@pytest.mark.parametrize("counted", [1, 7, 2**20])
def test_the_share_of_rows_in_which_an_entry_is_active(counted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_COUNTED", counted)
    dense = random_sparse(10, 32, seed=2)

    shares = SparseReps.from_dense([dense]).activation_shares()

    assert torch.equal(shares, (dense > 0).double().mean(0))
    assert torch.equal(SparseRows(8).reps().activation_shares(), torch.zeros(8, dtype=torch.float64))


def test_no_tensor_is_kept_for_each_block() -> None:
    """Kept among the activations of batches, even small ones leave holes: memory grew by 10 KB a document."""
    counts = []

    def blocks() -> Iterator[torch.Tensor]:
        for number in range(40):
            yield random_sparse(2, 32, seed=number)
            counts.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))

    reps = SparseReps.from_dense(blocks())

    assert len(reps) == 80
    assert len(counts) == 40
    assert counts[-1] <= counts[3]

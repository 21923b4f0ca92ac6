"""The blockwise search against the full score matrix."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from splade_bench.evaluation import search
from splade_bench.evaluation.search import SparseReps, top_documents


def random_sparse(rows: int, vocab_size: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(rows, vocab_size, generator=generator)
    return torch.where(dense > 0.8, dense, torch.zeros(()))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROWS_PER_BLOCK", 7)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("top_k", [1, 5, 40])
def test_ranking_equals_that_of_the_full_score_matrix(top_k: int) -> None:
    queries, documents = random_sparse(9, 64, seed=0), random_sparse(30, 64, seed=1)

    best = top_documents(
        SparseReps.from_dense(queries.split(4)), SparseReps.from_dense(documents.split(11)), top_k=top_k
    )

    scores, rows = map(torch.stack, zip(*best, strict=True))
    full = queries @ documents.t()
    torch.testing.assert_close(scores, full.topk(min(top_k, 30), dim=1).values)
    torch.testing.assert_close(full.gather(1, rows), scores)


@pytest.mark.usefixtures("small_blocks")
def test_the_caller_is_asked_before_each_pair_of_blocks() -> None:
    queries, documents = (SparseReps.from_dense([random_sparse(rows, 64, seed=0)]) for rows in (9, 30))
    calls: list[int] = []

    best = top_documents(queries, documents, top_k=5, on_block=lambda: calls.append(0))

    next(best)
    assert len(calls) == 5  # of the first 7 queries with 30 documents
    assert len(list(best)) == 8
    assert len(calls) == 2 * 5


@pytest.mark.parametrize("first_buffer_size", [1, 50, 10**6])
def test_rows_come_back_as_they_went_in(first_buffer_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FIRST_BUFFER_SIZE", first_buffer_size)
    dense = random_sparse(10, 32, seed=2)
    dense[4] = 0

    reps = SparseReps.from_dense(dense.split(3))

    assert len(reps) == 10
    assert torch.equal(reps.dense(0, 10), dense)
    assert torch.equal(reps.dense(3, 6), dense[3:6])
    assert reps.active_dims()[4] == 0


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

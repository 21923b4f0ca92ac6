"""The blockwise search against the full score matrix, in float64."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from splade_bench.evaluation import search
from splade_bench.evaluation.search import larger_ids_first, top_documents
from splade_bench.evaluation.vectors import SparseReps

VOCAB = 64


def random_sparse(rows: int, *, seed: int, active: float = 0.2, steps: int | None = None) -> torch.Tensor:
    """Vectors with some zero rows; with ``steps``, of so few values that many scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(rows, VOCAB, generator=generator)
    if steps:
        values = (values * steps).ceil() / steps
    is_active = torch.rand(rows, VOCAB, generator=generator) < active
    is_active[:: max(2, rows // 3)] = False
    return torch.where(is_active, values, torch.zeros(()))


def brute_force(
    queries: torch.Tensor, documents: torch.Tensor, top_k: int, places: Sequence[int] = range(30)
) -> list[tuple[list[float], list[int]]]:
    """Sorted by score, then by place; scores of 0 are left out."""
    found = []
    for scores in (queries.double() @ documents.double().t()).float().tolist():
        rows = sorted(
            (row for row, score in enumerate(scores) if score > 0), key=lambda row: (-scores[row], places[row])
        )
        found.append(([scores[row] for row in rows[:top_k]], rows[:top_k]))
    return found


@pytest.fixture(params=[1, 7, 512])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(search, "ROWS_PER_BLOCK", request.param)
    return int(request.param)


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("top_k", [1, 5, 40])
@pytest.mark.parametrize("active", [0.05, 0.6], ids=["sparse", "dense"])
@pytest.mark.parametrize("steps", [None, 2], ids=["distinct", "ties"])
def test_results_are_those_of_brute_force(top_k: int, active: float, steps: int | None) -> None:
    queries = random_sparse(9, seed=0, active=active, steps=steps)
    documents = random_sparse(30, seed=1, active=active, steps=steps)

    best = top_documents(
        SparseReps.from_dense(queries.split(4)), SparseReps.from_dense(documents.split(11)), top_k=top_k
    )

    found = [(scores.tolist(), rows.tolist()) for scores, rows in best]
    assert found == brute_force(queries, documents, top_k)
    assert ([], []) in found  # the zero rows
    if steps and top_k == 40:
        assert any(len(set(scores)) < len(scores) for scores, _ in found)


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("top_k", [1, 5, 40])
def test_equal_scores_are_cut_by_id_whatever_their_order_in_the_file(top_k: int) -> None:
    queries = random_sparse(9, seed=0, active=0.6, steps=1)
    documents = random_sparse(10, seed=1, active=0.6, steps=1).repeat(3, 1)
    ids = [str(7 * row % 30) for row in range(30)]  # as text: 9, 8, 7, 6, 5, 4, 3, 29, 28, ...

    places = larger_ids_first(ids)
    best = top_documents(
        SparseReps.from_dense([queries]), SparseReps.from_dense([documents]), top_k=top_k, places=places
    )

    assert [ids[row] for row in places.argsort()][:8] == ["9", "8", "7", "6", "5", "4", "3", "29"]
    found = [(scores.tolist(), rows.tolist()) for scores, rows in best]
    assert found == brute_force(queries, documents, top_k, places.tolist())
    assert top_k == 40 or found != brute_force(queries, documents, top_k)


@pytest.mark.usefixtures("block_size")
def test_documents_that_are_left_out_make_room_for_the_next() -> None:
    queries, documents = random_sparse(5, seed=0), random_sparse(30, seed=1)
    left_out = {1: [3, 29, 4], 4: [7]}

    best = top_documents(
        SparseReps.from_dense([queries]), SparseReps.from_dense([documents]), top_k=6, left_out=left_out
    )

    everything = brute_force(queries, documents, 30)
    for query, (scores, rows) in enumerate(best):
        kept = [pair for pair in zip(*everything[query], strict=True) if pair[1] not in left_out.get(query, [])]
        assert list(zip(scores.tolist(), rows.tolist(), strict=True)) == kept[:6]


def test_the_caller_is_asked_before_each_pair_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "ROWS_PER_BLOCK", 7)
    queries, documents = (SparseReps.from_dense([random_sparse(rows, seed=0)]) for rows in (9, 30))
    calls: list[int] = []

    best = top_documents(queries, documents, top_k=5, on_block=lambda: calls.append(0))

    next(best)
    assert len(calls) == 5  # of the first 7 queries with 30 documents
    assert len(list(best)) == 8
    assert len(calls) == 2 * 5


def test_blocks_of_a_large_vocabulary_have_fewer_rows() -> None:
    vocab_size = 2**18
    row_starts = torch.arange(201)
    entries = torch.arange(200, dtype=torch.int32)
    reps = SparseReps(row_starts, entries, torch.ones(200), vocab_size)
    list(top_documents(reps, reps, top_k=3))  # scipy is imported
    tracemalloc.start()
    try:
        best = list(top_documents(reps, reps, top_k=3))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [rows.tolist() for _, rows in best] == [[row] for row in range(200)]
    assert peak_bytes < 3 * search._BLOCK_BYTES < 200 * vocab_size * 8


def test_equal_documents_have_equal_scores_wherever_they_are() -> None:
    document = random_sparse(2, seed=3)[1:]
    documents = torch.cat([random_sparse(600, seed=4), document, random_sparse(500, seed=5), document])
    query = random_sparse(2, seed=6)[1:]

    scores, rows = next(
        top_documents(SparseReps.from_dense([query]), SparseReps.from_dense([documents]), top_k=len(documents))
    )

    first, second = (int(np.flatnonzero(rows == row)[0]) for row in (600, 1101))
    assert scores[first] == scores[second]
    assert first < second


def test_no_queries_and_no_documents_find_nothing() -> None:
    none, some = SparseReps.from_dense([torch.zeros(0, VOCAB)]), SparseReps.from_dense([random_sparse(3, seed=0)])

    assert list(top_documents(none, some, top_k=3)) == []
    assert [rows.tolist() for _, rows in top_documents(some, none, top_k=3)] == [[], [], []]

"""A search among 100,000 documents takes little memory and finds what brute force finds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no peak memory there")]

DOCUMENTS, QUERIES, ACTIVE, VOCAB, TOP_K = 100_000, 1000, 80, 8192, 100
CHECKED = range(0, QUERIES, 50)
ALLOWED_BYTES = 256 * 2**20
# Weights are multiples of 1/8, so that many scores are equal and each sum is exact in any order.
SCRIPT = f"""
import json, sys
from pathlib import Path
import torch
from scipy.sparse import csr_array
from splade_bench.evaluation.encoding import Window
from splade_bench.evaluation.search import top_documents
from splade_bench.evaluation.vector_folder import VectorManifest, read_vectors, write_vectors
from splade_bench.evaluation.vectors import SparseReps
from splade_bench.measure.rss import PeakRss

generator = torch.Generator().manual_seed(0)

def vectors(rows):
    # Small numbers are frequent, as some tokens are.
    entries = (torch.rand(rows, {ACTIVE}, generator=generator) ** 3 * {VOCAB}).long().sort(1).values
    first = torch.ones_like(entries, dtype=torch.bool)
    first[:, 1:] = entries.diff(dim=1) > 0
    values = torch.randint(1, 24, entries.shape, generator=generator) / 8
    row_starts = torch.nn.functional.pad(first.sum(1).cumsum(0), (1, 0))
    return SparseReps(row_starts, entries[first].int(), values[first], {VOCAB})

def windows(rows):
    for start in range(0, rows, 2000):
        ids = [str(row) for row in range(start, min(start + 2000, rows))]
        yield Window(ids, vectors(len(ids)), 0)

peak = PeakRss()
peak.start()
before = peak.read().start_bytes
for name, rows in (("queries", {QUERIES}), ("documents", {DOCUMENTS})):
    manifest = VectorManifest(version=1, kind=name, model_name="none", max_length=1, vocab_size={VOCAB})
    write_vectors(Path(name), windows(rows), manifest)
queries, documents = read_vectors(Path("queries")), read_vectors(Path("documents"))
best = top_documents(queries.reps, documents.reps, top_k={TOP_K})
found = [[scores.tolist(), rows.tolist()] for scores, rows in best]
print(json.dumps({{"taken": peak.read().peak_bytes - before, "found": found}}))
"""


def test_100_000_documents_and_1_000_queries(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300
    )
    result = json.loads(finished.stdout)
    assert result["taken"] < ALLOWED_BYTES
    assert len(result["found"]) == QUERIES

    queries, documents = (
        [np.load(tmp_path / kind / f"{name}.npy") for name in ("values", "entries", "row_starts")]
        for kind in ("queries", "documents")
    )
    row_of = np.repeat(np.arange(DOCUMENTS), np.diff(documents[2]))
    for query in CHECKED:
        part = slice(queries[2][query], queries[2][query + 1])
        weights = np.zeros(VOCAB)
        weights[queries[1][part]] = queries[0][part]
        scores = np.bincount(row_of, documents[0] * weights[documents[1]], minlength=DOCUMENTS)
        expected = np.lexsort((np.arange(DOCUMENTS), -scores))[:TOP_K]
        assert result["found"][query] == [scores[expected].tolist(), expected.tolist()]
        assert len(set(scores[expected])) < TOP_K  # there are ties

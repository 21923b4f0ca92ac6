"""A cell whose model has trained weights: it starts as its workload says, with the cell's dropout."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from splade_bench.data.embedded import PreparedCorpus
from splade_bench.data.records import at_equal_distances
from splade_bench.grid.cell import Cell
from splade_bench.grid.workloads import WORKLOADS
from splade_bench.starts import PACKAGED_MODELS
from splade_bench.worker.cell_builder import CellBuilder


@pytest.mark.slow
@pytest.mark.skipif(find_spec(PACKAGED_MODELS["minilm"].module) is None, reason="the extra [minilm] is not installed")
def test_minilm_starts_from_its_words(cache: Path) -> None:
    folder = str(PreparedCorpus.prepare(cache, []).folder)
    cell = Cell(workload="minilm", device="cpu", batch_size=4, gradient_accumulation_steps=1, memory_mode="standard")

    builder = CellBuilder(cell, folder, None)
    encoder, planned = builder.encoder(), builder.new_encoder()

    assert builder.corpus
    texts = [triple.positive for triple in [*at_equal_distances(builder.corpus.triples, 64)][::8]]
    with encoder.evaluating(), torch.no_grad():
        active = encoder(encoder.tokenize(texts, max_length=96)).count_nonzero().item()
    assert active / len(texts) == pytest.approx(WORKLOADS["minilm"].start_active_dims, rel=0.4)
    assert encoder.similarity == "cosine"
    shapes = [{name: weight.shape for name, weight in one.named_parameters()} for one in (encoder, planned)]
    assert shapes[0] == shapes[1]
    for one in (encoder, planned):
        # On hidden states as the workload has it, on attention as the cell has it.
        assert {part.p for part in one.modules() if isinstance(part, torch.nn.Dropout)} == {0.1, 0.0}

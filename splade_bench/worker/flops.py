"""The work of a step. With the speed of this machine it says how good a step's time is."""

from __future__ import annotations

from splade_bench.batching.batches import TripleBatch
from splade_bench.config import ModelPreset


def cached_step_flops(preset: ModelPreset, batch: TripleBatch) -> int:
    """Floating-point operations in the products of a cached step over ``batch``, without activation checkpointing.

    The body goes forward twice and backward once, at two forwards' price; the head forward once. Padding is not
    counted, nor the savings of a mini-batch that keeps its graph: the figure describes the method, not a run, so
    computing more never raises the rate that is derived from it.
    """
    body, head = _forward_flops(preset, batch)
    return 4 * body + head


def direct_step_flops(preset: ModelPreset, batch: TripleBatch) -> int:
    """The same for a step that keeps the graphs of the whole batch: its body goes forward once."""
    body, head = _forward_flops(preset, batch)
    return 3 * body + head


def _forward_flops(preset: ModelPreset, batch: TripleBatch) -> tuple[int, int]:
    """Floating-point operations of a forward pass over ``batch``: of the body and of the head."""
    lengths = [length for texts in (batch.queries, *batch.documents) for length in texts.lengths]
    hidden = preset.hidden_size
    # Queries, keys, values and output: 4 H^2 weights; feed-forward: 8 H^2; the MLM transform: H^2. 2 FLOPs a weight.
    weights = 2 * (12 * hidden**2 * preset.layers + hidden**2) * sum(lengths)
    attention = 4 * hidden * preset.layers * sum(length**2 for length in lengths)
    head = 2 * hidden * preset.vocab_size * sum(lengths)
    return weights + attention, head

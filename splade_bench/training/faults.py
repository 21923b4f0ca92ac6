"""What a run says and changes when an optimizer step fails."""

from __future__ import annotations

from collections.abc import Sequence

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.sources import TripleSource
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.training.gradcache import mini_batch_limit

# Records that an error names.
_NAMED_RECORDS = 8


def half_mini_batch(encoder: SpladeEncoder, window: Sequence[TripleBatch]) -> int | None:
    """Half the tokens of the largest mini-batch of an optimizer step; None if it is one text already."""
    largest = max(batch.tokens for batch in window)
    if encoder.memory.gradient_caching:
        largest = min(largest, mini_batch_limit(encoder))
        if largest <= max(length for batch in window for group in batch.lengths for length in group):
            return None
    return max(1, largest // 2)


def describe_records(source: TripleSource, batches: Sequence[TripleBatch]) -> str:
    """The records of ``batches``, as the end of a clause: `` on A, B and 3 more``; empty if they have no names."""
    names = [source.record_name(row) for batch in batches for row in batch.rows]
    more = f" and {len(names) - _NAMED_RECORDS} more" if len(names) > _NAMED_RECORDS else ""
    return f" on {', '.join(names[:_NAMED_RECORDS])}{more}" if names else ""


def describe_step(encoder: SpladeEncoder, window: Sequence[TripleBatch]) -> str:
    """The sizes that decide the memory of an optimizer step."""
    if not window:
        return "between two optimizer steps"
    batch = max(window, key=lambda one: one.tokens)
    texts, longest = sum(map(len, batch.lengths)), max(max(group) for group in batch.lengths)
    parts = f"batch of {len(batch)} queries, {texts} texts of at most {longest} tokens"
    if encoder.memory.gradient_caching:
        parts += f", mini-batches of {max(longest, min(batch.tokens, mini_batch_limit(encoder)))} tokens"
    return parts

"""Batches for the training loop, prepared ahead where an accelerator computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from splade_bench.batching.sources import TripleBatches, TripleSource
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple, fewest_negatives
from splade_bench.errors import ConfigError
from splade_bench.model.encoder import SpladeEncoder

Item = TypeVar("Item")
_END = object()


def source_of(
    training_data: Sequence[Triple] | TripleSource, encoder: SpladeEncoder, config: TrainConfig
) -> TripleSource:
    """The source of batches for an encoder.

    Raises:
        ConfigError: there is nothing to train on, or the model cannot take it.
    """
    if not isinstance(training_data, Sequence):
        return training_data
    if not training_data:
        raise ConfigError("there are no triples to train on")
    if config.negatives_per_query and not fewest_negatives(training_data):
        raise ConfigError("--negatives-per-query: some queries have no negatives; add some, or set it to 0")
    encoder.require_positions(config.max_length)
    # A tokenizer can be used by one thread at a time, and an evaluation may run while a batch is prepared.
    tokenizer = copy.deepcopy(encoder.tokenizer) if prepares_ahead(encoder) else encoder.tokenizer
    return TripleBatches.for_config(training_data, tokenizer, config, encoder.device)


def prepares_ahead(encoder: SpladeEncoder) -> bool:
    """Whether another thread prepares the next batch: the CPU has nothing else to do. In a plan everything is on it."""
    return encoder.device.type != "cpu"


def prepared_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """``items``, the next one prepared by a thread while the caller works on one. Errors come in their order."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        upcoming = pool.submit(next, items, _END)
        while (item := upcoming.result()) is not _END:
            upcoming = pool.submit(next, items, _END)
            yield item  # type: ignore[misc]

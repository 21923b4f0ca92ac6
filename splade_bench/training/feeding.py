"""Batches for the training loop, prepared ahead where an accelerator computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from splade_bench.batching.batches import TripleBatch
from splade_bench.batching.shares import WHOLE, Share
from splade_bench.batching.sources import TripleBatches, TripleSource
from splade_bench.config import TrainConfig
from splade_bench.data.records import IndexedTriples, Triple, fewest_negatives
from splade_bench.errors import ConfigError
from splade_bench.model.encoder import SpladeEncoder

Item = TypeVar("Item")
_END = object()


def source_of(
    training_data: Sequence[Triple] | TripleSource,
    encoder: SpladeEncoder,
    config: TrainConfig,
    share: Share = WHOLE,
) -> TripleSource:
    """The source of batches for an encoder, or of a process's share of them.

    Raises:
        ConfigError: there is nothing to train on, or the model cannot take it.
    """
    if not isinstance(training_data, Sequence):
        return training_data
    if not training_data:
        raise ConfigError("there are no triples to train on")
    if config.negatives_per_query and not fewest_negatives(training_data):
        raise ConfigError("--negatives-per-query: some queries have no negatives; add some, or set it to 0")
    if config.needs_teacher and not _are_scored(training_data):
        raise ConfigError(f"--loss {config.loss}: some queries have no teacher scores; add some, or take contrastive")
    encoder.require_positions(config.max_length)
    source = TripleBatches.for_config(training_data, encoder.tokenizer, config, encoder.device, encoder.prompts, share)
    if encoder.device.type == "cpu" or isinstance(training_data, IndexedTriples):
        return source  # a CPU computes meanwhile, and the file of an index has one reader
    # A tokenizer can be used by one thread at a time, and an evaluation may run while a batch is prepared.
    return PreparedAhead(replace(source, tokenizer=copy.deepcopy(encoder.tokenizer)))


def _are_scored(triples: Sequence[Triple]) -> bool:
    """Whether all have teacher scores; those of a file were checked with it."""
    return isinstance(triples, IndexedTriples) or all(triple.teacher_scores for triple in triples)


@dataclass(frozen=True, slots=True)
class PreparedAhead:
    """The batches of another source, each prepared by a thread while the one before is computed."""

    source: TripleSource

    @property
    def batches_per_epoch(self) -> int:
        return self.source.batches_per_epoch

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[TripleBatch]:
        return prepared_ahead(self.source.batches(epoch, start=start))

    def record_name(self, row: int) -> str:
        return self.source.record_name(row)


def prepared_ahead(items: Iterator[Item]) -> Iterator[Item]:
    """``items``, the next one prepared by a thread while the caller works on one. Errors come in their order."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        upcoming = pool.submit(next, items, _END)
        while (item := upcoming.result()) is not _END:
            upcoming = pool.submit(next, items, _END)
            yield item  # type: ignore[misc]

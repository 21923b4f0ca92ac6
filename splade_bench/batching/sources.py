"""Where a trainer's batches come from: plain-text triples, or random token ids for a measurement."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, Protocol

import torch
from transformers import PreTrainedTokenizerBase
from typing_extensions import Self

from splade_bench.batching.batches import TextBatch, TripleBatch, pad, tokenize
from splade_bench.batching.drawing import OwnDocuments, draw, targets_of
from splade_bench.batching.prompts import Prompts
from splade_bench.batching.shares import WHOLE, Share
from splade_bench.config import TrainConfig
from splade_bench.data.records import IndexedTriples, Triple
from splade_bench.device.devices import memory_on

# Tokens of synthetic texts with real lengths: queries between these, documents around a median of 75.
_QUERY_LENGTHS = (4, 20)
_DOCUMENT_LOG_LENGTH = (math.log(75), 0.6)
_WARM_UP_LENGTH = 8
# About as many as a token has: of a longer text, the end is cut.
_CHARACTERS_PER_TOKEN = 5
# The usual batch is the middle one of so many.
_SAMPLED_BATCHES = 9
# Type of a row number in an array: 4 bytes, no sign.
_ROW = "I"


class TripleSource(Protocol):
    """A source of batches."""

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[TripleBatch]:
        """The batches of one epoch from number ``start`` on, always the same for the same epoch."""
        ...

    @property
    def batches_per_epoch(self) -> int: ...

    def record_name(self, row: int) -> str:
        """A row of the training data (:attr:`TripleBatch.rows`) as a user finds it: "train.jsonl:17", "record 17"."""
        ...


def widest_batch(source: TripleSource) -> TripleBatch:
    """The batch of the first epoch with most tokens, padding included: it decides the peak memory of a run."""
    return max(source.batches(epoch=0), key=lambda batch: batch.tokens)


def usual_batch(source: TripleSource) -> TripleBatch:
    """Of the first batches of the first epoch, the one with the median number of tokens: it takes the usual time."""
    batches = sorted(islice(source.batches(epoch=0), _SAMPLED_BATCHES), key=lambda batch: batch.tokens)
    return batches[len(batches) // 2]


@dataclass(frozen=True, slots=True)
class TripleBatches:
    """Batches of plain-text triples: shuffled anew each epoch, each query with freshly drawn negatives.

    The order depends on the seed and the epoch only, and the negatives of a row on these and the row. So every memory
    mode sees the same batches, and a run can begin in the middle of an epoch. Memory: 4 bytes for each triple, and the
    texts of one batch.

    Of several processes each tokenizes the texts of its own ``share``; rows and targets are those of the whole batch.
    """

    triples: Sequence[Triple]
    tokenizer: PreTrainedTokenizerBase
    config: TrainConfig
    prompts: Prompts = field(default_factory=Prompts)
    share: Share = WHOLE

    @classmethod
    def for_config(
        cls,
        triples: Sequence[Triple],
        tokenizer: PreTrainedTokenizerBase,
        config: TrainConfig,
        device: torch.device,
        prompts: Prompts | None = None,
        share: Share = WHOLE,
    ) -> Self:
        """The batches of a run with this configuration on this device.

        Without ``prompts``, those of the configuration are before the texts.

        Raises:
            ConfigError: a prompt leaves no room for a text.
        """
        prompts = prompts or Prompts().replaced(config.query_prompt, config.document_prompt)
        prompts.require_room(tokenizer, "queries", max_length=config.max_length)
        prompts.require_room(tokenizer, "documents", max_length=config.max_length)
        return cls(triples, tokenizer, replace(config, memory=memory_on(device, config.memory)), prompts, share)

    @property
    def batches_per_epoch(self) -> int:
        return batches_per_epoch(self.triples, self.config)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[TripleBatch]:
        order = array(_ROW, range(len(self.triples)))
        random.Random(f"{self.config.seed}/{epoch}").shuffle(order)
        size = self.config.batch_size
        for first in range(start * size, len(order), size):
            yield self._batch(epoch, order[first : first + size].tolist())

    def record_name(self, row: int) -> str:
        return self.triples.record_name(row) if isinstance(self.triples, IndexedTriples) else f"record {row + 1}"

    def _batch(self, epoch: int, rows: Sequence[int]) -> TripleBatch:
        config, memory = self.config, self.config.memory
        triples = [self.triples[row] for row in rows]
        drawn = [
            draw(triple, config.negatives_per_query, random.Random(f"{config.seed}/{epoch}/{row}"))
            for triple, row in zip(triples, rows, strict=True)
        ]
        order = self.share.order([self._characters(*pair) for pair in zip(triples, drawn, strict=True)])
        rows, triples = [rows[place] for place in order], [triples[place] for place in order]
        drawn = [drawn[place] for place in order]
        own = self.share.of(len(rows))
        groups = [self.prompts.before([triple.query for triple in triples[own]], "queries")]
        for group in range(1 + config.negatives_per_query):
            groups.append(self.prompts.before([one.documents[group] for one in drawn[own]], "documents"))
        queries, *documents = (
            tokenize(
                self.tokenizer,
                group,
                max_length=config.max_length,
                padding=memory.padding,
                pad_to_multiple_of=memory.pad_to_multiple_of,
            )
            for group in groups
        )
        return TripleBatch(queries, tuple(documents), tuple(rows), targets_of(triples, drawn), len(rows))

    def _characters(self, triple: Triple, drawn: OwnDocuments) -> int:
        """About what a query and its documents cost."""
        longest = _CHARACTERS_PER_TOKEN * self.config.max_length
        return sum(min(len(text), longest) for text in (triple.query, *drawn.documents))


def batches_per_epoch(triples: Sequence[Triple], config: TrainConfig) -> int:
    """Batches in which all triples come once; the last one may have fewer."""
    return -(-len(triples) // config.batch_size)


def order_bytes(triples: Sequence[Triple]) -> int:
    """Memory of the order in which an epoch of :class:`TripleBatches` takes its triples."""
    return array(_ROW).itemsize * len(triples)


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticBatches:
    """Batches of random token ids, without corpus and tokenizer: for measurements only."""

    batch_size: int
    max_length: int
    vocab_size: int
    negatives_per_query: int
    batches_per_epoch: int
    seed: int
    lengths: Literal["full", "real"] = "full"
    """All texts at max_length; or queries of 4 to 20 tokens and documents log-normal around 75."""
    padding: Literal["max_length", "longest"] = "longest"
    """Pad each group to max_length, or to its longest text."""
    warm_up: bool = False
    """Whether each epoch begins with one more batch, of a single query and a few tokens."""
    share: Share = WHOLE
    """Of several processes, which texts this one encodes."""

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[TripleBatch]:
        # All are drawn by one generator, the skipped ones too: recorded figures are of these batches.
        return islice(self._drawn(epoch), start, None)

    def record_name(self, row: int) -> str:
        return f"random text {row + 1}"

    def _drawn(self, epoch: int) -> Iterator[TripleBatch]:
        rng = random.Random(f"{self.seed}/{epoch}")
        if self.warm_up:
            yield self._batch([[_WARM_UP_LENGTH]] * (2 + self.negatives_per_query), rng)
        for _ in range(self.batches_per_epoch):
            documents = [self._document_lengths(rng) for _ in range(1 + self.negatives_per_query)]
            shortest, longest = (self.max_length, self.max_length) if self.lengths == "full" else _QUERY_LENGTHS
            queries = [min(rng.randint(shortest, longest), self.max_length) for _ in range(self.batch_size)]
            yield self._batch([queries, *documents], rng)

    def _batch(self, lengths: Sequence[Sequence[int]], rng: random.Random) -> TripleBatch:
        order = self.share.order([sum(sizes) for sizes in zip(*lengths, strict=True)])
        own = order[self.share.of(len(order))]
        queries, *documents = (self._texts(group, own, rng) for group in lengths)
        return TripleBatch(queries, tuple(documents), shared_queries=len(order))

    def _texts(self, lengths: Sequence[int], own: Sequence[int], rng: random.Random) -> TextBatch:
        """The texts at the places ``own``; all are drawn, so that every process has those of the same batch."""
        # 0-4: special tokens
        sequences = [[rng.randrange(5, self.vocab_size) for _ in range(length)] for length in lengths]
        width = self.max_length if self.padding == "max_length" else None
        return pad([sequences[place] for place in own], pad_token_id=0, width=width)

    def _document_lengths(self, rng: random.Random) -> list[int]:
        if self.lengths == "full":
            return [self.max_length] * self.batch_size
        drawn = [round(rng.lognormvariate(*_DOCUMENT_LOG_LENGTH)) for _ in range(self.batch_size)]
        return [max(_QUERY_LENGTHS[0], min(length, self.max_length)) for length in drawn]

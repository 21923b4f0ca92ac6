"""Tokenised batches: texts in, ``input_ids`` and ``attention_mask`` out.

Lengths travel beside the tensors as Python integers, so that a step can trim and sort without reading a tensor.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from splade_bench.data.records import Triple

# Synthetic texts of real lengths, in tokens: queries between these, documents around a median of 75.
_QUERY_LENGTHS = (4, 20)
_DOCUMENT_LOG_LENGTH = (math.log(75), 0.6)
_WARM_UP_LENGTH = 8


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts of one group: ``input_ids`` and ``attention_mask`` [N, L] (int64), padded on the right.

    ``lengths`` are in tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    lengths: tuple[int, ...]

    def to(self, device: torch.device) -> Self:
        return type(self)(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.lengths,
        )


@dataclass(frozen=True, slots=True)
class TripleBatch:
    """B queries and 1 + K groups of B documents: first the positives, then each query's k-th negative."""

    queries: TextBatch
    documents: tuple[TextBatch, ...]

    def __len__(self) -> int:
        return len(self.queries.lengths)

    @property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """Tokens of each text, by groups."""
        return tuple(texts.lengths for texts in (self.queries, *self.documents))

    @property
    def tokens(self) -> int:
        """Of all texts, padding included."""
        return sum(texts.input_ids.numel() for texts in (self.queries, *self.documents))

    def to(self, device: torch.device) -> Self:
        return type(self)(self.queries.to(device), tuple(documents.to(device) for documents in self.documents))


class TextTokenizer(Protocol):
    """What this package asks of a Hugging Face tokenizer."""

    pad_token_id: int | None

    def __call__(self, text: list[str], *, truncation: bool, max_length: int) -> dict[str, list[list[int]]]: ...


def pad(sequences: Sequence[Sequence[int]], *, pad_token_id: int, width: int | None = None) -> TextBatch:
    """Token ids of N texts -> [N, L], where L is ``width`` or the length of the longest text, at least 1."""
    lengths = tuple(len(sequence) for sequence in sequences)
    width = width or max(1, *lengths)
    input_ids = torch.full((len(sequences), width), pad_token_id)
    attention_mask = torch.zeros((len(sequences), width), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.tensor(sequence)
        attention_mask[row, : len(sequence)] = 1
    return TextBatch(input_ids, attention_mask, lengths)


def tokenize(
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    *,
    max_length: int,
    padding: Literal["max_length", "longest"],
    pad_to_multiple_of: int = 1,
) -> TextBatch:
    """Texts, cut at ``max_length`` tokens -> :class:`TextBatch` [N, L]."""
    sequences = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    longest = max(len(sequence) for sequence in sequences)
    width = max_length if padding == "max_length" else round_up(longest, pad_to_multiple_of, at_most=max_length)
    return pad(sequences, pad_token_id=tokenizer.pad_token_id or 0, width=width)


def round_up(length: int, multiple: int, *, at_most: int) -> int:
    """The next multiple, so that few widths occur; at most ``at_most``."""
    return min(-(-length // multiple) * multiple, at_most)


class TripleSource(Protocol):
    """Where a trainer's batches come from: plain-text triples, or token ids made for a measurement."""

    def batches(self, epoch: int) -> Iterator[TripleBatch]:
        """The batches of one epoch, always the same for the same epoch."""
        ...

    @property
    def batches_per_epoch(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TripleBatches:
    """Batches of plain-text triples: shuffled anew each epoch, each query with freshly drawn negatives.

    The order and the draw depend on ``seed`` and the epoch only, so every memory mode sees the same batches.
    """

    triples: Sequence[Triple]
    tokenizer: TextTokenizer
    batch_size: int
    max_length: int
    padding: Literal["max_length", "longest"]
    pad_to_multiple_of: int
    negatives_per_query: int
    seed: int

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.triples) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[TripleBatch]:
        rng = random.Random(f"{self.seed}/{epoch}")
        order = list(range(len(self.triples)))
        rng.shuffle(order)
        for start in range(0, len(order), self.batch_size):
            triples = [self.triples[row] for row in order[start : start + self.batch_size]]
            negatives = [self._draw(triple.negatives, rng) for triple in triples]
            groups = [[triple.positive for triple in triples], *map(list, zip(*negatives, strict=True))]
            yield TripleBatch(
                self._tokenize([triple.query for triple in triples]),
                tuple(self._tokenize(group) for group in groups),
            )

    def _draw(self, negatives: Sequence[str], rng: random.Random) -> list[str]:
        # A query with too few negatives repeats some: each query has K, so that the batch is rectangular.
        count = self.negatives_per_query
        if len(negatives) >= count:
            return rng.sample(negatives, count)
        return rng.choices(negatives, k=count)

    def _tokenize(self, texts: Sequence[str]) -> TextBatch:
        return tokenize(
            self.tokenizer,
            texts,
            max_length=self.max_length,
            padding=self.padding,
            pad_to_multiple_of=self.pad_to_multiple_of,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticBatches:
    """Batches of random token ids: no corpus and no tokenizer, for measuring alone."""

    batch_size: int
    max_length: int
    vocab_size: int
    negatives_per_query: int
    batches_per_epoch: int
    seed: int
    lengths: Literal["full", "real"] = "full"
    """All texts at max_length; or queries of 4 to 20 tokens and documents log-normal around 75."""
    padding: Literal["max_length", "longest"] = "longest"
    """Of each group: to max_length, or to its longest text."""
    warm_up: bool = False
    """Whether one more batch, of a single query and a few tokens, comes first in each epoch."""

    def batches(self, epoch: int) -> Iterator[TripleBatch]:
        rng = random.Random(f"{self.seed}/{epoch}")
        if self.warm_up:
            yield self._batch([[_WARM_UP_LENGTH]] * (2 + self.negatives_per_query), rng)
        for _ in range(self.batches_per_epoch):
            document_lengths = [self._document_lengths(rng) for _ in range(1 + self.negatives_per_query)]
            yield self._batch([self._query_lengths(rng), *document_lengths], rng)

    def _batch(self, lengths: Sequence[Sequence[int]], rng: random.Random) -> TripleBatch:
        queries, *documents = (self._texts(group, rng) for group in lengths)
        return TripleBatch(queries, tuple(documents))

    def _texts(self, lengths: Sequence[int], rng: random.Random) -> TextBatch:
        # 0-4: special tokens
        sequences = [[rng.randrange(5, self.vocab_size) for _ in range(length)] for length in lengths]
        width = self.max_length if self.padding == "max_length" else None
        return pad(sequences, pad_token_id=0, width=width)

    def _query_lengths(self, rng: random.Random) -> list[int]:
        low, high = (self.max_length, self.max_length) if self.lengths == "full" else _QUERY_LENGTHS
        return [min(rng.randint(low, high), self.max_length) for _ in range(self.batch_size)]

    def _document_lengths(self, rng: random.Random) -> list[int]:
        if self.lengths == "full":
            return [self.max_length] * self.batch_size
        drawn = [round(rng.lognormvariate(*_DOCUMENT_LOG_LENGTH)) for _ in range(self.batch_size)]
        return [max(_QUERY_LENGTHS[0], min(length, self.max_length)) for length in drawn]

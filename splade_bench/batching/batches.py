"""Batches of token ids: texts in, ``input_ids`` and ``attention_mask`` out.

Lengths travel beside the tensors as Python integers. So a step can trim and sort texts without reading a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from typing_extensions import Self

from splade_bench.batching.cutting import first_token_ids
from splade_bench.batching.transfer import on_device
from splade_bench.errors import DataError


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Texts of one group: ``input_ids`` and ``attention_mask`` [N, L] (int64), padded on the right."""

    input_ids: Tensor
    attention_mask: Tensor
    lengths: tuple[int, ...]
    """Tokens of each text."""

    def to(self, device: torch.device) -> Self:
        input_ids, attention_mask = on_device((self.input_ids, self.attention_mask), device)
        return type(self)(input_ids, attention_mask, self.lengths)


@dataclass(frozen=True, slots=True)
class Targets:
    """What the data says about the scores of a batch, beside that each query's positive is right."""

    false_negatives: Tensor | None = None
    """bool [B, B * (1 + K)]: documents that answer a query though they are there for another. None: there are none."""
    teacher_scores: Tensor | None = None
    """A teacher's scores of each query's own documents, [B, 1 + K]. None: there is no teacher."""

    @property
    def required_teacher_scores(self) -> Tensor:
        """The teacher scores.

        Raises:
            DataError: there are none.
        """
        if self.teacher_scores is None:
            raise DataError("--loss: the training data has no teacher scores; add them, or take --loss contrastive")
        return self.teacher_scores

    def to(self, device: torch.device) -> Self:
        moved = (
            None if tensor is None else on_device([tensor], device)[0]
            for tensor in (self.false_negatives, self.teacher_scores)
        )
        return type(self)(*moved)


@dataclass(frozen=True, slots=True)
class TripleBatch:
    """B queries and 1 + K groups of B documents: first the positives, then each query's k-th negative."""

    queries: TextBatch
    documents: tuple[TextBatch, ...]
    rows: tuple[int, ...] = ()
    """The row of each query in the training data, counted from 0; empty for texts that come from no file."""
    targets: Targets = field(default_factory=Targets)
    shared_queries: int | None = None
    """Queries of the whole batch, if this is a process's share of it; ``rows`` and ``targets`` are of the whole."""

    @property
    def all_queries(self) -> int:
        """Queries of the whole batch, of all processes."""
        return len(self) if self.shared_queries is None else self.shared_queries

    def __len__(self) -> int:
        return len(self.queries.lengths)

    @property
    def queries_without_negatives(self) -> int:
        """Queries of the whole batch for which each of its documents is an answer."""
        negatives = self.all_queries * len(self.documents) - 1  # all but a query's own positive
        if self.targets.false_negatives is None:
            return 0 if negatives else self.all_queries
        return int((self.targets.false_negatives.sum(1) == negatives).sum())

    @property
    def groups(self) -> tuple[TextBatch, ...]:
        """Queries, positives, k-th negatives."""
        return self.queries, *self.documents

    @property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """Tokens of each text, by group."""
        return tuple(texts.lengths for texts in self.groups)

    @property
    def tokens(self) -> int:
        """Tokens of all texts, padding included."""
        return sum(texts.input_ids.numel() for texts in self.groups)

    def to(self, device: torch.device) -> Self:
        tensors = [tensor for texts in self.groups for tensor in (texts.input_ids, texts.attention_mask)]
        moved = iter(on_device(tensors, device))
        queries, *documents = (TextBatch(next(moved), next(moved), texts.lengths) for texts in self.groups)
        return replace(self, queries=queries, documents=tuple(documents), targets=self.targets.to(device))


def pad(sequences: Sequence[Sequence[int]], *, pad_token_id: int, width: int | None = None) -> TextBatch:
    """Token ids of N texts -> [N, L], where L is ``width`` or the length of the longest text, at least 1."""
    lengths = tuple(len(sequence) for sequence in sequences)
    width = width or max((1, *lengths))
    input_ids = torch.full((len(sequences), width), pad_token_id)
    attention_mask = torch.zeros((len(sequences), width), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.tensor(sequence)
        attention_mask[row, : len(sequence)] = 1
    return TextBatch(input_ids, attention_mask, lengths)


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    padding: Literal["max_length", "longest"] = "longest",
    pad_to_multiple_of: int | None = None,
) -> TextBatch:
    """Texts, cut at ``max_length`` tokens -> :class:`TextBatch` [N, L]."""
    sequences = first_token_ids(tokenizer, texts, max_length=max_length) if texts else []
    longest = max((len(sequence) for sequence in sequences), default=1)
    width = max_length if padding == "max_length" else round_up(longest, pad_to_multiple_of, at_most=max_length)
    return pad(sequences, pad_token_id=tokenizer.pad_token_id or 0, width=width)


def round_up(length: int, multiple: int | None, *, at_most: int) -> int:
    """The next multiple, so that few widths occur, but at most ``at_most``. None: ``length`` itself."""
    return min(-(-length // (multiple or 1)) * (multiple or 1), at_most)

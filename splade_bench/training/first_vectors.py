"""What a model's vectors are before its training: dense, dead, or something that can learn; and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from splade_bench.batching.prompts import TextKind
from splade_bench.data.records import Triple, at_equal_distances
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.training.collapse import SPARSE_SHARE

logger = logging.getLogger(__name__)

# Fewer active entries than one a vector.
DEAD_ACTIVE_DIMS = 1.0
_SAMPLED_TRIPLES = 16
_TEXTS_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Means over some queries, or some documents."""

    active_dims: float
    expansion_ratio: float
    """Share of the active entries that are not tokens of the text itself; 0 without active entries."""
    own_words_active_share: float
    """Share of a text's different tokens whose entries are active, special tokens left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstVectors:
    """The vectors of a sample of training texts before the first optimizer step."""

    vocab_size: int
    query: Side
    document: Side

    @property
    def state(self) -> Literal["dense", "dead", "healthy"]:
        """Dense: at least half of the vocabulary is active. Dead: less than one entry is. As the worse side is."""
        sides = self.query.active_dims, self.document.active_dims
        if max(sides) >= SPARSE_SHARE * self.vocab_size:
            return "dense"
        return "dead" if min(sides) < DEAD_ACTIVE_DIMS else "healthy"

    @property
    def line(self) -> str:
        """All of it on one line, with what to do."""
        sides = "; ".join(
            f"a {name} has {side.active_dims:.0f} active dims, {1 - side.expansion_ratio:.0%} of them its own words; "
            f"{side.own_words_active_share:.0%} of its own words are active"
            for name, side in (("query", self.query), ("document", self.document))
        )
        return f"first vectors: {self.state}: {sides}{_ADVICE[self.state]}"

    def to_dict(self) -> dict[str, Any]:
        """The state, and all figures by their names."""
        sides = {"query": self.query, "document": self.document}
        figures = {f"{name}_{key}": value for name, side in sides.items() for key, value in asdict(side).items()}
        return {"state": self.state, **figures}


_ADVICE = {
    "healthy": "",
    "dense": ". All texts match all texts: add --start calibrated, or --start lexical, which needs no trained head",
    "dead": ". Nothing can be found or learned with empty vectors: add --start calibrated",
}


def first_vectors(encoder: SpladeEncoder, triples: Sequence[Triple], *, max_length: int) -> FirstVectors:
    """Look at the vectors of a few queries and positives, at equal distances in ``triples``.

    Memory: the vectors of a few texts.
    """
    sample = [*at_equal_distances(triples, _SAMPLED_TRIPLES)]
    return FirstVectors(
        vocab_size=encoder.vocab_size,
        query=_side(encoder, "queries", [triple.query for triple in sample], max_length),
        document=_side(encoder, "documents", [triple.positive for triple in sample], max_length),
    )


def report_first_vectors(
    encoder: SpladeEncoder, triples: Sequence[Triple], *, max_length: int
) -> dict[str, Any] | None:
    """:func:`first_vectors` as a line of the log, which is a warning unless they are healthy, and as a record.

    None if there is no memory for it: the training itself will say so, and where.
    """
    try:
        found = first_vectors(encoder, triples, max_length=max_length)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    logger.log(logging.INFO if found.state == "healthy" else logging.WARNING, "%s", found.line)
    return found.to_dict()


@torch.no_grad()
def _side(encoder: SpladeEncoder, kind: TextKind, texts: Sequence[str], max_length: int) -> Side:
    vectors = encoder.query_vectors if kind == "queries" else encoder
    special = {*encoder.tokenizer.all_special_ids}
    active = own = own_active = 0
    with encoder.evaluating():
        for first in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = encoder.tokenize(texts[first : first + _TEXTS_AT_ONCE], max_length=max_length, kind=kind)
            for vector, ids, length in zip(vectors(batch), batch.input_ids.tolist(), batch.lengths, strict=True):
                words = [*{*ids[:length]} - special]
                active += int(vector.count_nonzero())
                own += len(words)
                own_active += int(vector[words].count_nonzero())
    return Side(
        active_dims=active / len(texts),
        expansion_ratio=1 - own_active / active if active else 0.0,
        own_words_active_share=own_active / own if own else 0.0,
    )

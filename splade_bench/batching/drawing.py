"""Which documents of a triple an epoch trains on, and what else the data says about the scores of a batch."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from splade_bench.batching.batches import Targets
from splade_bench.data.records import Triple


@dataclass(frozen=True, slots=True)
class OwnDocuments:
    """A query's documents in a batch: a positive, then K negatives."""

    documents: tuple[str, ...]
    teacher_scores: tuple[float, ...]
    """Of the same documents. Empty if there is no teacher."""


def draw(triple: Triple, negatives: int, rng: random.Random) -> OwnDocuments:
    """One of the positives, and so many different negatives; if there are fewer, some repeat."""
    count = len(triple.negatives)
    indices = range(count)
    chosen = rng.sample(indices, negatives) if count >= negatives else rng.choices(indices, k=negatives)
    positive = rng.randrange(len(triple.positives)) if triple.other_positives else 0
    documents = (triple.positives[positive], *(triple.negatives[index] for index in chosen))
    if not triple.teacher_scores:
        return OwnDocuments(documents, ())
    of_negatives = triple.teacher_scores[len(triple.positives) :]
    scores = (triple.teacher_scores[positive], *(of_negatives[index] for index in chosen))
    return OwnDocuments(documents, scores)


def targets_of(triples: Sequence[Triple], drawn: Sequence[OwnDocuments]) -> Targets:
    """What the data says about the scores of the batch that these documents make.

    There are teacher scores if all triples have some.
    """
    teacher = [own.teacher_scores for own in drawn]
    return Targets(_false_negatives(triples, drawn), torch.tensor(teacher) if all(teacher) else None)


def _false_negatives(triples: Sequence[Triple], drawn: Sequence[OwnDocuments]) -> Tensor | None:
    """Bool [B, B * (1 + K)]: documents with the text of one that answers the query, except for its own positive.

    Equal queries share their answers. None if there is no such document.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    for triple in triples:
        answers[triple.query].update(triple.positives)
    columns: dict[str, list[int]] = defaultdict(list)
    groups = zip(*(own.documents for own in drawn), strict=True)
    for column, text in enumerate(chain.from_iterable(groups)):
        columns[text].append(column)
    pairs = [
        (row, column)
        for row, triple in enumerate(triples)
        for answer in answers[triple.query]
        for column in columns.get(answer, ())
        if column != row  # its own positive
    ]
    if not pairs:
        return None
    marked = torch.zeros(len(triples), len(triples) * len(drawn[0].documents), dtype=torch.bool)
    rows, marked_columns = torch.tensor(pairs).t()
    marked[rows, marked_columns] = True
    return marked

"""Ranking losses: functions of a batch's scores, and of what the data says about them.

Shapes: B queries, K negatives each. Products are the scores of each query with all documents, [B, B * (1 + K)]: first
the positives, then each query's k-th negative. A query's *own* documents are its positive and its negatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.batching.batches import Targets
from splade_bench.objective import Objective

_NO_TARGETS = Targets()
# Below this, a vector's squared length counts as this, so that a zero vector has cosines of 0.
_SMALLEST_SQUARE = 1e-12


def cosines(products: Tensor, squares: Tensor) -> Tensor:
    """Dot products of vectors -> cosines.

    Args:
        products: of queries and documents, [B, D].
        squares: the squared lengths of the queries' vectors, then of the documents', [B + D].
    """
    inverse = squares.clamp(min=_SMALLEST_SQUARE).rsqrt()
    queries = len(products)
    return products * inverse[:queries, None] * inverse[queries:]


def contrastive_loss(products: Tensor, *, false_negatives: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Softmax cross-entropy of each query's positive against every other document of the batch (InfoNCE).

    Args:
        products: scores [B, B * (1 + K)].
        false_negatives: bool, of the same shape: documents that are left out of a query's softmax.
        temperature: what the scores are divided by.
    """
    if false_negatives is not None:
        products = products.masked_fill(false_negatives, -math.inf)
    if temperature != 1:
        products = products / temperature
    return F.cross_entropy(products, torch.arange(len(products), device=products.device))


def margin_loss(products: Tensor, *, margin: float) -> Tensor:
    """The article's hinge: mean over a query's own negatives of ``relu(margin - positive score + negative score)``."""
    own = own_scores(products)
    return F.relu(margin - own[:, :1] + own[:, 1:]).mean()


def margin_mse_loss(products: Tensor, teacher_scores: Tensor) -> Tensor:
    """Mean squared difference between the model's margins and a teacher's (Hofstätter et al., 2020, MarginMSE).

    A margin is the score of a query's positive less that of one of its negatives.

    Args:
        products: scores [B, B * (1 + K)].
        teacher_scores: of each query's own documents, [B, 1 + K].
    """
    own, teacher = own_scores(products), teacher_scores.to(products.dtype)
    return F.mse_loss(own[:, :1] - own[:, 1:], teacher[:, :1] - teacher[:, 1:])


def kl_loss(
    products: Tensor, teacher_scores: Tensor, *, temperature: float = 1.0, teacher_temperature: float = 1.0
) -> Tensor:
    """Kullback-Leibler divergence of the model's softmax over a query's own documents from a teacher's.

    The mean over queries; temperatures do not scale it.

    Args:
        products: scores [B, B * (1 + K)].
        teacher_scores: of each query's own documents, [B, 1 + K].
        temperature: what the model's scores are divided by.
        teacher_temperature: what the teacher's scores are divided by.
    """
    ours = F.log_softmax(own_scores(products) / temperature, 1)
    teachers = F.log_softmax(teacher_scores.to(products.dtype) / teacher_temperature, 1)
    return F.kl_div(ours, teachers, reduction="batchmean", log_target=True)


def own_scores(products: Tensor) -> Tensor:
    """Of products [B, B * (1 + K)], each query's with its own documents: [B, 1 + K]."""
    queries = len(products)
    return products.view(queries, -1, queries).diagonal(dim1=0, dim2=2).t()


_LOSSES: Mapping[str, Callable[[Tensor, Targets, Objective], Tensor]] = MappingProxyType(
    {
        "contrastive": lambda products, targets, objective: contrastive_loss(
            products, false_negatives=targets.false_negatives, temperature=objective.softmax_temperature
        ),
        "margin": lambda products, targets, objective: margin_loss(products, margin=objective.margin),
        "margin-mse": lambda products, targets, objective: margin_mse_loss(products, targets.required_teacher_scores),
        "kl": lambda products, targets, objective: kl_loss(
            products,
            targets.required_teacher_scores,
            temperature=objective.softmax_temperature,
            teacher_temperature=objective.teacher_temperature,
        ),
    }
)


def ranking_loss(products: Tensor, objective: Objective, targets: Targets = _NO_TARGETS) -> Tensor:
    """The weighted sum of an objective's ranking losses, a scalar.

    Raises:
        DataError: a loss needs teacher scores, and there are none.
    """
    losses = []
    for name, weight in objective.ranking_weights.items():
        loss = _LOSSES[name](products, targets, objective)
        losses.append(loss if weight == 1 else weight * loss)
    first, *others = losses
    return sum(others, start=first)

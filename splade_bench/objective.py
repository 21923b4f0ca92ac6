"""What a training minimises: ranking losses and regularizers as settings, without torch.

The functions are in :mod:`splade_bench.training.ranking` and :mod:`splade_bench.training.regularizers`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

from splade_bench.errors import ConfigError
from splade_bench.fields import require_range

MAX_COUNT = 2**32 - 1  # more of anything is a mistake; a random generator takes this much as its seed
RegularizerName = Literal["flops", "l1", "mean-l1"]
Similarity = Literal["dot", "cosine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingLoss:
    """What a ranking loss needs of the data."""

    needs_negatives: bool = False
    needs_teacher: bool = False


RANKING_LOSSES: Mapping[str, RankingLoss] = MappingProxyType(
    {
        "contrastive": RankingLoss(),
        "margin": RankingLoss(needs_negatives=True),
        "margin-mse": RankingLoss(needs_negatives=True, needs_teacher=True),
        "kl": RankingLoss(needs_negatives=True, needs_teacher=True),
    }
)
_TERM = re.compile(r"(?:(?P<weight>[^*]*)\*)?(?P<name>[^*]*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """The settings of the loss."""

    loss: str = "contrastive"
    """The ranking loss, or a weighted sum such as kl+0.05*margin-mse. contrastive: softmax over hard and in-batch
    negatives. margin: the article's hinge on each hard negative. margin-mse: squared difference from a teacher's
    margins. kl: divergence from a teacher's softmax over a query's own documents. The last two need teacher scores in
    the training data."""
    similarity: Similarity | None = None
    """The score of a query and a document: the dot product of their vectors, or the cosine. It is saved with the model,
    and evaluate, encode and search use it. None: as the model has it."""
    temperature: float | None = None
    """contrastive and kl: the model's scores are divided by this before the softmax. None: 1, or 0.05 for cosines."""
    teacher_temperature: float = 1.0
    """kl: the teacher's scores are divided by this before the softmax."""
    margin: float = 0.2
    """Margin of the hinge."""
    regularizer: RegularizerName = "flops"
    """FLOPS of the SPLADE papers; l1, the article's sum of L1 norms over the batch; or mean-l1, their mean."""
    query_regularizer_type: RegularizerName | None = None
    """Regularizer of the queries. None: the same as --regularizer."""
    query_regularizer_weight: float = 1e-3
    """Weight of the queries' regularizer (lambda_q)."""
    document_regularizer_weight: float = 1e-3
    """Weight of the documents' regularizer (lambda_d)."""
    regularized_documents: Literal["positives", "all"] = "positives"
    """Documents that are regularized: the positives, as in the article, or the negatives too."""
    regularizer_threshold: int = 0
    """Only vectors with more active entries than this are regularized; the others count as zero vectors."""
    regularizer_warmup_ratio: float = 1 / 3
    """Share of optimizer steps in which the regularizers' weights rise from almost 0, with the square of the step."""
    regularizer_warmup_steps: int | None = None
    """Optimizer steps of that rise. None: by --regularizer-warmup-ratio."""

    def __post_init__(self) -> None:
        require_range(self, "margin", at_least=0, at_most=MAX_COUNT)
        require_range(self, "temperature", "teacher_temperature", at_least=1e-6, at_most=1e6)
        require_range(self, "query_regularizer_weight", "document_regularizer_weight", at_least=0)
        require_range(self, "regularizer_warmup_ratio", at_least=0, at_most=1)
        require_range(self, "regularizer_threshold", "regularizer_warmup_steps", at_least=0, at_most=MAX_COUNT)
        _ = self.ranking_weights  # raises if --loss cannot be read

    @property
    def ranking_weights(self) -> Mapping[str, float]:
        """The weight of each ranking loss in the sum."""
        return _ranking_weights(self.loss)

    @property
    def softmax_temperature(self) -> float:
        """The temperature of contrastive and kl."""
        # sentence-transformers multiplies cosines by 20.
        return self.temperature or (0.05 if self.similarity == "cosine" else 1.0)

    @property
    def needs_negatives(self) -> bool:
        """Whether a query must have negatives of its own."""
        return any(RANKING_LOSSES[name].needs_negatives for name in self.ranking_weights)

    @property
    def needs_teacher(self) -> bool:
        """Whether the training data must have teacher scores."""
        return any(RANKING_LOSSES[name].needs_teacher for name in self.ranking_weights)


@lru_cache
def _ranking_weights(text: str) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for term in text.split("+"):
        match = _TERM.fullmatch(term.strip())
        name, weight = (match["name"].strip(), match["weight"]) if match else (term.strip(), None)
        if name not in RANKING_LOSSES:
            raise ConfigError(
                f"--loss {text}: there is none called {name!r}; choose from {', '.join(RANKING_LOSSES)}, or write a "
                "weighted sum such as kl+0.05*margin-mse"
            )
        if name in weights:
            raise ConfigError(f"--loss {text}: {name} comes twice; add up its weights")
        weights[name] = _weight(text, weight)
    return MappingProxyType(weights)


def _weight(text: str, weight: str | None) -> float:
    if weight is None:
        return 1.0
    try:
        number = float(weight)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigError(f"--loss {text}: the weight {weight.strip()!r} must be a number above 0, such as 0.05")
    return number

"""The losses and regularizers against their formulas."""

from __future__ import annotations

import pytest
import torch

from splade_bench.config import TrainConfig
from splade_bench.training.losses import (
    SpladeLoss,
    contrastive_loss,
    flops_regularizer,
    l1_regularizer,
    margin_loss,
)


def random_reps(rows: int, *, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_contrastive_loss_is_the_cross_entropy_of_each_positive() -> None:
    queries, documents = random_reps(3), random_reps(6, seed=1)

    expected = sum(torch.logsumexp(documents @ query, 0) - documents[row] @ query for row, query in enumerate(queries))

    assert contrastive_loss(queries, documents).item() == pytest.approx(float(expected) / 3)


def test_margin_loss_is_the_mean_hinge_over_each_querys_own_negatives() -> None:
    queries, documents = random_reps(2), random_reps(6, seed=1)  # positives 0-1, first negatives 2-3, second 4-5

    hinges = [
        max(0.0, 0.2 - float(queries[row] @ documents[row]) + float(queries[row] @ documents[row + 2 * negative]))
        for negative in (1, 2)
        for row in (0, 1)
    ]

    assert margin_loss(queries, documents, margin=0.2).item() == pytest.approx(sum(hinges) / 4)


def test_flops_is_the_sum_of_squared_mean_weights_and_l1_the_sum_of_weights() -> None:
    reps = torch.tensor([[1.0, 0.0], [3.0, 2.0]])

    assert flops_regularizer(reps).item() == 2.0**2 + 1.0**2
    assert l1_regularizer(reps).item() == 6.0


def test_regularizers_carry_their_weights_and_the_ramp_and_leave_negatives_out() -> None:
    config = TrainConfig(regularizer="l1", query_regularizer_weight=0.1, document_regularizer_weight=0.01)
    queries, documents = random_reps(2), random_reps(4, seed=1)

    terms = SpladeLoss(config)(queries, documents, regularizer_scale=0.5)

    assert terms.query_regularizer.item() == pytest.approx(0.5 * 0.1 * queries.sum().item())
    assert terms.document_regularizer.item() == pytest.approx(0.5 * 0.01 * documents[:2].sum().item())
    assert terms.total.item() == pytest.approx(
        terms.ranking.item() + terms.query_regularizer.item() + terms.document_regularizer.item()
    )


def test_active_dims_are_the_mean_number_of_entries_above_zero() -> None:
    queries = torch.tensor([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0]])

    assert SpladeLoss(TrainConfig())(queries, queries).query_active_dims.item() == 1.5


def test_negatives_are_regularized_when_all_documents_are_to_be() -> None:
    torch.manual_seed(0)
    queries, documents = torch.rand(2, 9), torch.rand(6, 9)
    positives, everything = (
        SpladeLoss(TrainConfig(regularized_documents=which, document_regularizer_weight=0.5))(queries, documents)
        for which in ("positives", "all")
    )

    assert positives.document_regularizer.item() == pytest.approx(0.5 * flops_regularizer(documents[:2]).item())
    assert everything.document_regularizer.item() == pytest.approx(0.5 * flops_regularizer(documents).item())
    assert everything.ranking == positives.ranking

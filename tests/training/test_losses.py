"""The losses and regularizers against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splade_bench.config import TrainConfig
from splade_bench.training.losses import (
    LossTerms,
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

    assert contrastive_loss(queries @ documents.t()).item() == pytest.approx(float(expected) / 3)


def test_margin_loss_is_the_mean_hinge_over_each_querys_own_negatives() -> None:
    queries, documents = random_reps(2), random_reps(6, seed=1)  # positives 0-1, first negatives 2-3, second 4-5

    hinges = [
        max(0.0, 0.2 - float(queries[row] @ documents[row]) + float(queries[row] @ documents[row + 2 * negative]))
        for negative in (1, 2)
        for row in (0, 1)
    ]

    assert margin_loss(queries @ documents.t(), margin=0.2).item() == pytest.approx(sum(hinges) / 4)


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


@pytest.mark.parametrize("loss", ["contrastive", "margin"])
@pytest.mark.parametrize("regularizer", ["flops", "l1"])
@pytest.mark.parametrize("documents", ["positives", "all"])
@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_the_gradient_without_a_graph_is_autograds(
    loss: Any, regularizer: Any, documents: Any, negatives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splade_bench.training.losses._COLUMNS", 5)  # of 12
    config = TrainConfig(
        loss=loss,
        negatives_per_query=max(1, negatives),
        regularizer=regularizer,
        regularized_documents=documents,
        query_regularizer_weight=0.3,
        document_regularizer_weight=0.7,
    )
    if loss == "margin" and not negatives:
        pytest.skip("a hinge needs negatives")
    objective, queries = SpladeLoss(config), 3
    reps = random_reps(queries * (2 + negatives)).requires_grad_()
    expected = objective(reps[:queries], reps[queries:], regularizer_scale=0.5)
    (plain,) = torch.autograd.grad(4.0 * expected.total, reps)

    terms, gradient = objective.with_gradient(reps.detach(), queries, regularizer_scale=0.5, gradient_scale=4.0)

    torch.testing.assert_close(gradient, plain, rtol=1e-12, atol=1e-12)
    assert not gradient.requires_grad
    for name in LossTerms.__dataclass_fields__:
        term = getattr(terms, name)
        assert not term.requires_grad
        assert term.item() == pytest.approx(getattr(expected, name).item(), rel=1e-12)

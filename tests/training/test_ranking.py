"""The ranking losses against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from splade_bench.batching.batches import Targets
from splade_bench.errors import DataError
from splade_bench.objective import RANKING_LOSSES, Objective
from splade_bench.training.ranking import contrastive_loss, kl_loss, margin_loss, margin_mse_loss, ranking_loss

QUERIES, NEGATIVES = 3, 2


@pytest.fixture
def products() -> torch.Tensor:
    """Scores of 3 queries with 3 positives, 3 first and 3 second negatives."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(QUERIES, QUERIES * (1 + NEGATIVES), generator=generator, dtype=torch.float64)


@pytest.fixture
def teacher_scores() -> torch.Tensor:
    return torch.rand(QUERIES, 1 + NEGATIVES, generator=torch.Generator().manual_seed(1))


def own(products: torch.Tensor, query: int) -> list[float]:
    """The scores of a query's positive and its negatives."""
    return [float(products[query, query + QUERIES * group]) for group in range(1 + NEGATIVES)]


def softmax(scores: list[float], temperature: float) -> list[float]:
    powers = [math.exp(score / temperature) for score in scores]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_contrastive_loss_is_the_cross_entropy_of_each_positive(products: torch.Tensor, temperature: float) -> None:
    expected = -sum(math.log(softmax(products[row].tolist(), temperature)[row]) for row in range(QUERIES)) / QUERIES

    assert contrastive_loss(products, temperature=temperature).item() == pytest.approx(expected)


def test_false_negatives_are_not_in_the_softmax_and_get_no_gradient(products: torch.Tensor) -> None:
    left_out = torch.zeros_like(products, dtype=torch.bool)
    left_out[0, [1, 5]] = True
    expected = 0.0
    for row in range(QUERIES):
        kept = [score for score, is_left_out in zip(products[row], left_out[row], strict=True) if not is_left_out]
        expected -= math.log(softmax([float(score) for score in kept], 1.0)[kept.index(products[row, row])]) / QUERIES
    products.requires_grad_()

    loss = contrastive_loss(products, false_negatives=left_out)
    loss.backward()

    assert loss.item() == pytest.approx(expected)
    assert products.grad is not None
    assert products.grad[left_out].tolist() == [0.0, 0.0]
    assert bool((products.grad[~left_out] != 0).all())


def test_a_query_whose_other_documents_are_all_false_negatives_has_no_loss() -> None:
    products = torch.rand(2, 2).requires_grad_()

    loss = contrastive_loss(products, false_negatives=torch.tensor([[False, True], [True, False]]))
    loss.backward()

    assert loss.item() == 0.0
    assert products.grad is not None
    assert products.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_margin_loss_is_the_mean_hinge_over_each_querys_own_negatives(products: torch.Tensor) -> None:
    hinges = [
        max(0.0, 0.2 - own(products, query)[0] + negative)
        for query in range(QUERIES)
        for negative in own(products, query)[1:]
    ]

    assert margin_loss(products, margin=0.2).item() == pytest.approx(sum(hinges) / 6)


def test_margin_mse_is_the_mean_squared_difference_of_margins(
    products: torch.Tensor, teacher_scores: torch.Tensor
) -> None:
    squares = []
    for query in range(QUERIES):
        ours, teachers = own(products, query), teacher_scores[query].tolist()
        squares += [(ours[0] - ours[k] - (teachers[0] - teachers[k])) ** 2 for k in range(1, 1 + NEGATIVES)]

    assert margin_mse_loss(products, teacher_scores).item() == pytest.approx(sum(squares) / 6)


def test_kl_is_the_mean_divergence_from_the_teachers_softmax(
    products: torch.Tensor, teacher_scores: torch.Tensor
) -> None:
    expected = 0.0
    for query in range(QUERIES):
        ours, teachers = softmax(own(products, query), 0.5), softmax(teacher_scores[query].tolist(), 2.0)
        expected += sum(t * math.log(t / o) for t, o in zip(teachers, ours, strict=True)) / QUERIES

    loss = kl_loss(products, teacher_scores, temperature=0.5, teacher_temperature=2.0)

    assert loss.item() == pytest.approx(expected)


def test_a_sum_of_losses_is_weighted(products: torch.Tensor, teacher_scores: torch.Tensor) -> None:
    objective, targets = Objective(loss="kl+0.05*margin-mse"), Targets(teacher_scores=teacher_scores)

    expected = kl_loss(products, teacher_scores) + 0.05 * margin_mse_loss(products, teacher_scores)

    assert ranking_loss(products, objective, targets).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", RANKING_LOSSES)
def test_a_loss_that_needs_a_teacher_is_refused_without_one(name: str, products: torch.Tensor) -> None:
    if RANKING_LOSSES[name].needs_teacher:
        with pytest.raises(DataError, match=r"^--loss: the training data has no teacher scores"):
            ranking_loss(products, Objective(loss=name))
    else:
        assert ranking_loss(products, Objective(loss=name)).item() >= 0

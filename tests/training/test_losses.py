"""The terms of a loss, and their gradient without a graph over vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from splade_bench.batching.batches import Targets
from splade_bench.config import TrainConfig
from splade_bench.training.losses import LossTerms, SpladeLoss
from splade_bench.training.regularizers import Regularizer


def random_reps(rows: int, *, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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

    assert positives.document_regularizer.item() == pytest.approx(Regularizer("flops", 0.5).value(documents[:2]).item())
    assert everything.document_regularizer.item() == pytest.approx(Regularizer("flops", 0.5).value(documents).item())
    assert everything.ranking == positives.ranking


def test_queries_may_have_another_regularizer_than_documents() -> None:
    config = TrainConfig(query_regularizer_type="mean-l1", query_regularizer_weight=1.0)
    queries, documents = random_reps(2), random_reps(4, seed=1)

    terms = SpladeLoss(config)(queries, documents)

    assert terms.query_regularizer.item() == pytest.approx(queries.sum().item() / 2)
    assert terms.document_regularizer.item() == pytest.approx(1e-3 * documents[:2].mean(0).square().sum().item())


def random_targets(queries: int, negatives: int) -> Targets:
    """Some documents that are left out, and a teacher."""
    generator = torch.Generator().manual_seed(5)
    left_out = torch.rand(queries, queries * (1 + negatives), generator=generator) < 0.3
    left_out[range(queries), range(queries)] = False
    return Targets(left_out, torch.rand(queries, 1 + negatives, generator=generator))


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"temperature": 0.3},
        {"similarity": "cosine", "temperature": 0.3},
        {"similarity": "cosine", "loss": "margin-mse"},
        {"loss": "margin"},
        {"loss": "margin-mse"},
        {"loss": "kl", "temperature": 0.5, "teacher_temperature": 2.0},
        {"loss": "contrastive+0.3*kl+2*margin-mse"},
        {"regularizer": "l1"},
        {"regularizer": "mean-l1"},
        {"query_regularizer_type": "l1", "regularizer_threshold": 9},
        {"regularizer": "l1", "regularizer_threshold": 9},
    ],
    ids=str,
)
@pytest.mark.parametrize("documents", ["positives", "all"])
@pytest.mark.parametrize("negatives", [0, 1, 3])
def test_the_gradient_without_a_graph_is_autograds(
    objective: dict[str, Any], documents: Any, negatives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splade_bench.training.losses._COLUMNS", 5)  # of 12
    config = TrainConfig(
        **objective,
        negatives_per_query=max(1, negatives),
        regularized_documents=documents,
        query_regularizer_weight=0.3,
        document_regularizer_weight=0.7,
    )
    if config.needs_negatives and not negatives:
        pytest.skip("the loss needs negatives")
    loss, queries = SpladeLoss(config), 3
    targets = random_targets(queries, negatives)
    # Some vectors have more active entries than the threshold, others fewer. No gradient is compared at 0.
    reps = random_reps(queries * (2 + negatives))
    reps[::2, :4] = 0.0
    reps.requires_grad_()
    expected = loss(reps[:queries], reps[queries:], targets=targets, regularizer_scale=0.5)
    (plain,) = torch.autograd.grad(4.0 * expected.total, reps)

    terms, gradient = loss.with_gradient(
        reps.detach(), queries, targets=targets, regularizer_scale=0.5, gradient_scale=4.0
    )

    active = reps > 0
    torch.testing.assert_close(gradient[active], plain[active], rtol=1e-12, atol=1e-12)
    assert not gradient.requires_grad
    for name in LossTerms.__dataclass_fields__:
        term = getattr(terms, name)
        assert not term.requires_grad
        assert term.item() == pytest.approx(getattr(expected, name).item(), rel=1e-12)

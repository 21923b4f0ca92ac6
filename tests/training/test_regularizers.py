"""The regularizers against their formulas."""

from __future__ import annotations

import pytest
import torch

from splade_bench.training.regularizers import Regularizer

REPS = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("name", "threshold", "value"),
    [
        ("flops", 0, 2.0**2 + 1.0**2),
        ("l1", 0, 6.0),
        ("mean-l1", 0, 3.0),
        # Only the first vector has more than one active entry; the mean is over both.
        ("flops", 1, 0.5**2 + 1.0**2),
        ("l1", 1, 3.0),
        ("mean-l1", 1, 1.5),
        ("flops", 2, 0.0),
    ],
)
def test_a_regularizer_has_its_value(name: str, threshold: int, value: float) -> None:
    regularizer = Regularizer(name, 0.5, threshold)  # type: ignore[arg-type]

    assert regularizer.value(REPS).item() == 0.5 * value


@pytest.mark.parametrize("name", ["flops", "l1", "mean-l1"])
@pytest.mark.parametrize("threshold", [0, 1])
def test_the_gradient_is_autograds_and_is_added(name: str, threshold: int) -> None:
    regularizer = Regularizer(name, 0.5, threshold)  # type: ignore[arg-type]
    reps = REPS.double().requires_grad_()
    (plain,) = torch.autograd.grad(3 * regularizer.value(reps), reps)
    target = torch.ones(2, 3, dtype=torch.float64)

    regularizer.add_gradient_(target, reps.detach(), scale=3)

    active = REPS > 0
    torch.testing.assert_close(target[active] - 1, plain[active], rtol=1e-12, atol=1e-12)

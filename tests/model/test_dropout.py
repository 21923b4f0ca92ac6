"""Compact dropout: its probability, its mean, its mask in backward."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.dropout import compact_dropout, keep_mask, keep_scale
from splade_bench.model.lean import lean_operators

ELEMENTS = 400_000
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9])
def test_elements_are_dropped_with_the_given_probability_and_the_mean_is_kept(probability: float) -> None:
    torch.manual_seed(0)
    dropped = compact_dropout(torch.ones(ELEMENTS, dtype=torch.float64), probability)

    share = float((dropped == 0).double().mean())
    deviation = math.sqrt(probability * (1 - probability) / ELEMENTS)
    assert abs(share - probability) < 4 * deviation + 2**-17
    assert set(dropped.unique().tolist()) == {0.0, keep_scale(probability)}
    # Exact for the rounded probability: kept share times scale is 1.
    assert keep_scale(probability) == pytest.approx(1 / (1 - round(probability * 2**16) / 2**16), rel=1e-12)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=5 * deviation / (1 - probability))


def test_neighbours_are_dropped_independently() -> None:
    """Four elements share a 64-bit draw: any two of its lanes, and of neighbouring draws, must know nothing of each
    other."""
    torch.manual_seed(1)
    kept = keep_mask(torch.Size([ELEMENTS]), 0.5, torch.device("cpu")).double() - 0.5

    for lag in range(1, 9):
        correlation = float((kept[:-lag] * kept[lag:]).mean() * 4)
        assert abs(correlation) < 4.5 / math.sqrt(ELEMENTS)
    for lane in range(4):
        assert abs(float(kept[lane::4].mean())) < 4.5 * 0.5 / math.sqrt(ELEMENTS / 4)


@DTYPES
@pytest.mark.parametrize("contiguous", [True, False])
def test_the_gradient_takes_the_same_mask_and_scale_as_the_values(dtype: torch.dtype, contiguous: bool) -> None:
    torch.manual_seed(2)
    inputs = torch.randn(5, 7, 3, dtype=dtype)  # 105 elements: no multiple of four
    inputs = (inputs if contiguous else inputs.transpose(0, 2)).detach().requires_grad_()
    upstream = torch.randn_like(inputs)
    state = torch.get_rng_state()

    outputs = compact_dropout(inputs, 0.3)
    (gradient,) = torch.autograd.grad(outputs, inputs, upstream)

    torch.set_rng_state(state)
    mask = keep_mask(inputs.shape, 0.3, inputs.device)
    assert 0 < int(mask.sum()) < mask.numel()
    assert outputs.dtype == gradient.dtype == dtype
    assert torch.equal(outputs, inputs.detach() * mask * keep_scale(0.3))
    assert torch.equal(gradient, upstream * mask * keep_scale(0.3))


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0, 2), ()])
def test_small_and_empty_tensors_keep_their_shape(shape: tuple[int, ...]) -> None:
    assert compact_dropout(torch.ones(shape), 0.5).shape == shape


def test_a_probability_of_one_drops_everything_and_a_tiny_one_nothing() -> None:
    ones = torch.ones(100_000)
    with lean_operators(MemoryConfig()):
        assert torch.count_nonzero(F.dropout(ones, 1.0)) == 0
        assert torch.equal(F.dropout(ones, 1e-9), ones)
        assert torch.equal(F.dropout(ones, 0.0), ones)
        assert torch.equal(F.dropout(ones, 0.5, training=False), ones)


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_probability_that_is_none_is_refused_as_torch_does(probability: float) -> None:
    with lean_operators(MemoryConfig()), pytest.raises(ValueError, match="between 0 and 1"):
        F.dropout(torch.ones(3), probability)


def test_equal_seeds_give_equal_masks() -> None:
    inputs = torch.ones(1000)
    first, second = (torch.manual_seed(5) and compact_dropout(inputs, 0.5) for _ in range(2))

    assert torch.equal(first, second)
    assert not torch.equal(first, compact_dropout(inputs, 0.5))

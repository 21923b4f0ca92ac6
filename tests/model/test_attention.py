"""Streaming attention against ``F.scaled_dot_product_attention``, and against its definition with its own mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from splade_bench.memory_modes import MemoryConfig
from splade_bench.model import attention
from splade_bench.model.attention import streaming_attention
from splade_bench.model.dropout import keep_mask, keep_scale
from splade_bench.model.lean import lean_operators

TEXTS, HEADS, QUERIES, KEYS, HEAD_SIZE = 3, 4, 6, 9, 5
NEGLIGIBLE = 1e-9  # rounds to no dropout at all, but takes the path that has it


def make_inputs(*, keys: int = KEYS, value_size: int = HEAD_SIZE, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(QUERIES, HEAD_SIZE), (keys, HEAD_SIZE), (keys, value_size)]
    made = [torch.randn(TEXTS, HEADS, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in made]


def make_mask(kind: str) -> Tensor | None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([9, 4, 1])
    padding = (torch.arange(KEYS) < lengths[:, None])[:, None, None, :]  # [B, 1, 1, keys]
    additive = torch.randn(TEXTS, HEADS, QUERIES, KEYS, generator=generator, dtype=torch.float64)
    return {
        "none": None,
        "boolean": padding,
        "boolean, of all heads": padding.expand(TEXTS, HEADS, QUERIES, KEYS),
        "boolean, of all texts": torch.rand(QUERIES, KEYS, generator=generator) < 0.7,
        "additive": additive,
        "additive, of all texts and heads": additive[:1, :1],
        "additive, with -inf": torch.zeros(padding.shape, dtype=torch.float64).masked_fill_(~padding, -torch.inf),
        "additive, with the lowest number": additive.masked_fill(~padding, torch.finfo(torch.float64).min),
    }[kind]


def values_and_gradients(outputs: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    upstream = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return [outputs.detach(), *torch.autograd.grad(outputs, inputs, upstream.to(outputs.dtype))]


MASKS = pytest.mark.parametrize(
    "kind",
    [
        "none",
        "boolean",
        "boolean, of all heads",
        "boolean, of all texts",
        "additive",
        "additive, of all texts and heads",
        "additive, with -inf",
        "additive, with the lowest number",
    ],
)


@MASKS
@pytest.mark.parametrize("scale", [None, 0.7])
def test_without_dropout_values_and_gradients_are_those_of_torch(kind: str, scale: float | None) -> None:
    inputs, mask = make_inputs(), make_mask(kind)

    ours = values_and_gradients(streaming_attention(*inputs, mask, NEGLIGIBLE, scale), inputs)
    plain = values_and_gradients(F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=scale), inputs)

    for actual, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("value_size", [1, 8])
def test_values_may_be_of_another_size_than_queries(value_size: int) -> None:
    inputs = make_inputs(value_size=value_size)

    ours = values_and_gradients(streaming_attention(*inputs, None, NEGLIGIBLE, None), inputs)
    plain = values_and_gradients(F.scaled_dot_product_attention(*inputs), inputs)

    for actual, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def plain_with_the_same_mask(inputs: list[Tensor], mask: Tensor | None, dropout: float) -> Tensor:
    """The formula, its dropout mask drawn in the parts in which streaming attention draws it."""
    query, key, value = inputs
    keep = torch.empty(TEXTS, HEADS, QUERIES, key.shape[2], dtype=torch.bool)
    for part in attention.parts(query, key):
        keep[part] = keep_mask(keep[part].shape, dropout, query.device)
    scores = query @ key.transpose(-1, -2) * HEAD_SIZE**-0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(-1) * keep * keep_scale(dropout)) @ value


@pytest.mark.parametrize("kind", ["none", "boolean", "additive"])
@pytest.mark.parametrize("scores_at_a_time", [1, 2 * QUERIES * KEYS, 3 * QUERIES * KEYS, 8 * QUERIES * KEYS, 2**19])
def test_with_dropout_values_and_gradients_are_those_of_the_formula_however_the_heads_are_cut(
    monkeypatch: pytest.MonkeyPatch, kind: str, scores_at_a_time: int
) -> None:
    monkeypatch.setattr(attention, "SCORES_AT_A_TIME", scores_at_a_time)
    inputs, mask = make_inputs(), make_mask(kind)

    torch.manual_seed(3)
    outputs = streaming_attention(*inputs, mask, 0.4, None)
    torch.rand(5)  # other layers draw before backward comes
    ours = values_and_gradients(outputs, inputs)
    torch.manual_seed(3)
    plain = values_and_gradients(plain_with_the_same_mask(inputs, mask, 0.4), inputs)

    for actual, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_gradcheck_passes_with_dropout() -> None:
    state = torch.get_rng_state()

    def attend(*tensors: Tensor) -> Tensor:
        torch.set_rng_state(state)
        return streaming_attention(*tensors, make_mask("boolean"), 0.3, None)

    assert torch.autograd.gradcheck(attend, make_inputs())


def test_backward_leaves_the_generator_where_it_was() -> None:
    inputs = make_inputs()
    outputs = streaming_attention(*inputs, None, 0.3, None)
    before = torch.get_rng_state()

    outputs.sum().backward()

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_a_query_with_nothing_to_attend_to_is_finite_and_so_are_all_gradients(kind: str) -> None:
    inputs = make_inputs()
    mask = torch.ones(TEXTS, 1, 1, KEYS, dtype=torch.bool)
    mask[1] = False
    chosen = mask if kind == "boolean" else torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)

    made = values_and_gradients(streaming_attention(*inputs, chosen, 0.3, None), inputs)

    assert all(bool(tensor.isfinite().all()) for tensor in made)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_low_precision_the_error_is_no_larger_than_that_of_torch(dtype: torch.dtype) -> None:
    exact_inputs, inputs = make_inputs(), make_inputs(dtype=dtype)
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    exact = values_and_gradients(F.scaled_dot_product_attention(*exact_inputs), exact_inputs)

    ours, eager = (
        sum(
            float((low.double() - high).norm() / high.norm())
            for low, high in zip(values_and_gradients(outputs, inputs), exact, strict=True)
        )
        for outputs in (
            streaming_attention(*inputs, None, NEGLIGIBLE, None),
            F.scaled_dot_product_attention(*inputs, dropout_p=NEGLIGIBLE),
        )
    )

    assert 0 < ours <= 1.02 * eager  # the sum over values is split in parts, so single roundings may differ


class CallCount:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        monkeypatch.setattr("splade_bench.model.lean.streaming_attention", self)

    def __call__(self, *args: Tensor) -> Tensor:
        self.calls += 1
        return streaming_attention(*args)  # type: ignore[arg-type]


def test_calls_of_a_kind_that_streaming_attention_is_not_for_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = CallCount(monkeypatch)
    query, key, value = make_inputs()
    trained_bias = torch.zeros(QUERIES, KEYS, dtype=torch.float64, requires_grad=True)
    attend = F.scaled_dot_product_attention
    with lean_operators(MemoryConfig()):
        attend(query, key, value)
        attend(query, key, value, dropout_p=0.3, is_causal=True)
        attend(query[0], key[0], value[0], dropout_p=0.3)
        (biased,) = torch.autograd.grad(attend(query, key, value, trained_bias, 0.3).square().sum(), trained_bias)
        everything_dropped = attend(query, key, value, dropout_p=1.0)
    with lean_operators(MemoryConfig(attention_dropout=False)):
        attend(query, key, value, dropout_p=0.3)
    assert counter.calls == 0
    assert torch.count_nonzero(biased) > 0
    assert torch.count_nonzero(everything_dropped) == 0

    with lean_operators(MemoryConfig()):
        attend(query, key, value, dropout_p=0.3)
    assert counter.calls == 1

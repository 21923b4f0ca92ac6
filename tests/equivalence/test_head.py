"""The streaming head against its definition: values and every gradient."""

from __future__ import annotations

import pytest
import torch
from heads import Head, make_inputs, relative_difference, run_head, upstream_of

from splade_bench.config import ActivationName
from splade_bench.model.activations import ACTIVATIONS
from splade_bench.model.head import pool, splade_max, splade_max_eager
from splade_bench.model.row_sums import sum_rows_by_bag, sum_rows_by_index_add


@pytest.mark.parametrize("padding", ["none", "right", "left", "scattered", "one text empty"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("keep_winners", [True, False])
@pytest.mark.parametrize("shape", [(3, 7, 5, 129), (1, 1, 4, 8), (5, 33, 16, 257)])
def test_streaming_head_equals_its_definition_in_fp64(
    padding: str, bias: bool, keep_winners: bool, shape: tuple[int, int, int, int]
) -> None:
    inputs = make_inputs(*shape, padding=padding, bias=bias, dtype=torch.float64)

    expected = run_head(splade_max_eager, inputs)
    actual = run_head(splade_max, inputs, vocab_tile=64, keep_winners=keep_winners)

    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-9


@pytest.mark.parametrize("padding", ["none", "right", "scattered"])
def test_streaming_head_equals_its_definition_in_fp32(padding: str) -> None:
    inputs = make_inputs(4, 32, 24, 1000, padding=padding, bias=True, dtype=torch.float32)

    expected = run_head(splade_max_eager, inputs)
    actual = run_head(splade_max, inputs)

    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_streaming_head_equals_its_definition_at_the_size_of_bert_tiny(dtype: torch.dtype, tolerance: float) -> None:
    inputs = make_inputs(4, 128, 128, 30522, padding="right", bias=True, dtype=dtype)
    # Few entries active, as in a SPLADE model.
    assert inputs[2] is not None
    inputs = (*inputs[:2], inputs[2] - 25, inputs[3])

    expected = run_head(splade_max_eager, inputs)
    actual = run_head(splade_max, inputs)

    assert 0 < torch.count_nonzero(expected[0]) < 0.3 * expected[0].numel()
    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= tolerance


def test_texts_beyond_one_tile_of_tokens_are_all_searched() -> None:
    # 5 texts of 300 tokens, three in a tile of 1024 tokens and two in the last; and a last tile of 2 entries.
    inputs = make_inputs(5, 300, 8, 130, padding="right", bias=True, dtype=torch.float64)

    expected = run_head(splade_max_eager, inputs)
    actual = run_head(splade_max, inputs, vocab_tile=64)

    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("keep_winners", [True, False])
def test_weights_in_low_precision_get_gradients_in_it(dtype: torch.dtype, keep_winners: bool) -> None:
    inputs = make_inputs(3, 9, 8, 40, padding="right", bias=True, dtype=dtype)
    wide = tuple(None if tensor is None else tensor.double() for tensor in inputs[:3])

    expected = run_head(splade_max_eager, (*wide, inputs[3]))  # type: ignore[arg-type]
    actual = run_head(splade_max, inputs, keep_winners=keep_winners)

    assert [tensor.dtype for tensor in actual] == [torch.float32, dtype, dtype, dtype]
    for ours, exact in zip(actual, expected, strict=True):
        assert float((ours.double() - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("padding", ["none", "right", "left", "scattered", "one text empty"])
@pytest.mark.parametrize("keep_winners", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_in_place_are_added_to_those_that_are_there_after_two_passes(
    padding: str, keep_winners: bool, bias: bool
) -> None:
    inputs = make_inputs(4, 7, 6, 300, padding=padding, bias=bias, dtype=torch.float64)
    expected = run_head(splade_max_eager, inputs)
    hidden, weight, offset, _ = inputs
    parameters = [weight] if offset is None else [weight, offset]
    addresses = []
    for tensor in (hidden, *parameters):
        tensor.requires_grad_().grad = torch.ones_like(tensor)
        addresses.append(tensor.grad.data_ptr())  # type: ignore[union-attr]

    pooled = pool(*inputs, keep_winners=keep_winners, vocab_tile=64)
    reps = splade_max(*inputs, pooled=pooled, in_place_gradients=True)
    reps.backward(upstream_of(reps))

    assert relative_difference(reps.detach(), expected[0]) <= 1e-12
    for tensor, address, plain in zip((hidden, *parameters), addresses, expected[1:], strict=True):
        assert tensor.grad is not None
        assert tensor.grad.data_ptr() == address
        assert relative_difference(tensor.grad - 1, plain) <= 1e-9


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck_passes(activation: ActivationName) -> None:
    hidden, weight, bias, mask = make_inputs(2, 4, 3, 9, padding="right", bias=True, dtype=torch.float64)
    assert bias is not None
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]

    assert torch.autograd.gradcheck(
        lambda *parts: splade_max(*parts, mask, vocab_tile=4, activation=activation), leaves
    )


@pytest.mark.parametrize("keep_winners", [True, False])
def test_the_double_logarithm_has_its_values_and_gradients(keep_winners: bool) -> None:
    inputs = make_inputs(3, 7, 5, 129, padding="right", bias=True, dtype=torch.float64)

    expected = run_head(splade_max_eager, inputs, activation="double-log1p")
    actual = run_head(splade_max, inputs, vocab_tile=64, keep_winners=keep_winners, activation="double-log1p")

    torch.testing.assert_close(expected[0], torch.log1p(run_head(splade_max_eager, inputs)[0]))
    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-9


def test_a_text_without_tokens_gives_zeros_and_no_gradient() -> None:
    inputs = make_inputs(3, 6, 5, 40, padding="one text empty", bias=True, dtype=torch.float64)

    reps, grad_hidden, *_ = run_head(splade_max, inputs)

    assert torch.count_nonzero(reps[0]) == 0
    assert torch.count_nonzero(grad_hidden[0]) == 0
    assert torch.count_nonzero(reps[1:]) > 0


def test_a_tied_weight_gets_the_sum_of_both_its_gradients() -> None:
    _, weight, bias, mask = make_inputs(2, 5, 6, 30, padding="none", bias=True, dtype=torch.float64)
    token_ids = torch.randint(0, 30, (2, 5), generator=torch.Generator().manual_seed(1))
    gradients = []
    for head in (splade_max, splade_max_eager):
        table = weight.clone().requires_grad_()
        head(torch.nn.functional.embedding(token_ids, table), table, bias, mask).square().sum().backward()
        assert table.grad is not None
        gradients.append(table.grad)

    assert relative_difference(*gradients) <= 1e-9


@pytest.mark.parametrize("sum_rows", [sum_rows_by_bag, sum_rows_by_index_add])
@pytest.mark.parametrize("entries", [0, 50])
def test_both_ways_to_sum_rows_give_the_plain_sum(sum_rows: Head, entries: int) -> None:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(11, 4, generator=generator, dtype=torch.float64)
    index, into = (torch.randint(0, rows, (entries,), generator=generator) for rows in (11, 7))
    values = torch.randn(entries, generator=generator, dtype=torch.float64)

    expected = torch.zeros(7, 4, dtype=torch.float64).index_add_(0, into, table[index] * values[:, None])

    torch.testing.assert_close(sum_rows(table, index, values, into=into, rows=7), expected)

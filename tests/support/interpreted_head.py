"""The triton head against the plain path, in Triton's interpreter: ``tests/model/test_triton_head.py`` runs this file.

The interpreter must be chosen before triton is imported, so these tests have a process of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from accelerator import heads
from equality import gradients_of, make_config, relative_error
from heads import make_inputs, relative_difference, run_head, upstream_of
from torch import Tensor

from splade_bench.batching.sources import SyntheticBatches
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model import triton_head
from splade_bench.model.head import _search, pool, splade_max, splade_max_eager
from splade_bench.model.presets import build_preset
from splade_bench.model.triton_head import fused_max, gradients_by_segments
from splade_bench.training.gradcache import gradcache_step
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.step import StepContext, direct_step

# Texts, tokens, hidden size, vocabulary: below, at and above the sizes of tiles.
SHAPES = [(2, 1, 16, 1), (3, 7, 20, 129), (1, 33, 48, 300), (2, 129, 20, 129), (3, 64, 32, 64)]
PADDINGS = ["none", "right", "left", "scattered", "one text empty"]
DTYPES = [torch.float32, torch.float16]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def exact_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor) -> Tensor:
    """In float64 [B, V, L], minus infinity for masked tokens; of a text without tokens, the first one is not masked."""
    logits = torch.einsum("blh,vh->bvl", hidden.double(), weight.double())
    used = mask.bool().clone()
    used[:, 0] |= ~used.any(1)
    logits = logits.masked_fill(~used[:, None], -torch.inf)
    return logits if bias is None else logits + bias.double()[:, None]


def check_maxima(inputs: tuple[Tensor, Tensor, Tensor | None, Tensor]) -> None:
    max_logits, winners = fused_max(*inputs, compute_dtype=inputs[0].dtype)

    logits = exact_logits(*inputs)
    assert (max_logits.dtype, winners.dtype) == (torch.float32, torch.int32)
    assert relative_difference(max_logits, logits.amax(2)) <= 1e-5
    # Rounding may decide between tokens that nearly tie.
    at_winners = logits.gather(2, winners.long()[:, :, None])[:, :, 0]
    assert relative_difference(at_winners, logits.amax(2)) <= 1e-5


@by_dtype
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_maxima_and_winners(shape: tuple[int, int, int, int], padding: str, dtype: torch.dtype) -> None:
    check_maxima(make_inputs(*shape, padding=padding, bias=shape[0] != 2, dtype=dtype))


@pytest.mark.parametrize("padding", PADDINGS)
def test_maxima_and_winners_are_those_of_the_plain_path(padding: str) -> None:
    inputs = make_inputs(3, 37, 20, 300, padding=padding, bias=True, dtype=torch.float32)

    expected, expected_winners = _search(*inputs, True, None)
    actual, winners = fused_max(*inputs, compute_dtype=torch.float32)

    assert relative_difference(actual, expected) <= 1e-6
    assert expected_winners is not None
    assert torch.equal(winners, expected_winners)


@pytest.mark.parametrize("tokens_in_group", [1, 14, 30])
def test_maxima_of_texts_in_groups(tokens_in_group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_head, "_TOKENS_IN_GROUP", tokens_in_group)

    check_maxima(make_inputs(5, 7, 16, 200, padding="scattered", bias=True, dtype=torch.float32))


@by_dtype
def test_inputs_may_have_gaps_and_another_order_of_dimensions(dtype: torch.dtype) -> None:
    hidden, weight, bias, mask = make_inputs(2, 21, 24, 130, padding="scattered", bias=True, dtype=dtype)
    assert bias is not None
    spread = torch.empty(21, 2, 48, dtype=dtype)[:, :, ::2].transpose(0, 1).copy_(hidden)
    turned = weight.t().contiguous().t()
    every_second = torch.stack([bias, bias + 1], 1)[:, 0]
    inputs = spread, turned, every_second, mask.t().contiguous().t().bool()

    check_maxima(inputs)

    assert not any(part.is_contiguous() for part in inputs)
    for ours, plain in zip(
        fused_max(*inputs, compute_dtype=dtype), fused_max(hidden, weight, bias, mask, compute_dtype=dtype), strict=True
    ):
        assert torch.equal(ours, plain)


@by_dtype
@pytest.mark.parametrize("length", [5, 150])
def test_of_tied_tokens_the_first_wins(length: int, dtype: torch.dtype) -> None:
    """Small integers: products and sums are exact."""
    torch.manual_seed(0)
    hidden = torch.randint(-2, 3, (3, length, 16)).to(dtype)
    weight = torch.randint(-1, 2, (140, 16)).to(dtype)
    mask = torch.ones(3, length, dtype=torch.int64)
    mask[0, :3] = 0
    hidden[1] = hidden[1, :1]
    hidden[2, length // 2 :] = hidden[2, : length - length // 2].clone()

    _, winners = fused_max(hidden, weight, None, mask, compute_dtype=dtype)

    logits = exact_logits(hidden, weight, None, mask)
    is_largest = logits == logits.amax(2, keepdim=True)
    first = torch.where(is_largest, torch.arange(length), length).amin(2)
    assert (is_largest.sum(2) > 1).float().mean() > 0.5
    assert torch.equal(winners.long(), first)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_nan_of_an_unmasked_token_is_the_maximum(sign: float) -> None:
    hidden, weight, bias, mask = make_inputs(3, 9, 16, 70, padding="none", bias=True, dtype=torch.float32)
    nan = torch.tensor(torch.nan).copysign(torch.tensor(sign))
    hidden[0, 4] = nan
    hidden[1, 4] = nan
    mask[1, 4] = 0

    max_logits, winners = fused_max(hidden, weight, bias, mask, compute_dtype=torch.float32)

    assert max_logits[0].isnan().all()
    assert (winners[0] == 4).all()
    assert max_logits[1:].isfinite().all()


def exact_gradients(grad_logits: Tensor, hidden: Tensor, weight: Tensor, winners: Tensor) -> tuple[Tensor, Tensor]:
    """Of hidden states [B * L, H] and of the weight [V, H], in float64."""
    texts, length, hidden_size = hidden.shape
    values = grad_logits.double().flatten()[:, None]
    tokens = (winners.long() + torch.arange(texts)[:, None] * length).flatten()
    entries = torch.arange(len(weight)).repeat(texts)
    flat_hidden = hidden.double().reshape(-1, hidden_size)
    grad_hidden = torch.zeros_like(flat_hidden).index_add_(0, tokens, values * weight.double()[entries])
    grad_weight = torch.zeros_like(weight.double()).index_add_(0, entries, values * flat_hidden[tokens])
    return grad_hidden, grad_weight


def check_gradients(grad_logits: Tensor, hidden: Tensor, weight: Tensor, winners: Tensor) -> None:
    before = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(weight.dtype)
    target = before.clone()

    grad_hidden = gradients_by_segments(grad_logits, hidden, weight, winners, target)

    expected_hidden, expected_weight = exact_gradients(grad_logits, hidden, weight, winners)
    assert grad_hidden.dtype == torch.float32
    assert relative_difference(grad_hidden, expected_hidden) <= 1e-5
    rounding = torch.finfo(weight.dtype).eps
    assert relative_difference(target.double(), before.double() + expected_weight) <= 10 * rounding


def random_gradients(texts: int, length: int, vocab_size: int, *, active: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(texts, vocab_size, generator=generator)
    is_active = torch.rand(texts, vocab_size, generator=generator) < active
    winners = torch.randint(0, length, (texts, vocab_size), generator=generator, dtype=torch.int32)
    return torch.where(is_active, values, 0.0), winners


@by_dtype
@pytest.mark.parametrize("active", [1.0, 0.1, 0.0])
@pytest.mark.parametrize("shape", [(2, 1, 16, 1), (3, 7, 20, 129), (2, 17, 48, 260)])
def test_gradients(shape: tuple[int, int, int, int], active: float, dtype: torch.dtype) -> None:
    texts, length, hidden_size, vocab_size = shape
    grad_logits, winners = random_gradients(texts, length, vocab_size, active=active)
    hidden, weight, _, _ = make_inputs(texts, length, hidden_size, vocab_size, padding="none", bias=False, dtype=dtype)

    check_gradients(grad_logits, hidden, weight, winners)


def test_gradients_of_texts_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_head, "_ENTRIES_AT_A_TIME", 300)
    grad_logits, winners = random_gradients(5, 9, 140, active=0.8)
    hidden, weight, _, _ = make_inputs(5, 9, 20, 140, padding="none", bias=False, dtype=torch.float32)

    check_gradients(grad_logits, hidden, weight, winners)
    at_once = gradients_by_segments(grad_logits[:1], hidden[:1], weight, winners[:1], None)
    assert torch.equal(gradients_by_segments(grad_logits, hidden, weight, winners, None)[:9], at_once)


def test_gradients_of_inputs_with_gaps() -> None:
    grad_logits, winners = random_gradients(2, 9, 140, active=0.8)
    hidden, weight, _, _ = make_inputs(2, 9, 20, 140, padding="none", bias=False, dtype=torch.float32)
    spread = torch.empty(9, 2, 40)[:, :, ::2].transpose(0, 1).copy_(hidden)
    turned = weight.t().contiguous().t()
    target, turned_target = torch.zeros_like(weight), torch.zeros(20, 140).t()

    expected = gradients_by_segments(grad_logits, hidden, weight, winners, target)
    actual = gradients_by_segments(
        grad_logits.t().contiguous().t(), spread, turned, winners.t().contiguous().t(), turned_target
    )

    assert torch.equal(actual, expected)
    assert torch.equal(turned_target, target)
    assert relative_difference(target, exact_gradients(grad_logits, hidden, weight, winners)[1]) <= 1e-5


@pytest.mark.parametrize("missing", [0, 5])
@pytest.mark.parametrize("terms", [(0, 1, 15, 16, 17, 31, 32, 33), (0, 0, 500, 0, 0, 0, 0, 0)])
def test_tokens_with_more_terms_than_a_chunk(
    terms: Sequence[int], missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly a chunk, one more, one less, many; of every entry, or with entries that have no gradient."""
    monkeypatch.setattr(triton_head, "_CHUNK", 16)
    vocab_size = sum(terms)
    winners = torch.repeat_interleave(torch.arange(8), torch.tensor(terms)).to(torch.int32).expand(2, -1).clone()
    winners[1] = winners[1].flip(0)
    grad_logits = torch.randn(2, vocab_size, generator=torch.Generator().manual_seed(0))
    if missing:
        grad_logits[:, ::missing] = 0.0
    hidden, weight, _, _ = make_inputs(2, 8, 16, vocab_size, padding="none", bias=False, dtype=torch.float32)

    check_gradients(grad_logits, hidden, weight, winners)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_head_equals_its_definition(padding: str, bias: bool) -> None:
    inputs = make_inputs(3, 17, 20, 140, padding=padding, bias=bias, dtype=torch.float32)

    expected, actual = run_head(splade_max_eager, inputs), run_head(splade_max, inputs, fused=True)

    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-5


def test_gradients_in_place_are_added_to_those_that_are_there() -> None:
    inputs = make_inputs(3, 7, 20, 140, padding="scattered", bias=True, dtype=torch.float32)
    expected = run_head(splade_max_eager, inputs)
    leaves = [tensor for tensor in inputs[:3] if tensor is not None]
    for tensor in leaves:
        tensor.requires_grad_().grad = torch.ones_like(tensor)

    reps = splade_max(*inputs, pooled=pool(*inputs, fused=True), fused=True, in_place_gradients=True)
    reps.backward(upstream_of(reps))

    for tensor, plain in zip(leaves, expected[1:], strict=True):
        assert tensor.grad is not None
        assert relative_difference(tensor.grad - 1, plain) <= 1e-5


def test_the_error_under_autocast_is_no_larger_than_that_of_the_plain_path() -> None:
    hidden, weight, bias, mask = make_inputs(3, 24, 16, 300, padding="right", bias=True, dtype=torch.float32)
    inputs = hidden.half().float(), weight.half().float(), bias, mask
    exact = run_head(splade_max_eager, tuple(part.double() if part.is_floating_point() else part for part in inputs))
    errors = {}
    for fused in (True, False):
        with torch.autocast("cpu", torch.float16):
            errors[fused] = [
                float((ours - plain).norm() / plain.norm())
                for ours, plain in zip(run_head(splade_max, inputs, fused=fused), exact, strict=True)
            ]

    for ours, plain in zip(errors[True], errors[False], strict=True):
        assert ours <= 1.05 * plain + 1e-6


def test_the_accelerator_suite_measures_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "has_triton_head", lambda device: True)
    monkeypatch.setattr(heads, "SHRUNK", (heads.Shape(2, 5, 16, 40),))

    forward = heads.head_forward("cpu", shrunk=True)["rows"]
    backward = heads.head_backward("cpu", shrunk=True)["rows"]

    assert [row["time_s"] > 0 for row in forward if row["tile"] == "--head triton"] == [True]
    assert [row["time_s"] > 0 for row in backward if row["way"] == "--head triton"] == [True] * 6


@pytest.mark.parametrize("gradient_caching", [True, False])
def test_a_training_step_has_the_gradients_of_the_streaming_head(
    gradient_caching: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splade_bench.model.encoder.require_triton", lambda device: None)
    config = make_config(batch_size=3, max_length=12)
    encoder = build_preset("toy", train_tokenizer((), vocab_size=512), seed=0).train()
    batches = SyntheticBatches(
        batch_size=3, max_length=12, vocab_size=512, negatives_per_query=1, batches_per_epoch=1, seed=0, lengths="real"
    )
    (batch,) = batches.batches(epoch=0)
    memory = MemoryConfig(gradient_caching=gradient_caching, mini_batch_tokens=30 if gradient_caching else None)
    step = gradcache_step if gradient_caching else direct_step
    gradients = []
    for head in ("streaming", "triton"):
        encoder.configure(replace(memory, head=head))
        torch.manual_seed(0)
        step(encoder, batch, SpladeLoss(config), StepContext())
        gradients.append(gradients_of(encoder))
        encoder.zero_grad(set_to_none=True)

    assert relative_error(*gradients) <= 1e-5

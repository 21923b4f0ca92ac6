"""The streaming head on a device equals its definition, and never holds the logits; on CUDA so does the triton head."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from equality import relative_error
from on_device import DEVICE, NEEDS_FP64, ON_ACCELERATOR, ON_CUDA
from torch import Tensor

from splade_bench.model.head import splade_max, splade_max_eager

pytestmark = ON_ACCELERATOR
MIB = 2**20
WAYS = [
    pytest.param({"keep_winners": True}, id="winners kept"),
    pytest.param({"keep_winners": False}, id="winners found late"),
    pytest.param({"fused": True}, id="triton", marks=ON_CUDA),
]
SHAPES = {
    # texts, length, hidden, vocabulary
    "one": (1, 1, 4, 8),
    "odd": (5, 33, 16, 257),
    "several tiles": (7, 300, 24, 2500),
    "longer than a tile of tokens": (2, 1100, 8, 1030),
    "BERT-tiny": (4, 128, 128, 30522),
    "one long": (1, 512, 64, 5000),
    "many short": (600, 3, 32, 1500),
}


def head_inputs(
    shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype, *, padding: str, bias: float | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    texts, length, hidden_size, vocab_size = shape
    generator = torch.Generator().manual_seed(texts * 1000 + length)
    hidden = torch.randn(texts, length, hidden_size, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab_size, hidden_size, generator=generator, dtype=torch.float64)
    offset = None if bias is None else torch.randn(vocab_size, generator=generator, dtype=torch.float64) + bias
    ends = torch.arange(1, texts + 1).clamp(max=length)[:, None]
    mask = {
        "none": torch.ones(texts, length, dtype=torch.int64),
        "right": (torch.arange(length) < ends).long(),
        "left": (torch.arange(length) >= length - ends).long(),
        "scattered": torch.randint(0, 2, (texts, length), generator=generator),
        "one text empty": torch.cat([torch.zeros(1, length), torch.ones(texts - 1, length)]).long(),
    }[padding]
    made = [tensor.to(dtype).to(device) for tensor in (hidden, weight)]
    return made[0], made[1], None if offset is None else offset.to(dtype).to(device), mask.to(device)


def run_head(head: Any, inputs: tuple[Tensor, Tensor, Tensor | None, Tensor], **options: Any) -> list[Tensor]:
    hidden, weight, bias, mask = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias) if tensor is not None]
    reps = head(*leaves[:2], leaves[2] if bias is not None else None, mask, **options)
    upstream = torch.randn(reps.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return [reps.detach(), *torch.autograd.grad(reps, leaves, upstream.to(reps.dtype).to(reps.device))]


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((actual - expected).abs().max() / scale)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("keep_winners", [True, False])
@pytest.mark.parametrize("padding", ["none", "right", "left", "scattered", "one text empty"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(torch.float64, 1e-9, marks=NEEDS_FP64), (torch.float32, 2e-5)], ids=str
)
def test_the_streaming_head_equals_its_definition(
    shape: tuple[int, int, int, int],
    device: torch.device,
    padding: str,
    keep_winners: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    bias = -1.0 if dtype == torch.float64 else None
    inputs = head_inputs(shape, device, dtype, padding=padding, bias=bias)
    on_host = tuple(None if part is None else part.cpu() for part in inputs)
    texts, length, _, vocab_size = shape
    # The definition on the CPU, but for a shape that would take seconds there.
    small = texts * length * vocab_size < 10**6 and dtype == torch.float64
    expected = run_head(splade_max_eager, on_host if small else inputs)  # type: ignore[arg-type]

    actual = run_head(splade_max, inputs, keep_winners=keep_winners)

    assert relative_difference(actual[0].to(expected[0].device), expected[0]) <= tolerance
    for ours, plain in zip(actual[1:], expected[1:], strict=True):
        if dtype == torch.float64:
            assert relative_difference(ours.to(plain.device), plain) <= tolerance
        else:  # among so many entries the products' rounding alone may decide which of two tokens wins one
            assert float((ours - plain).norm()) <= 0.02 * float(plain.norm())


@ON_CUDA
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("padding", ["none", "right", "left", "scattered", "one text empty"])
@pytest.mark.parametrize("bias", [-1000.0, -1.0, 1000.0, None])
def test_the_triton_head_equals_the_streaming_one(
    shape: tuple[int, int, int, int], device: torch.device, padding: str, bias: float | None
) -> None:
    inputs = head_inputs(shape, device, torch.float32, padding=padding, bias=bias)

    expected, actual = run_head(splade_max, inputs), run_head(splade_max, inputs, fused=True)

    assert relative_difference(actual[0], expected[0]) <= 2e-5
    for ours, plain in zip(actual[1:], expected[1:], strict=True):  # rounding may decide which token wins an entry
        assert float((ours - plain).norm()) <= 0.02 * float(plain.norm())
    for ours, again in zip(actual, run_head(splade_max, inputs, fused=True), strict=True):
        assert torch.equal(ours, again)


@pytest.mark.parametrize("keep_winners", [True, False])
@pytest.mark.parametrize("bias", [-1000.0, 1000.0], ids=["none active", "all active"])
@NEEDS_FP64
def test_the_head_where_no_entry_or_every_entry_is_active(
    device: torch.device, bias: float, keep_winners: bool
) -> None:
    inputs = head_inputs((5, 33, 16, 2500), device, torch.float64, padding="right", bias=bias)
    expected = run_head(splade_max_eager, inputs)

    actual = run_head(splade_max, inputs, keep_winners=keep_winners)

    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_weights_in_low_precision_get_gradients_in_it(
    device: torch.device, dtype: torch.dtype, way: dict[str, bool]
) -> None:
    inputs = head_inputs((3, 9, 8, 40), device, dtype, padding="right", bias=0.0)
    wide = tuple(None if tensor is None else tensor.float() for tensor in inputs)
    expected = run_head(splade_max_eager, wide)  # type: ignore[arg-type]

    actual = run_head(splade_max, inputs, **way)

    assert [tensor.dtype for tensor in actual] == [torch.float32, dtype, dtype, dtype]
    for ours, exact in zip(actual, expected, strict=True):
        assert float((ours.float() - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=str)
@NEEDS_FP64
def test_the_heads_error_under_autocast_is_no_larger_than_eagers(
    device: torch.device, precision: torch.dtype, way: dict[str, bool]
) -> None:
    errors = {"ours": 0.0, "eager": 0.0}
    for seed in range(6):
        torch.manual_seed(seed)
        made = [torch.randn(sizes).bfloat16() for sizes in ((3, 24, 16), (400, 16))]
        mask = (torch.arange(24) < torch.tensor([24, 9, 3])[:, None]).long().to(device)

        def results(
            head: Any,
            dtype: torch.dtype,
            autocast: bool,
            made: list[Tensor] = made,
            mask: Tensor = mask,
            **options: Any,
        ) -> dict[str, Tensor]:
            inputs = (*(part.to(dtype).to(device) for part in made), torch.zeros(400, dtype=dtype, device=device), mask)
            with torch.autocast(DEVICE, precision) if autocast else nullcontext():
                return dict(zip(("reps", "hidden", "weight", "bias"), run_head(head, inputs, **options), strict=True))

        exact = results(splade_max_eager, torch.float64, False)
        errors["ours"] += relative_error(results(splade_max, torch.float32, True, **way), exact)
        errors["eager"] += relative_error(results(splade_max_eager, torch.float32, True), exact)

    # The triton head does not round its logits, so here it has next to no error.
    assert errors["ours"] > (0 if way.get("fused") else 1e-6)
    assert errors["ours"] <= 1.05 * errors["eager"]


@ON_CUDA
@pytest.mark.parametrize("way", WAYS)
def test_the_streaming_head_never_holds_the_logits(
    device: torch.device, way: dict[str, bool], record_property: Any
) -> None:
    hidden, weight, bias, mask = head_inputs((16, 128, 128, 30522), device, torch.float32, padding="none", bias=-25.0)
    assert bias is not None
    for leaf in (hidden, weight, bias):
        leaf.requires_grad_()
    splade_max(hidden[:1, :4], weight, bias, mask[:1, :4], **way).sum().backward()
    hidden.grad = weight.grad = bias.grad = None
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()

    reps = splade_max(hidden, weight, bias, mask, **way)
    forward = torch.cuda.max_memory_allocated() - before
    reps.sum().backward()

    record_property("forward_mib", forward / MIB)
    record_property("peak_mib", (torch.cuda.max_memory_allocated() - before) / MIB)
    record_property("active_share", float((reps > 0).float().mean()))
    assert torch.cuda.max_memory_allocated() - before < 16 * 128 * 30522 * 4 / 3

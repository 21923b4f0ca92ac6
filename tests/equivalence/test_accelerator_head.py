"""The head as an accelerator computes it, on the CPU: the values and gradients of its definition, without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from heads import make_inputs, relative_difference, run_head, upstream_of
from torch import Tensor
from waiting import Waits

from splade_bench.device.settings import SETTINGS
from splade_bench.model import winner_gradients
from splade_bench.model.head import _tile_shape, pool, splade_max, splade_max_eager


@contextmanager
def reading_forbidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside the block, no tensor may become a number."""
    with monkeypatch.context() as patch, Waits() as waits:
        for method in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__"):
            patch.setattr(Tensor, method, lambda *_, method=method: pytest.fail(f"the step reads a tensor: {method}"))
        yield
    assert waits.found == []


@pytest.fixture(params=["cuda", "mps"])
def accelerator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CPU takes the paths of an accelerator, with small pieces."""
    settings = replace(SETTINGS[request.param], tile_tokens=16, tile_entries=64, tile_bytes=2**11)
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": settings})
    monkeypatch.setattr(winner_gradients, "_ENTRIES_AT_A_TIME", 300)
    monkeypatch.setattr(winner_gradients, "_GRADIENT_ROWS_AT_A_TIME", 100)
    return str(request.param)


@pytest.mark.parametrize("padding", ["none", "right", "left", "scattered", "one text empty"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7, 5, 129), (1, 1, 4, 8), (5, 33, 16, 257), (9, 2, 3, 300)])
def test_the_head_equals_its_definition_in_fp64(
    padding: str, bias: bool, shape: tuple[int, int, int, int], accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs(*shape, padding=padding, bias=bias, dtype=torch.float64)

    expected = run_head(splade_max_eager, inputs)
    with reading_forbidden(monkeypatch):
        actual = run_head(splade_max, inputs)

    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-9


def test_the_double_logarithm_has_its_values_and_gradients(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(5, 33, 16, 257, padding="right", bias=True, dtype=torch.float64)

    expected = run_head(splade_max_eager, inputs, activation="double-log1p")
    with reading_forbidden(monkeypatch):
        actual = run_head(splade_max, inputs, activation="double-log1p")

    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-9


def test_inputs_may_have_gaps_between_their_rows(accelerator: str) -> None:
    hidden, weight, bias, mask = make_inputs(4, 9, 6, 130, padding="right", bias=True, dtype=torch.float64)
    spread = torch.empty(4, 9, 12, dtype=torch.float64)[:, :, ::2].copy_(hidden)
    turned = weight.t().contiguous().t()

    expected = run_head(splade_max_eager, (hidden, weight, bias, mask))
    actual = run_head(splade_max, (spread, turned, bias, mask))

    assert not spread.is_contiguous() and not turned.is_contiguous()
    for ours, plain in zip(actual, expected, strict=True):
        assert relative_difference(ours, plain) <= 1e-9


def test_gradients_in_place_are_added_to_those_that_are_there(accelerator: str) -> None:
    inputs = make_inputs(4, 7, 6, 300, padding="scattered", bias=True, dtype=torch.float64)
    expected = run_head(splade_max_eager, inputs)
    leaves = [tensor for tensor in inputs[:3] if tensor is not None]
    for tensor in leaves:
        tensor.requires_grad_().grad = torch.ones_like(tensor)

    reps = splade_max(*inputs, pooled=pool(*inputs, keep_winners=True), in_place_gradients=True)
    reps.backward(upstream_of(reps))

    for tensor, plain in zip(leaves, expected[1:], strict=True):
        assert tensor.grad is not None
        assert relative_difference(tensor.grad - 1, plain) <= 1e-9


def test_a_frozen_decoder_gets_no_gradient(accelerator: str) -> None:
    hidden, weight, bias, mask = make_inputs(3, 5, 4, 90, padding="right", bias=True, dtype=torch.float64)
    expected = run_head(splade_max_eager, (hidden, weight, bias, mask))[1]

    reps = splade_max(hidden.requires_grad_(), weight, bias, mask)
    reps.backward(upstream_of(reps))

    assert hidden.grad is not None
    assert relative_difference(hidden.grad, expected) <= 1e-9
    assert weight.grad is None


def test_one_text_that_wins_every_entry_is_summed_right(accelerator: str) -> None:
    hidden, weight, bias, mask = make_inputs(2, 6, 4, 500, padding="none", bias=True, dtype=torch.float64)
    hidden[0] = hidden[0, :1]  # all tokens tie: one of them takes each entry
    hidden[1, 3] *= 1000

    expected, actual = (run_head(head, (hidden, weight, bias, mask)) for head in (splade_max_eager, splade_max))

    assert relative_difference(actual[1].sum(1), expected[1].sum(1)) <= 1e-9, "of tied tokens, only the sum is given"
    for ours, plain in zip((actual[0], *actual[2:]), (expected[0], *expected[2:]), strict=True):
        assert relative_difference(ours, plain) <= 1e-9


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_tiles_are_equal_slices_within_their_bytes(name: str) -> None:
    settings = SETTINGS[name]
    for dtype in (torch.float32, torch.bfloat16):
        for texts, length in ((1, 16), (8, 128), (96, 256), (320, 512)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": settings})
                in_tile, entries = _tile_shape(texts, length, 30522, torch.empty(0, dtype=dtype))
            tile_bytes = in_tile * length * entries * dtype.itemsize
            assert tile_bytes <= settings.tile_bytes * 1.2
            assert entries % 256 == 0
            last = 30522 % entries or entries
            assert last >= 0.5 * entries, "the last slice is not a sliver"

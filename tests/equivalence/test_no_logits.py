"""What the streaming head must not make: anything of the size of one text's logits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from splade_bench.model.head import pool, splade_max, splade_max_eager

# A tile of logits has 2^20 elements whatever the sizes: L * V is larger here, and B * V smaller. The weight's gradient,
# H * V, is larger too, so that it would be caught where there is to be none.
LENGTH, HIDDEN_SIZE, VOCAB_SIZE = 48, 64, 30522
Head = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class LargeTensors(TorchDispatchMode):
    """Remembers the shape of each tensor of at least ``elements`` that an operator made, whatever its shape.

    Counts what the memory behind a tensor holds, so a view does not hide it; memory that was there before is not
    made.
    """

    def __init__(self, elements: int, there_before: list[Tensor]) -> None:
        super().__init__()
        self.elements = elements
        self.shapes: list[tuple[int, ...]] = []
        self._known = {tensor.untyped_storage().data_ptr() for tensor in there_before}
        self._alive: list[Tensor] = []  # so that no address comes twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(returned):
            if isinstance(leaf, Tensor):
                self._remember(leaf)
        return returned

    def _remember(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.nbytes() // tensor.element_size() >= self.elements and storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self._alive.append(tensor)
            self.shapes.append(tuple(tensor.shape))


def two_passes(**options: bool) -> Head:
    """Pooled first, gone through backward later, as a cached step does."""

    def head(hidden: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        pooled = pool(hidden, weight, bias, mask, keep_winners=options.get("keep_winners", False))
        return splade_max(hidden, weight, bias, mask, pooled=pooled, **options)

    return head


def one_pass(**options: bool) -> Head:
    return lambda hidden, weight, bias, mask: splade_max(hidden, weight, bias, mask, **options)


def large_tensors(head: Head, *, texts: int, active: bool, autocast: bool) -> list[tuple[int, ...]]:
    """Shapes of the large tensors that a forward and backward pass of ``head`` makes."""
    torch.manual_seed(0)
    hidden = torch.randn(texts, LENGTH, HIDDEN_SIZE, requires_grad=True)
    weight = torch.randn(VOCAB_SIZE, HIDDEN_SIZE, requires_grad=True)
    bias = torch.full((VOCAB_SIZE,), 20.0 if active else -18.0, requires_grad=True)
    mask = (torch.arange(LENGTH) < torch.arange(LENGTH, LENGTH - texts, -1)[:, None]).long()
    for parameter in (weight, bias):
        parameter.grad = torch.zeros_like(parameter)
    there_before = [hidden, weight, bias, mask, weight.grad, bias.grad]
    with LargeTensors(LENGTH * VOCAB_SIZE, there_before) as large:
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            reps = head(hidden, weight, bias, mask)
        reps.sum().backward()
    share = torch.count_nonzero(reps) / reps.numel()
    assert share == 1 if active else 0 < share < 0.5
    return large.shapes


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("active", [False, True], ids=["few active", "all active"])
@pytest.mark.parametrize("texts", [1, 4])
@pytest.mark.parametrize("passes", [one_pass, two_passes])
@pytest.mark.parametrize("keep_winners", [False, True], ids=["winners found late", "winners kept"])
def test_the_streaming_head_makes_no_tensor_of_the_size_of_a_texts_logits(
    passes: Callable[..., Head], keep_winners: bool, texts: int, active: bool, autocast: bool
) -> None:
    in_place = passes(keep_winners=keep_winners, in_place_gradients=True)
    returned = passes(keep_winners=keep_winners)

    assert large_tensors(in_place, texts=texts, active=active, autocast=autocast) == []
    assert large_tensors(returned, texts=texts, active=active, autocast=autocast) == [(VOCAB_SIZE, HIDDEN_SIZE)]


@pytest.mark.parametrize("texts", [1, 4])
def test_the_eager_head_makes_such_tensors(texts: int) -> None:
    shapes = large_tensors(splade_max_eager, texts=texts, active=False, autocast=False)

    assert (texts, LENGTH, VOCAB_SIZE) in shapes

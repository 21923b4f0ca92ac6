"""How much work an optimizer step is, counted on fake tensors: products by their shape, passes over memory by size.

What is counted is what is called; how long it takes is :mod:`splade_bench.planner.rates`'s to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

# Of what a size is an exponent of two, the smallest and the largest that are told apart: below, a call's own price is
# all that counts; above, nothing stays in a cache.
SMALLEST, LARGEST = 12, 26
Kind: TypeAlias = Literal["pass", "function", "random", "rows", "sort", "fault", "file", "call"]


@dataclass(frozen=True, slots=True)
class Product:
    """``batch`` products of matrices [rows, inner] and [inner, columns]."""

    batch: int
    rows: int
    inner: int
    columns: int
    dtype: torch.dtype
    adds: bool = False
    """Whether it is added to what is there, as the gradient of a weight is."""

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.columns

    @property
    def right_bytes(self) -> int:
        """Of one matrix [inner, columns]."""
        return self.inner * self.columns * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Passes:
    """Work of one kind that is counted in bytes, in calls of about ``2 ** exponent`` bytes each.

    Kinds: *pass* reads and writes elements in order; *function* computes exp, erf or the like for each; *random* draws;
    *rows* gathers or sums rows by index; *sort* sorts; *fault* takes fresh pages from the system; *file* reads or
    writes a file; *call* is an operator, a byte each.
    """

    kind: Kind
    exponent: int = SMALLEST


# Product -> how often; Passes -> bytes.
Work: TypeAlias = Counter[Product | Passes]


def product_flops(work: Work) -> int:
    """Floating-point operations in the products."""
    return sum(times * task.flops for task, times in work.items() if isinstance(task, Product))


def calls(work: Work) -> int:
    """Operators that are called, views included."""
    return work[Passes("call")]


def moved_bytes(work: Work) -> int:
    """Bytes of everything that is no product."""
    return sum(amount for task, amount in work.items() if isinstance(task, Passes) and task.kind != "call")


class CountedWork:
    """Counts the last optimizer step of a plan: its operators, its rounds that were left out, its files."""

    def __init__(self) -> None:
        self._rounds: list[Work] = [Counter()]
        self.largest_operand_bytes = 0
        """Of any product's right matrix, in any step."""

    @property
    def work(self) -> Work:
        """Of the optimizer step so far."""
        return self._rounds[0]

    def on_phase(self, phase: str) -> None:
        """A part of an optimizer step begins."""
        if phase == "batching":
            self._rounds = [Counter()]

    def on_step_end(self, state: object, loss: object) -> None:
        """An optimizer step is done."""

    def begin_iteration(self) -> None:
        self._rounds.append(Counter())

    def end_iteration(self) -> object:
        finished = self._rounds.pop()
        self.repeat_iteration(finished)
        return finished

    def repeat_iteration(self, finished: object) -> None:
        assert isinstance(finished, Counter)
        self._rounds[-1].update(finished)

    def on_file(self, size_bytes: int) -> None:
        self.add("file", size_bytes)

    def add(self, kind: Kind, size_bytes: int) -> None:
        """Count a call that is no product."""
        exponent = min(max(size_bytes.bit_length(), SMALLEST), LARGEST)
        self._rounds[-1][Passes(kind, exponent)] += size_bytes

    def on_operator(
        self, operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Any]
    ) -> None:
        self._rounds[-1][Passes("call")] += 1
        if operator.is_view or operator.overloadpacket in _FREE:
            return
        for task in _tasks(operator, args, kwargs, results):
            if isinstance(task, Product):
                self._rounds[-1][task] += 1
                self.largest_operand_bytes = max(self.largest_operand_bytes, task.right_bytes)
            else:
                self.add(*task)


_Task: TypeAlias = Product | tuple[Kind, int]


def _tasks(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Any]) -> Sequence[_Task]:
    packet = operator.overloadpacket
    if packet in _PRODUCTS:
        return _PRODUCTS[packet](*args)
    written = [result for result in results if isinstance(result, Tensor)]
    if packet in _ROWS:
        return [("rows", _ROWS[packet](*args))]
    kind = _KINDS.get(packet, "pass")
    if kind != "pass":
        passes = 2 if kind == "rows" else 1
        return [(kind, passes * max((_bytes(tensor) for tensor in written), default=0))]
    read = [leaf for arg in (*args, *kwargs.values()) for leaf in _tensors(arg)]
    rewritten = read if operator in _FUSED else ()
    return [("pass", sum(_bytes(tensor) for tensor in (*read, *written, *rewritten)))]


def _tensors(arg: Any) -> Sequence[Tensor]:
    if isinstance(arg, Tensor):
        return [arg]
    return [one for one in arg if isinstance(one, Tensor)] if isinstance(arg, list | tuple) else ()


def _bytes(tensor: Tensor) -> int:
    """Those that its elements lie in: repeated ones count once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    return prod(sizes) * tensor.itemsize


def _product(left: Tensor, right: Tensor, *, adds: bool = False) -> Product:
    *batch, rows, inner = left.shape
    return Product(prod(batch), rows, inner, right.shape[-1], left.dtype, adds)


def _attention(query: Tensor, key: Tensor, *, into_scores: int, out_of_scores: int) -> Sequence[_Task]:
    """Fused attention, as the products that it is made of and the exponentials between them."""
    *batch, length, size = query.shape
    heads = prod(batch)
    return [
        Product(into_scores * heads, length, size, key.shape[-2], query.dtype),
        Product(out_of_scores * heads, length, key.shape[-2], size, query.dtype),
        ("function", heads * length * key.shape[-2] * query.itemsize),
    ]


_aten = torch.ops.aten
_PRODUCTS: Mapping[Any, Callable[..., Sequence[_Task]]] = {
    _aten.mm: lambda left, right, *_: [_product(left, right)],
    _aten.bmm: lambda left, right, *_: [_product(left, right)],
    _aten.addmm: lambda addend, left, right, *_: [_product(left, right)],
    _aten.addmm_: lambda addend, left, right, *_: [_product(left, right, adds=True)],
    _aten.baddbmm: lambda addend, left, right, *_: [_product(left, right)],
    _aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, *_: _attention(query, key, into_scores=1, out_of_scores=1)
    ),
    # The scores again, and the gradients of the weights on them, of values, queries and keys.
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, query, key, *_: _attention(query, key, into_scores=2, out_of_scores=3)
    ),
}
# Where what is read or written is not of the result's size.
_ROWS: Mapping[Any, Callable[..., int]] = {
    _aten._embedding_bag: lambda table, index, *_: index.numel() * table.shape[1] * table.itemsize,
    _aten.index_add_: lambda target, dim, index, source, *_: 3 * _bytes(source),
}
_KINDS: Mapping[Any, Kind] = {
    **dict.fromkeys(
        (_aten.gelu, _aten.gelu_backward, _aten._softmax, _aten.exp, _aten.log1p_, _aten.tanh, _aten.silu), "function"
    ),
    **dict.fromkeys((_aten.random_, _aten.bernoulli_, _aten.native_dropout), "random"),
    **dict.fromkeys((_aten.embedding, _aten.index, _aten.gather, _aten.index_select), "rows"),
    **dict.fromkeys((_aten.sort, _aten.argsort), "sort"),
}
# Read and write all that they are given, and return nothing.
_FUSED = frozenset({_aten._fused_adamw_.default, _aten._foreach_mul_.Scalar})
_FREE = frozenset({_aten.empty, _aten.empty_like, _aten.new_empty, _aten.empty_strided, _aten.detach, _aten.alias})

"""The work of an optimizer step, counted on fake tensors: matrix products by shape, everything else by bytes.

:mod:`splade_bench.planner.rates` says how long it takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from splade_bench.device.planned import PlannedWork

# Sizes are counted as powers of two between these exponents. Below, only the price of an operator counts; above, no
# cache holds the tensor.
SMALLEST, LARGEST = 12, 26
Kind: TypeAlias = Literal["elementwise", "function", "random", "rows", "sort", "fault", "file", "operator"]


@dataclass(frozen=True, slots=True)
class Product:
    """``batch`` products of matrices [rows, inner] and [inner, columns]."""

    batch: int
    rows: int
    inner: int
    columns: int
    dtype: torch.dtype
    adds: bool = False
    """Whether it is added to the result's old value, as the gradient of a weight is."""

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.columns

    @property
    def right_bytes(self) -> int:
        """Of one matrix [inner, columns]."""
        return self.inner * self.columns * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Traffic:
    """Work of one kind, counted in bytes, by operators that each move about ``2 ** exponent`` bytes.

    Kinds: *elementwise* reads and writes elements in order; *function* computes exp, erf or the like of each; *random*
    draws; *rows* gathers or sums rows by index; *sort* sorts; *fault* takes fresh pages from the system; *file* reads
    or writes a file; *operator* counts operators instead of bytes.
    """

    kind: Kind
    exponent: int = SMALLEST


# Product -> how often; Traffic -> bytes.
Work: TypeAlias = Counter[Product | Traffic]


def product_flops(work: Work) -> int:
    """Floating-point operations of the products."""
    return sum(times * task.flops for task, times in work.items() if isinstance(task, Product))


def operators(work: Work) -> int:
    """Number of operators that are called, views included."""
    return work[Traffic("operator")]


def moved_bytes(work: Work) -> int:
    """Bytes of everything but the products."""
    return sum(amount for task, amount in work.items() if isinstance(task, Traffic) and task.kind != "operator")


class CountedWork(PlannedWork):
    """Counts operators, iterations that a plan leaves out, and files."""

    def __init__(self) -> None:
        self._nested: list[Work] = [Counter()]  # one for each iteration under way, and the total before them
        self.largest_operand_bytes = 0
        """Of any product's right matrix; :meth:`clear` keeps it."""

    @property
    def work(self) -> Work:
        """Counted since the last :meth:`clear`."""
        return self._nested[0]

    def clear(self) -> None:
        """Count from zero, outside any iteration."""
        self._nested = [Counter()]

    def begin_iteration(self) -> None:
        self._nested.append(Counter())

    def end_iteration(self) -> object:
        finished = self._nested.pop()
        self.repeat_iteration(finished)
        return finished

    def repeat_iteration(self, finished: object) -> None:
        assert isinstance(finished, Counter)
        self._nested[-1].update(finished)

    def on_file(self, size_bytes: int) -> None:
        self.add("file", size_bytes)

    def add(self, kind: Kind, size_bytes: int) -> None:
        """Count so many bytes of one kind."""
        exponent = min(max(size_bytes.bit_length(), SMALLEST), LARGEST)
        self._nested[-1][Traffic(kind, exponent)] += size_bytes

    def on_operator(
        self, operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Any]
    ) -> None:
        self._nested[-1][Traffic("operator")] += 1
        if operator.is_view or operator.overloadpacket in _FREE:
            return
        for task in _tasks(operator, args, kwargs, results):
            if isinstance(task, Product):
                self._nested[-1][task] += 1
                self.largest_operand_bytes = max(self.largest_operand_bytes, task.right_bytes)
            else:
                self.add(*task)


_Task: TypeAlias = Product | tuple[Kind, int]


def _tasks(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Any]) -> Sequence[_Task]:
    packet = operator.overloadpacket
    if packet in _PRODUCTS:
        left, right, *_ = args[_PRODUCTS[packet] :]
        *batch, rows, inner = left.shape
        return [Product(prod(batch), rows, inner, right.shape[-1], left.dtype, adds=packet is _aten.addmm_)]
    if packet in _ATTENTION:
        return _ATTENTION[packet](*args)
    if packet in _ROWS:
        return [("rows", _ROWS[packet](*args))]
    written = [result for result in results if isinstance(result, Tensor)]
    if kind := _KINDS.get(packet):
        directions = 2 if kind == "rows" else 1  # rows are read and written
        return [(kind, directions * max((_bytes(tensor) for tensor in written), default=0))]
    read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    rewritten = read if operator in _FUSED else ()
    return [("elementwise", sum(_bytes(tensor) for tensor in (*read, *written, *rewritten)))]


def _bytes(tensor: Tensor) -> int:
    """Bytes of the elements; repeated ones (stride 0) count once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    return prod(sizes) * tensor.itemsize


def _attention(query: Tensor, key: Tensor, *, into_scores: int, out_of_scores: int) -> Sequence[_Task]:
    """Fused attention as its products and the exponentials between them."""
    *batch, length, size = query.shape
    heads = prod(batch)
    return [
        Product(into_scores * heads, length, size, key.shape[-2], query.dtype),
        Product(out_of_scores * heads, length, key.shape[-2], size, query.dtype),
        ("function", heads * length * key.shape[-2] * query.itemsize),
    ]


_aten = torch.ops.aten
# The position of the left matrix among the arguments; the right one is next.
_PRODUCTS: Mapping[Any, int] = {_aten.mm: 0, _aten.bmm: 0, _aten.addmm: 1, _aten.addmm_: 1, _aten.baddbmm: 1}
_ATTENTION: Mapping[Any, Callable[..., Sequence[_Task]]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, *_: _attention(query, key, into_scores=1, out_of_scores=1)
    ),
    # The scores again; the gradients of the scores, values, queries and keys.
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, query, key, *_: _attention(query, key, into_scores=2, out_of_scores=3)
    ),
}
# Bytes where the result has another size than the rows that are read or written.
_ROWS: Mapping[Any, Callable[..., int]] = {
    **dict.fromkeys(
        (_aten._embedding_bag, _aten._embedding_bag_forward_only),
        lambda table, index, *_: index.numel() * table.shape[1] * table.itemsize,
    ),
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
# Operators that read and write all their arguments and return nothing.
_FUSED = frozenset({_aten._fused_adamw_.default, _aten._foreach_mul_.Scalar})
_FREE = frozenset({_aten.empty, _aten.empty_like, _aten.new_empty, _aten.empty_strided, _aten.detach, _aten.alias})

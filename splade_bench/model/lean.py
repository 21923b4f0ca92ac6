"""A model's own layers with less memory: the operators of every architecture, intercepted by name.

Layers are not replaced, and architectures need not be known. Inside :func:`lean_operators`, calls of ``F.linear``,
``F.embedding``, ``F.dropout``, ``F.gelu``, ``F.silu``, ``F.layer_norm`` and ``F.scaled_dot_product_attention`` take
lighter paths to the same values. Calls without a lighter path are unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from splade_bench.device import cuda
from splade_bench.device.devices import device_type
from splade_bench.device.heap import HeapTrimmer
from splade_bench.device.reads import HAS_PADDING, is_padding_mask
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.attention import streaming_attention
from splade_bench.model.dropout import compact_dropout
from splade_bench.model.gradients import Recomputation, embedding, linear, plain_linear, takes_gradient_in_place

_Call = Callable[..., Any]
# Cheap to compute again from their inputs, which their own backward keeps anyway.
_RECOMPUTED = frozenset({F.gelu, F.silu, F.layer_norm})
# Recomputations of the tensors in the current scope, each with the versions of tensors for which it holds.
_recomputations: ContextVar[WeakIdKeyDictionary] = ContextVar("recomputations")


@contextmanager
def lean_operators(memory: MemoryConfig, trimmer: HeapTrimmer | None = None) -> Iterator[None]:
    """Inside the block, in this thread, operators run as ``memory`` says; ``trimmer`` counts what they keep."""
    with recomputation_scope(), _LeanOperators(memory, trimmer):
        yield


@contextmanager
def recomputation_scope() -> Iterator[None]:
    """Inside the block, tensors from outside it have no recomputation: they are kept.

    A checkpointed layer needs its own scope. In backward it must do the same as in forward, but then the recomputation
    of its input is unknown.
    """
    token = _recomputations.set(WeakIdKeyDictionary())
    try:
        yield
    finally:
        _recomputations.reset(token)


class _LeanOperators(TorchFunctionMode):
    def __init__(self, memory: MemoryConfig, trimmer: HeapTrimmer | None) -> None:
        super().__init__()
        self._memory = memory
        self._trimmer = trimmer
        self._paths: Mapping[_Call, _Call] = {
            F.linear: self._linear,
            F.embedding: self._embedding,
            F.dropout: self._dropout,
            F.scaled_dot_product_attention: self._attention,
            Tensor.all: self._all,
        }

    def __torch_function__(
        self, func: _Call, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RECOMPUTED and self._memory.selective_recomputation and torch.is_grad_enabled():
            return self._with_recomputation(func, args, kwargs)
        if func in self._paths:
            return self._paths[func](*args, **kwargs)
        return cuda.call(func, args, kwargs)

    def _with_recomputation(self, func: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = cuda.call(func, args, kwargs)
        input = args[0] if args else kwargs["input"]
        # Not for a call in place, nor if autocast has raised the type: outside autocast the result would be another.
        if result is not input and result.dtype == input.dtype:
            recomputation = _recomputation(func, args, kwargs)
            _recomputations.get()[result] = recomputation, _versions(result, recomputation)
        return result

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not torch.is_grad_enabled():
            return plain_linear(input, weight, bias)
        if self._trimmer:
            self._trimmer.keep(input.nbytes)
        recomputation, versions = _recomputations.get().get(input, (None, None))
        # A frozen weight needs no inputs in backward; inputs that were changed in place would be made again as before.
        if recomputation and not (weight.requires_grad and versions == _versions(input, recomputation)):
            recomputation = None
        in_place = self._memory.in_place_gradients and takes_gradient_in_place(weight, bias)
        if recomputation or in_place:
            return linear(input, weight, bias, recomputation=recomputation, in_place=in_place)
        return F.linear(input, weight, bias)

    def _embedding(
        self,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor:
        plain = max_norm is None and not scale_grad_by_freq and not sparse
        if self._memory.in_place_gradients and plain and takes_gradient_in_place(weight) and torch.is_grad_enabled():
            return embedding(input, weight, padding_idx)
        return F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        # Only attention probabilities have four dimensions, in models that multiply them themselves (MPNet, DeBERTa).
        if input.dim() == 4 and not self._memory.attention_dropout:
            p = 0.0
        on_cpu = device_type(input.device) == "cpu"
        if self._memory.compact_dropout and 0 < p < 1 and training and not inplace and on_cpu:
            return compact_dropout(input, p)
        return cuda.dropout(input, p, training, inplace)

    def _all(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Transformers asks whether a mask has no padding; the encoder gave it one because it has."""
        if not args and not kwargs and is_padding_mask(input):
            return HAS_PADDING
        return input.all(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if not self._memory.attention_dropout:
            dropout_p = 0.0
        unfused = device_type(query.device) in ("cpu", "mps") and query.dim() == 4 and not is_causal and not enable_gqa
        trains_mask = attn_mask is not None and attn_mask.requires_grad  # a learned position bias
        if 0 < dropout_p < 1 and unfused and not trains_mask and self._memory.streaming_attention:
            return streaming_attention(query, key, value, attn_mask, dropout_p, scale)
        dropout_p = cuda.fused_dropout(dropout_p)
        with cuda.without_cudnn_attention(query.device):
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )


def _versions(result: Tensor, recomputation: Recomputation) -> tuple[int, ...]:
    """How often each tensor of a call has been changed in place."""
    return tuple(tensor._version for tensor in (result, *recomputation.inputs) if tensor is not None)


def _recomputation(func: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recomputation:
    """The call to repeat, with its tensors apart: autograd must know them as kept for backward."""
    values, structure = tree_flatten((args, kwargs))
    is_tensor = [isinstance(value, Tensor) for value in values]
    constants = [None if tensor else value for value, tensor in zip(values, is_tensor, strict=True)]

    def recompute(*tensors: Tensor) -> Any:
        remaining = iter(tensors)
        filled = [next(remaining) if tensor else value for value, tensor in zip(constants, is_tensor, strict=True)]
        again_args, again_kwargs = tree_unflatten(filled, structure)
        return func(*again_args, **again_kwargs)

    return Recomputation(recompute, tuple(value.detach() for value in values if isinstance(value, Tensor)))

"""A model's own layers with less memory: the operators that every architecture is made of, intercepted by name.

No layer is replaced and no architecture known: inside :func:`lean_operators`, calls of ``F.linear``,
``F.embedding``, ``F.dropout``, ``F.gelu``, ``F.silu``, ``F.layer_norm`` and ``F.scaled_dot_product_attention`` take
lighter paths to the same values. Where a call is of a kind that has none, it passes through.
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

from splade_bench.config import MemoryConfig
from splade_bench.device.devices import device_type
from splade_bench.device.heap import HeapTrimmer
from splade_bench.device.planned import fused_dropout
from splade_bench.model.attention import streaming_attention
from splade_bench.model.dropout import compact_dropout
from splade_bench.model.gradients import Recipe, embedding, linear, takes_gradient_in_place

_Call = Callable[..., Any]
# Cheap to compute again from their inputs, which their own backward keeps anyway.
_REMADE = frozenset({F.gelu, F.silu, F.layer_norm})


# How to make a tensor again, and the versions for which that holds, for the tensors of the current scope.
_recipes: ContextVar[WeakIdKeyDictionary] = ContextVar("recipes")


@contextmanager
def lean_operators(memory: MemoryConfig, trimmer: HeapTrimmer | None = None) -> Iterator[None]:
    """The operators inside the block run as ``memory`` says, and ``trimmer`` is told what they keep for backward.

    Effective in the current thread.
    """
    with recipe_scope(), _LeanOperators(memory, trimmer):
        yield


@contextmanager
def recipe_scope() -> Iterator[None]:
    """Inside the block, tensors from outside it are kept and not made again.

    A checkpointed layer needs one of its own: its input is the same tensor to it in forward and in backward, where
    nothing is known of what came before.
    """
    token = _recipes.set(WeakIdKeyDictionary())
    try:
        yield
    finally:
        _recipes.reset(token)


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
        }

    def __torch_function__(
        self, func: _Call, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _REMADE and self._memory.selective_recomputation and torch.is_grad_enabled():
            return self._remembered(func, args, kwargs)
        return self._paths.get(func, func)(*args, **kwargs)

    def _remembered(self, func: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of ``func``, with the recipe to make it again."""
        result = func(*args, **kwargs)
        input = args[0] if args else kwargs["input"]
        # Not for a call in place; and autocast may have raised the type, so that outside it the result were another.
        if result is not input and result.dtype == input.dtype:
            recipe = _recipe(func, args, kwargs)
            _recipes.get()[result] = recipe, _versions(result, recipe)
        return result

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        recipe = _valid_recipe(input) if weight.requires_grad else None  # a frozen one needs no inputs in backward
        in_place = self._memory.in_place_gradients and takes_gradient_in_place(weight, bias)
        if not torch.is_grad_enabled():
            return F.linear(input, weight, bias)
        if self._trimmer:
            self._trimmer.keep(input.nbytes)
        if recipe or in_place:
            return linear(input, weight, bias, recipe=recipe, in_place=in_place)
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
        # Attention that a model multiplies itself, as MPNet and DeBERTa do: [B, heads, L, L], and nothing else is.
        if input.dim() == 4 and not self._memory.attention_dropout:
            p = 0.0
        on_cpu = device_type(input.device) == "cpu"
        if self._memory.compact_dropout and 0 < p < 1 and training and not inplace and on_cpu:
            return compact_dropout(input, p)
        return F.dropout(input, p, training, inplace)

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
        trains_mask = attn_mask is not None and attn_mask.requires_grad  # as a learned position bias does
        if 0 < dropout_p < 1 and unfused and not trains_mask and self._memory.streaming_attention:
            return streaming_attention(query, key, value, attn_mask, dropout_p, scale)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, fused_dropout(dropout_p), is_causal, scale=scale, enable_gqa=enable_gqa
        )


def _valid_recipe(tensor: Tensor) -> Recipe | None:
    """How to make ``tensor`` again; None if nobody knows or if it was changed in place since."""
    recipe, versions = _recipes.get().get(tensor, (None, None))
    return recipe if recipe and versions == _versions(tensor, recipe) else None


def _versions(result: Tensor, recipe: Recipe) -> tuple[int, ...]:
    """How often each tensor of a call has been changed in place."""
    return tuple(tensor._version for tensor in (result, *recipe.inputs) if tensor is not None)


def _recipe(func: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recipe:
    """The call again, its tensors left out: what is kept for backward must be known to autograd as such."""
    values, structure = tree_flatten((args, kwargs))
    is_tensor = [isinstance(value, Tensor) for value in values]
    constants = [None if tensor else value for value, tensor in zip(values, is_tensor, strict=True)]

    def remake(*tensors: Tensor) -> Any:
        remaining = iter(tensors)
        filled = [next(remaining) if tensor else value for value, tensor in zip(constants, is_tensor, strict=True)]
        again_args, again_kwargs = tree_unflatten(filled, structure)
        return func(*again_args, **again_kwargs)

    return Recipe(remake, tuple(value.detach() for value in values if isinstance(value, Tensor)))

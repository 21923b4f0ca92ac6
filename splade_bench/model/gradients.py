"""Linear and embedding layers that add their weight gradients directly to the sum in ``.grad``.

autograd makes each weight's gradient as a new tensor and then adds it to ``.grad``. In mini-batches that costs a second
copy of the largest gradients, and one more pass over memory for each mini-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True, slots=True)
class Recomputation:
    """How to recompute a tensor, bitwise, from tensors that are kept anyway."""

    function: Callable[..., Tensor]
    inputs: tuple[Tensor | None, ...]


# Memory of gradients that were summed in place, by parameter. It is kept after ``zero_grad(set_to_none=True)``, because
# fresh memory would cost a page fault per 4 KiB in each step.
_buffers = WeakIdKeyDictionary()


def takes_gradient_in_place(*parameters: Tensor | None) -> bool:
    """Whether all of them are trained leaves without hooks, so that autograd need not see their gradients."""
    return all(
        parameter is None
        or (
            parameter.requires_grad
            and parameter.is_leaf
            and not parameter._backward_hooks
            and not parameter._post_accumulate_grad_hooks
        )
        for parameter in parameters
    )


def existing_grad(parameter: Tensor) -> Tensor:
    """``parameter.grad``; zeros if there was none."""
    if parameter.grad is None:
        key = parameter.dtype, parameter.device, parameter.shape
        buffer = _buffers.get(parameter)
        if buffer is not None and (buffer.dtype, buffer.device, buffer.shape) == key:
            parameter.grad = buffer.zero_()
        else:
            parameter.grad = _buffers[parameter] = torch.zeros_like(parameter)
    return parameter.grad


def release_gradients(parameters: Iterable[Tensor]) -> None:
    """Set every ``.grad`` to None and free the memory of those that were summed in place."""
    for parameter in parameters:
        parameter.grad = None
        _buffers.pop(parameter, None)


def linear(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, *, recomputation: Recomputation | None, in_place: bool
) -> Tensor:
    """``F.linear``: [..., H] -> [..., O], with a lighter backward.

    With a ``recomputation``, ``inputs`` are not kept but recomputed for the gradient of ``weight``. ``in_place`` adds
    to the ``.grad`` of ``weight`` and ``bias``, which must be leaves, and returns no gradient for them.
    """
    function = recomputation.function if recomputation else None
    kept = recomputation.inputs if recomputation else (inputs,)
    flat = cast(Tensor, _Linear.apply(inputs, weight, bias, in_place, function, *kept))  # type: ignore[no-untyped-call]
    # Not inside: autograd forbids changes in place of a view that a function has made, and some models make them.
    return flat.view(*inputs.shape[:-1], len(weight))


def plain_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` as :func:`linear` computes it, bitwise: of inputs in rows, whatever their layout."""
    flat = F.linear(inputs.reshape(-1, inputs.shape[-1]), weight, bias)
    return flat.view(*inputs.shape[:-1], len(weight))


def embedding(token_ids: Tensor, weight: Tensor, padding_idx: int | None) -> Tensor:
    """``F.embedding``: [...] -> [..., H]; backward adds to ``weight.grad`` and makes no tensor of the table's size."""
    if padding_idx is not None:
        padding_idx %= len(weight)  # a negative one counts from the end
    return cast(Tensor, _Embedding.apply(weight, token_ids, padding_idx))  # type: ignore[no-untyped-call]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        in_place: bool,
        recompute: Callable[..., Tensor] | None,
        *kept: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(weight, *kept)
        # The leaves themselves: backward may unpack another tensor with the same content.
        ctx.parameters = (weight, bias) if in_place else None
        ctx.recompute = recompute
        ctx.input_dtype, ctx.input_shape = inputs.dtype, inputs.shape
        return F.linear(inputs.reshape(-1, inputs.shape[-1]), weight, bias)  # [N, O]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        # Under autocast the product ran in grad's type, and so do its gradients.
        inputs = ctx.recompute(*kept) if ctx.recompute else kept[0]
        flat_inputs = inputs.reshape(-1, inputs.shape[-1]).to(grad.dtype)  # [N, H]
        grad_weight = grad_bias = None
        if ctx.parameters:
            weight_leaf, bias_leaf = ctx.parameters
            total = existing_grad(weight_leaf)
            if grad.dtype == total.dtype:
                total.addmm_(grad.t(), flat_inputs)
            else:
                total.add_(grad.t() @ flat_inputs)
            if bias_leaf is not None:
                existing_grad(bias_leaf).add_(grad.sum(0))
        else:
            grad_weight = (grad.t() @ flat_inputs).to(weight.dtype) if needs_weight else None
            grad_bias = grad.sum(0).to(weight.dtype) if needs_bias else None
        del inputs, flat_inputs  # free a recomputed tensor before the next one of its size is made
        grad_inputs = None
        if needs_input:
            grad_inputs = (grad @ weight.to(grad.dtype)).to(ctx.input_dtype).view(ctx.input_shape)
        return grad_inputs, grad_weight, grad_bias, None, None, *(None for _ in kept)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, token_ids: Tensor, padding_idx: int | None) -> Tensor:
        ctx.save_for_backward(token_ids)
        ctx.parameter = weight
        ctx.padding_idx = padding_idx
        return F.embedding(token_ids, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (token_ids,) = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1]).to(ctx.parameter.dtype)
        if ctx.padding_idx is not None:  # its row is not trained
            rows = rows.masked_fill((token_ids == ctx.padding_idx).reshape(-1, 1), 0.0)
        existing_grad(ctx.parameter).index_add_(0, token_ids.reshape(-1), rows)
        return None, None, None

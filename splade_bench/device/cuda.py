"""Operators on CUDA: which kernel attention may use, and what runs in their place in a plan.

A plan runs the CPU's operators. Where those keep other tensors for backward than CUDA's, a plan for CUDA takes the
functions of this module instead. Outside such a plan they change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from splade_bench.device.devices import device_type
from splade_bench.device.planned import planned_device

# CUDA's autocast computes these in float32; the CPU's computes them in the type of their input. Of torch's list
# (aten/src/ATen/autocast_mode.h, AT_FORALL_FP32), the functions that models and heads call.
_FLOAT32_UNDER_AUTOCAST = frozenset(
    {
        *(F.layer_norm, F.softmax, torch.softmax, Tensor.softmax, torch.log1p, Tensor.log1p, torch.exp, Tensor.exp),
        *(torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, Tensor.rsqrt, torch.sum, Tensor.sum, torch.norm),
    }
)


def call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call ``function``; in a plan for CUDA under autocast, with the types that CUDA's autocast gives it."""
    if function in _FLOAT32_UNDER_AUTOCAST and _plans_for_cuda() and torch.is_autocast_enabled("cpu"):
        args, kwargs = tree_map_only(
            Tensor,
            lambda tensor: tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor,
            (tuple(args), dict(kwargs)),
        )
    return function(*args, **kwargs)


def dropout(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    """``F.dropout``; in a plan for CUDA it keeps one byte per element for backward, as there, instead of a float."""
    if _plans_for_cuda() and 0 < p < 1 and training and not inplace:
        return torch.native_dropout(input, p, True)[0]
    return F.dropout(input, p, training, inplace)


def fused_dropout(probability: float) -> float:
    """The dropout probability of fused attention, but 0 in a plan for CUDA.

    CUDA's fused attention makes no tensor for dropout. The CPU's operator, which runs in a plan, would make one.
    """
    return 0.0 if _plans_for_cuda() else probability


@contextmanager
def without_cudnn_attention(device: torch.device) -> Iterator[None]:
    """Inside the block, attention on CUDA takes torch's other kernels; elsewhere nothing changes.

    On Hopper torch prefers cuDNN in half precision. cuDNN makes an execution plan on the CPU for each new shape, and
    with texts of all lengths nearly every mini-batch has one. The setting is the process's, not the thread's.
    """
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled and device_type(device) != "cuda")
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)


@contextmanager
def tf32_products(enabled: bool) -> Iterator[None]:
    """Inside the block, and if ``enabled``, CUDA multiplies float32 matrices in TF32; the setting is the process's.

    TF32 has float32's range and 10 bits after the point; sums are in float32. Convolutions are not changed.
    """
    if not enabled:
        yield
        return
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _plans_for_cuda() -> bool:
    planned = planned_device()
    return planned is not None and planned.type == "cuda"

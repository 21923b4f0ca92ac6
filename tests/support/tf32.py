"""CUDA's TF32 on a CPU: what float32 products multiply is rounded to 10 bits after the point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
_BITS_LEFT_OUT = 13  # float32 has 23 bits after the point


class Tf32Products(TorchDispatchMode):
    """Inside the block, every product of float32 matrices multiplies rounded numbers; sums stay in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.rounded = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            first = len(args) - 2  # what is multiplied comes last; addmm and baddbmm add their first
            args = (*args[:first], *tree_map_only(Tensor, self._rounded, args[first:]))
        return func(*args, **(kwargs or {}))

    def _rounded(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        self.rounded += 1
        half = 1 << (_BITS_LEFT_OUT - 1)
        bits = tensor.contiguous().view(torch.int32)
        return ((bits + half) >> _BITS_LEFT_OUT << _BITS_LEFT_OUT).view(torch.float32)

"""The types in which things are computed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from splade_bench.config import MixedPrecision

AUTOCAST_DTYPES: Mapping[MixedPrecision, torch.dtype] = MappingProxyType(
    {"bf16": torch.bfloat16, "fp16": torch.float16}
)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of sums and of sparse vectors: ``dtype``, but at least float32."""
    return torch.promote_types(dtype, torch.float32)


def product_dtype(inputs: Tensor) -> torch.dtype:
    """The type of products of ``inputs``: autocast's where it is on."""
    device_type = inputs.device.type
    if inputs.dtype != torch.float64 and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return inputs.dtype

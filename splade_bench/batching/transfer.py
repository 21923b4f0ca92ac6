"""From the host's memory to a device, by one copy for which the host does not wait."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The same tensors, which have one type, on ``device``.

    CUDA copies from pinned memory while the host goes on. Tensors of the device itself are returned as they are.
    """
    if all(tensor.device == device for tensor in tensors):
        return [*tensors]
    assert len({tensor.dtype for tensor in tensors}) == 1, "tensors that are copied together have one type"
    together = torch.cat([tensor.reshape(-1) for tensor in tensors])
    if device.type == "cuda":
        together = together.pin_memory()
    moved = together.to(device, non_blocking=device.type == "cuda").split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(moved, tensors, strict=True)]

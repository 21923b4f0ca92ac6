"""Known tensors for the probes that count tensors."""

from __future__ import annotations

import torch

# The first large operator starts torch's threads: some MiB that are no tensor's.
torch.ones(2**24, dtype=torch.uint8)


def fill_tensor(size_bytes: int) -> int:
    """Make a tensor of so many bytes, write all of it, and free it before anybody reads a figure."""
    return torch.ones(size_bytes, dtype=torch.uint8).nbytes

"""The random numbers of a stretch of computation, so that it can be computed again with the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RngState:
    """States of the CPU's generator and of a device's, where it has one of its own."""

    cpu: Tensor
    device: torch.device
    on_device: Tensor | None


def capture_rng(device: torch.device) -> RngState:
    """The generators as they are now, for computations on ``device``."""
    on_device = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return RngState(torch.get_rng_state(), device, on_device)


def restore_rng(state: RngState) -> None:
    """Put the generators back to ``state``; the effect is global."""
    torch.set_rng_state(state.cpu)
    if state.on_device is not None:
        torch.get_device_module(state.device).set_rng_state(state.on_device, state.device)


@contextmanager
def restored_rng(state: RngState) -> Iterator[None]:
    """Run a block with the random numbers of ``state``; afterwards the generators go on as if it had not been."""
    before = capture_rng(state.device)
    restore_rng(state)
    try:
        yield
    finally:
        restore_rng(before)

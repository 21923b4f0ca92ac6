"""Random numbers: many at a low price, and those of a stretch of computation again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from splade_bench.device.devices import device_type


def random_int16(elements: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Numbers drawn evenly from all of int16: [elements].

    Four to a 64-bit integer, because the generator's cost is by integer and not by bit. MPS refuses to draw from the
    whole range of a type (aten/src/ATen/native/mps/operations/Distributions.mm), so there each is drawn by itself.
    """
    if device_type(device) == "mps":
        drawn = torch.randint(-(2**15), 2**15, (elements,), dtype=torch.int32, device=device, generator=generator)
        return drawn.to(torch.int16)
    fours = torch.empty(-(-elements // 4), dtype=torch.int64, device=device)
    return fours.random_(-(2**63), None, generator=generator).view(torch.int16)[:elements]


@dataclass(frozen=True, slots=True)
class RngState:
    """States of the CPU's generator and of a device's, where it has one of its own."""

    cpu: Tensor
    device: torch.device
    on_device: Tensor | None


def capture_rng(device: torch.device) -> RngState:
    """The generators as they are now, for computations on ``device``."""
    on_device = None
    if device.type != "cpu":
        on_device = torch.get_device_module(device).get_rng_state(*_which(device))
    return RngState(torch.get_rng_state(), device, on_device)


def restore_rng(state: RngState) -> None:
    """Put the generators back to ``state``; the effect is global."""
    torch.set_rng_state(state.cpu)
    if state.on_device is not None:
        torch.get_device_module(state.device).set_rng_state(state.on_device, *_which(state.device))


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """MPS has one device, and not every release of torch lets it be named."""
    return () if device.type == "mps" else (device,)


@contextmanager
def restored_rng(state: RngState) -> Iterator[None]:
    """Run a block with the random numbers of ``state``; afterwards the generators go on as if it had not been."""
    before = capture_rng(state.device)
    restore_rng(state)
    try:
        yield
    finally:
        restore_rng(before)

"""Random numbers: many at a low cost, and the same ones again for a repeated computation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from splade_bench.device.devices import device_type


def random_int16(elements: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Uniform random numbers over all of int16: [elements].

    Four of them come from one 64-bit integer, because the generator's cost is per integer. MPS cannot draw from the
    whole range of a type (aten/src/ATen/native/mps/operations/Distributions.mm), so there each is drawn alone.
    """
    if device_type(device) == "mps":
        drawn = torch.randint(-(2**15), 2**15, (elements,), dtype=torch.int32, device=device, generator=generator)
        return drawn.to(torch.int16)
    fours = torch.empty(-(-elements // 4), dtype=torch.int64, device=device)
    return fours.random_(-(2**63), None, generator=generator).view(torch.int16)[:elements]


@dataclass(frozen=True, slots=True)
class RngState:
    """States of the CPU's generator and, for an accelerator, of its own."""

    cpu: Tensor
    device: torch.device
    on_device: Tensor | None


def capture_rng(device: torch.device) -> RngState:
    """The current state of the generators that computations on ``device`` use."""
    on_device = None
    if device.type != "cpu":
        on_device = torch.get_device_module(device).get_rng_state(*_device_arguments(device))
    return RngState(torch.get_rng_state(), device, on_device)


@contextmanager
def restored_rng(state: RngState) -> Iterator[None]:
    """Run a block with the random numbers of ``state``. Afterwards the generators continue as if it had not run."""
    before = capture_rng(state.device)
    restore_rng(state)
    try:
        yield
    finally:
        restore_rng(before)


def restore_rng(state: RngState) -> None:
    """Continue with the random numbers of ``state``."""
    torch.set_rng_state(state.cpu)
    if state.on_device is not None:
        torch.get_device_module(state.device).set_rng_state(state.on_device, *_device_arguments(state.device))


def _device_arguments(device: torch.device) -> tuple[torch.device, ...]:
    """None for MPS: it has one device, and not every release of torch accepts it as an argument."""
    return () if device.type == "mps" else (device,)

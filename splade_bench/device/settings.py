"""How a step is cut into pieces on each kind of device, as data.

A CPU works in its caches, so its pieces are small. An accelerator works faster than Python can feed it small pieces:
an operator takes Python tens of microseconds. And whenever a step reads a number from it, both wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch

from splade_bench.device.devices import device_type

_MIB = 2**20
HeadBackward: TypeAlias = Literal["entries", "bags", "products"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSettings:
    """Sizes and ways that suit a kind of device."""

    tile_tokens: int
    """Most tokens in a tile of the head."""
    tile_entries: int
    """Most vocabulary entries in it."""
    tile_bytes: int
    """Most logits in it."""
    winners_pay_from: float
    """Expected share of active entries from which the forward pass finds the winners."""
    head_backward: HeadBackward
    """How the head's gradients are summed. *entries*: only those of active entries, which the step must count, and so
    wait for the device. *bags*: of all entries, sorted by token. *products*: of all entries, as matrix products."""
    may_read: bool
    """Whether a step may read values of tensors. Reading from an accelerator, host and device wait for each other."""
    kept_bytes: int
    """Activations that a mini-batch of the default size keeps.

    It does not depend on what is free: a plan, a run and the same run resumed must cut a batch alike."""
    kept_share: float
    """The share of a known free memory that a mini-batch keeps, where a command line decides its size once and saves it
    with the run. 0: it does not, as on a CPU, where small mini-batches are as fast."""
    vector_bytes: int | None
    """Most memory for the vectors of a mini-batch, which short texts have many of. None: any, as on a CPU, whose
    default mini-batches have few tokens."""
    least_tokens: int
    """Of a mini-batch of the default size: with fewer, products would be too small to run at full speed."""
    tokens_if_all_kept: int
    """Of a mini-batch if all graphs are kept: a large one then takes little more memory than small ones. It reads the
    weights less often, and starts fewer operators."""
    most_tokens: int | None = None
    """Of a mini-batch of such a size: more do not make products faster. None: any number."""
    longest_sum: int | None = None
    """Most terms of a product that the device sums rightly, as far as this package chooses them. None: any number."""
    reduces_last: bool = False
    """Whether reductions over the last dimension are much faster than over others. Then the head's tiles are turned."""

    def __post_init__(self) -> None:
        # Without counting entries, backward cannot look for their winners.
        assert self.head_backward == "entries" or self.winners_pay_from == 0
        assert self.head_backward != "entries" or self.may_read

    def tile_shape(self, texts: int, length: int, element_bytes: int) -> tuple[int, int]:
        """Texts in a tile, at least one, and the most vocabulary entries: 0 if one text's tokens are too many."""
        texts_at_a_time = max(1, min(texts, self.tile_tokens // length))
        return texts_at_a_time, min(self.tile_entries, self.tile_bytes // (texts_at_a_time * length * element_bytes))


SETTINGS: Mapping[str, DeviceSettings] = MappingProxyType(
    {
        # A tile of 4 MiB stays in cache between the product that writes it and the maximum that reads it
        # (benchmarks/test_head.py).
        "cpu": DeviceSettings(
            tile_tokens=1024,
            tile_entries=1024,
            tile_bytes=4 * _MIB,
            winners_pay_from=0.08,
            head_backward="entries",
            may_read=True,
            kept_bytes=48 * _MIB,
            kept_share=0.0,
            vector_bytes=None,
            least_tokens=320,
            tokens_if_all_kept=2048,
        ),
        # Of the tiles measured on an H100, these are the fastest (reports/ACCELERATORS.md). The sizes of mini-batches
        # follow from the speed of its products and of Python: its host took about 50 microseconds for each kernel.
        "cuda": DeviceSettings(
            tile_tokens=16384,
            tile_entries=65536,
            tile_bytes=128 * _MIB,
            winners_pay_from=0.0,
            head_backward="bags",
            may_read=False,
            kept_bytes=3072 * _MIB,
            kept_share=0.2,
            vector_bytes=2048 * _MIB,
            least_tokens=1024,
            tokens_if_all_kept=65536,
            most_tokens=65536,
        ),
        # Not measured. The limits follow from known defects (splade_bench/device/mps.py).
        "mps": DeviceSettings(
            tile_tokens=2048,
            tile_entries=16384,
            # A buffer of 10 MiB or more would take a heap of 1 GiB from Metal.
            tile_bytes=8 * _MIB,
            winners_pay_from=0.0,
            head_backward="products",
            may_read=False,
            kept_bytes=384 * _MIB,
            kept_share=0.1,  # the rest of the machine uses the same memory
            vector_bytes=512 * _MIB,
            least_tokens=512,
            tokens_if_all_kept=16384,
            most_tokens=16384,
            longest_sum=16384,
            reduces_last=True,
        ),
    }
)


def settings_of(device: torch.device) -> DeviceSettings:
    """The settings of a device, or of that which a plan is made for; of an unknown one, those of the CPU."""
    return SETTINGS.get(device_type(device), SETTINGS["cpu"])

"""MPS: what torch does wrong there, how this package avoids it, and the allocator's limits.

Facts are from torch's issues and sources. This project has not run on such a device yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

# torch's defaults (aten/src/ATen/mps/MPSAllocator.h): the allocator's hard and soft limit, as multiples of the working
# set that Metal recommends. 0: no limit.
_HIGH_WATERMARK_RATIO = 1.7
_LOW_WATERMARK_RATIO = 1.4
_HIGH, _LOW = "PYTORCH_MPS_HIGH_WATERMARK_RATIO", "PYTORCH_MPS_LOW_WATERMARK_RATIO"
SHORTEST_WRONG_SUM = 2**15 - 1
"""Terms from which M1 and M2 sum a product wrongly."""
_LEAST_MULTIPLE = 16
_LATEST_WRONG_ATTENTION = (2, 12)


@dataclass(frozen=True, kw_only=True, slots=True)
class Defect:
    """Something that torch does wrong, or slowly, on MPS."""

    issue: int
    """Of torch's issues or pull requests."""
    seen: str
    """What goes wrong, and where."""
    fixed_in: tuple[int, int] | None = None
    """The first version of torch without it; None: every version has it."""
    avoided: str
    """What this package does instead."""

    def concerns(self, torch_version: str) -> bool:
        """Whether this version of torch has it."""
        return self.fixed_in is None or _release(torch_version) < self.fixed_in


DEFECTS: tuple[Defect, ...] = (
    Defect(
        issue=195163,
        seen="M1 and M2: a product that sums 32767 or more terms is wrong",
        avoided="scores and the head's gradients are summed over 16384 vocabulary entries at a time, and mini-batches "
        "of the default size have at most 16384 tokens; larger ones are warned of",
    ),
    Defect(
        issue=193385,
        seen="macOS 14: a product that is written into a part of a tensor is lost",
        fixed_in=(2, 14),
        avoided="products are written only to the start of a buffer",
    ),
    Defect(
        issue=184180,
        seen="fused attention of up to 8 tokens reads a mask wrongly",
        fixed_in=(2, 13),
        avoided="widths are multiples of 32; a multiple below 16 is warned of",
    ),
    Defect(
        issue=182255,
        seen="a reduction over a middle dimension is up to 50 times slower than one over the last",
        fixed_in=(2, 14),
        avoided="the streaming head reduces over the last dimension",
    ),
    Defect(
        issue=194082,
        seen="argmax over more than 2^32 elements is 0",
        fixed_in=(2, 14),
        avoided="a tile of the streaming head has at most 2^25 elements, or one text's",
    ),
    Defect(
        issue=190060,
        seen="embedding_bag ignores include_last_offset and does not check its indices",
        fixed_in=(2, 14),
        avoided="the head's gradients are matrix products",
    ),
    Defect(
        issue=176159,
        seen="macOS 14: index_add_ of transposed tensors is wrong",
        avoided="the tensors of index_add_ are contiguous",
    ),
    Defect(
        issue=152550,
        seen="memory grows with each new width of a batch",
        avoided="widths are multiples of 32",
    ),
    Defect(
        issue=170360,
        seen="torch.compile makes errors of a factor of two",
        avoided="nothing is compiled",
    ),
)


def warnings_for(*, pad_to_multiple_of: int | None, tokens: int) -> Iterator[str]:
    """A line for each setting of a run under which a known defect could show.

    Args:
        pad_to_multiple_of: as it applies on the device.
        tokens: most tokens of one forward pass, padding included.
    """
    if pad_to_multiple_of is not None and pad_to_multiple_of < _LEAST_MULTIPLE:
        yield (
            f"--pad-to-multiple-of {pad_to_multiple_of}: up to torch {'.'.join(map(str, _LATEST_WRONG_ATTENTION))}, "
            f"MPS computes attention of up to 8 tokens wrongly; use {_LEAST_MULTIPLE} or more"
        )
    if tokens >= SHORTEST_WRONG_SUM:
        yield (
            f"mini-batches of up to {tokens} tokens: M1 and M2 sum {SHORTEST_WRONG_SUM} terms and more wrongly; "
            "use --mini-batch-tokens 16384 with --gradient-caching"
        )


def high_watermark_ratio(environment: Mapping[str, str] = os.environ) -> float:
    """The allocator's hard limit as a multiple of Metal's recommended working set; 0: no limit."""
    return _ratio(environment, _HIGH, _HIGH_WATERMARK_RATIO)


def low_watermark_ratio(environment: Mapping[str, str] = os.environ) -> float:
    """The limit from which the allocator gives each large buffer a heap of its own; 0: none."""
    return _ratio(environment, _LOW, _LOW_WATERMARK_RATIO)


def watermark_fault(environment: Mapping[str, str] = os.environ) -> str | None:
    """Why torch refuses the limits of the environment; None if it takes them."""
    high, low = high_watermark_ratio(environment), low_watermark_ratio(environment)
    if high and low > high:
        return f"{_HIGH}={high:g}: is below {_LOW}, which is {low:g}; set {_LOW} too, to at most {high:g}"
    return None


def watermarks(recommended_bytes: int, environment: Mapping[str, str] = os.environ) -> Mapping[str, int | None]:
    """Metal's recommended working set and the allocator's limits in bytes; None where there is no limit."""
    high, low = high_watermark_ratio(environment), low_watermark_ratio(environment)
    return MappingProxyType(
        {
            "recommended_bytes": recommended_bytes,
            "high_watermark_bytes": int(high * recommended_bytes) if high else None,
            "low_watermark_bytes": int(low * recommended_bytes) if low else None,
        }
    )


def _ratio(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(environment.get(name, default))
    except ValueError:
        return default  # torch ignores it too


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)

"""Records of the head alone, beside the matrix product that it needs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec

from splade_bench.results.result import Int, Result

Times: TypeAlias = Annotated[list[float], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadResult(Result):
    """The head alone, forward and backward, beside the matrix product that it needs."""

    head: str
    """streaming or eager."""
    hidden_size: Int
    active_share: float
    """Share of the vectors' entries that are active and get a gradient."""
    texts: Int
    length: Int
    vocab_size: Int
    gemm_times_s: Times
    """Times of weight @ hidden.T, [V, texts * length], into a warm output, alternating with the head's."""
    times_s: Times
    extra_bytes: Int
    """Peak RSS of one forward and backward pass, without inputs, weights and gradients."""
    wall_time_s: float | None = None
    """Time of all rounds."""
    others_cpu_time_s: float | None = None
    """Processor time that all other processes took meanwhile, and the host of a virtual machine."""
    record_type: Literal["head"] = "head"

    @property
    def gemm_flops_per_s(self) -> float:
        """The median rate of that product."""
        flops = 2 * self.vocab_size * self.hidden_size * self.texts * self.length
        return flops / statistics.median(self.gemm_times_s)

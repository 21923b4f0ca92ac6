"""Loss scaling (Micikevicius et al., 2018, "Mixed precision training"): float16 keeps small gradients from vanishing.

Like ``torch.amp.GradScaler``, with its numbers. But the norm, which the trainer reads anyway, says whether a gradient
overflowed: no further pass over the gradients, no further wait for the device.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from typing_extensions import Self

from splade_bench.config import MixedPrecision

logger = logging.getLogger(__name__)

_FIRST_FACTOR = 2.0**16
_DOUBLED_AFTER_STEPS = 2000


@dataclass(slots=True)
class LossScale:
    """Factor of the loss, and so of every gradient; 1 for precisions with the range of float32."""

    factor: float = 1.0
    adapts: bool = False
    steps: int = 0
    """Optimizer steps since the factor last changed."""

    @classmethod
    def for_precision(cls, mixed_precision: MixedPrecision) -> Self:
        return cls(_FIRST_FACTOR, adapts=True) if mixed_precision == "fp16" else cls()

    def lower(self) -> bool:
        """Halve the factor after a gradient that was not finite; False if the loss is not scaled."""
        if not self.adapts or self.factor <= 1.0:
            return False
        self.factor /= 2
        self.steps = 0
        logger.info(
            "a gradient was too large for float16: optimizer step skipped, the loss scale is now %g", self.factor
        )
        return True

    def on_step(self) -> None:
        """Count an optimizer step; double the factor after many."""
        self.steps += 1
        if self.adapts and self.steps == _DOUBLED_AFTER_STEPS:
            self.factor *= 2
            self.steps = 0

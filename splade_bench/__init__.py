"""splade_bench: train SPLADE models in little memory, and measure what that costs.

Importing this package imports no torch; the trainer is in :mod:`splade_bench.training`.
"""

from splade_bench.config import TrainConfig
from splade_bench.errors import SpladeBenchError
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig

__version__ = "1.0.0rc1"
__all__ = ["MEMORY_MODES", "MemoryConfig", "SpladeBenchError", "TrainConfig", "__version__"]

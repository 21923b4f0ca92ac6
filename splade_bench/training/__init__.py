"""Batches in, trained weights out: the step and the loop around it."""

from splade_bench.config import TrainConfig
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.training.state import TrainObserver, TrainResult, TrainState
from splade_bench.training.trainer import Trainer

__all__ = ["MEMORY_MODES", "MemoryConfig", "TrainConfig", "TrainObserver", "TrainResult", "TrainState", "Trainer"]

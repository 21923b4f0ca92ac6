"""The schedules of the learning rate and of the regularizers. Both count optimizer steps, not batches."""

from __future__ import annotations

from splade_bench.config import TrainConfig


def learning_rate_scale(config: TrainConfig, global_step: int, max_steps: int) -> float:
    """Linear rise to 1 over the warm-up, then linear fall to 0."""
    warmup_steps = _steps(config.warmup_steps, config.warmup_ratio, max_steps)
    if global_step < warmup_steps:
        return (global_step + 1) / (warmup_steps + 1)
    return max(0.0, (max_steps - global_step) / max(1.0, max_steps - warmup_steps))


def regularizer_scale(config: TrainConfig, global_step: int, max_steps: int) -> float:
    """Quadratic rise to 1 (Formal et al., SPLADE v2, 2021)."""
    warmup_steps = _steps(config.regularizer_warmup_steps, config.regularizer_warmup_ratio, max_steps)
    return min(1.0, (global_step + 1) / (warmup_steps + 1)) ** 2


def _steps(steps: int | None, ratio: float, max_steps: int) -> float:
    return ratio * max_steps if steps is None else steps


def steps_per_epoch(config: TrainConfig, batches: int) -> int:
    """Optimizer steps of an epoch of so many batches; the last one may have fewer."""
    return -(-batches // config.gradient_accumulation_steps)


def steps_of_run(config: TrainConfig, batches: int) -> int:
    """Optimizer steps of a training whose epochs have so many batches."""
    return config.max_steps or steps_per_epoch(config, batches) * config.epochs

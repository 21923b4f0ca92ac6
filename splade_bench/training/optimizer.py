"""AdamW, with its moments in memory, in half of it, or in a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.adamw import adamw

from splade_bench.config import TrainConfig
from splade_bench.device.planned import once_in_plan
from splade_bench.training.moments import Bfloat16Moments, DiskMoments, Moments, windows


def make_optimizer(parameters: Iterable[Tensor], config: TrainConfig) -> Optimizer:
    """The optimizer that ``config`` describes, for those of ``parameters`` that are trained.

    Raises:
        ConfigError: there is no room for its states.
    """
    memory = config.memory
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "weight_decay": config.weight_decay,
        "fused": memory.fused_optimizer,
    }
    if memory.optimizer_states == "disk":
        return WindowedAdamW(trained, DiskMoments(trained, folder=memory.optimizer_states_dir), **options)
    if memory.optimizer_states == "bfloat16":
        return WindowedAdamW(trained, Bfloat16Moments(seed=config.seed), **options)
    return AdamW(trained, **options)


class WindowedAdamW(Optimizer):
    """AdamW (Loshchilov & Hutter, 2019), one window of elements at a time, with its moments in a :class:`Moments`.

    The arithmetic is torch's own, so with exact moments the weights are those of :class:`torch.optim.AdamW`.

    Memory: what the moments keep, and one window of each.
    """

    def __init__(
        self, parameters: Iterable[Tensor], moments: Moments, *, lr: float, weight_decay: float, fused: bool
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._moments = moments
        self._fused = fused

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. There is no ``closure`` to call."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, lr=group["lr"], weight_decay=group["weight_decay"])

    def _update(self, parameter: Tensor, gradient: Tensor, *, lr: float, weight_decay: float) -> None:
        steps_done = self.state[parameter].get("step", 0)
        elements, gradient = parameter.view(-1), gradient.view(-1)
        for window in once_in_plan(windows(len(elements))):
            first, second = self._moments.load(parameter, window)
            adamw(
                [elements[window]],
                [gradient[window]],
                [first],
                [second],
                [],
                [torch.tensor(float(steps_done), device=parameter.device if self._fused else "cpu")],
                foreach=False,
                fused=self._fused,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=lr,
                weight_decay=weight_decay,
                eps=1e-8,
                maximize=False,
            )
            self._moments.store(parameter, window, (first, second))
            del first, second  # before those of the next window are loaded
        self.state[parameter]["step"] = steps_done + 1

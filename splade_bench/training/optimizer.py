"""AdamW, with its moments where the memory settings want them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.adamw import adamw

from splade_bench.config import TrainConfig
from splade_bench.device.planned import once_in_plan
from splade_bench.training.moments import Bfloat16Moments, DiskMoments, Moments, windows


def make_optimizer(parameters: Iterable[Tensor], config: TrainConfig) -> Optimizer:
    """The optimizer that ``config`` names, over ``parameters``.

    Raises:
        ConfigError: there is no room for its states.
    """
    memory = config.memory
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if memory.optimizer_states == "float32":
        return AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=memory.fused_optimizer)
    moments: Moments
    if memory.optimizer_states == "disk":
        moments = DiskMoments(trained, folder=memory.optimizer_states_dir)
    else:
        moments = Bfloat16Moments(seed=config.seed)
    return WindowedAdamW(
        trained,
        moments=moments,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=memory.fused_optimizer,
    )


class WindowedAdamW(Optimizer):
    """AdamW (Loshchilov & Hutter, 2019) a window of elements at a time, its moments in a :class:`Moments`.

    The arithmetic is torch's own, so with exact moments the weights are those of :class:`torch.optim.AdamW`.

    Memory: what the moments keep, and one window of each.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        moments: Moments,
        lr: float,
        weight_decay: float,
        fused: bool,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._moments = moments
        self._fused = fused

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        steps_done = self.state[parameter].get("step", 0)
        elements, gradient = parameter.view(-1), parameter.grad.view(-1)
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
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
            self._moments.store(parameter, window, (first, second))
        self.state[parameter]["step"] = steps_done + 1

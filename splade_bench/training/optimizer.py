"""AdamW, with its moments in memory, in half of it, in a file, or shared out between processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.adamw import adamw

from splade_bench.config import TrainConfig
from splade_bench.device.planned import once_in_plan
from splade_bench.training.moments import Bfloat16Moments, DiskMoments, Moments, windows

if TYPE_CHECKING:
    from splade_bench.training.together import OneProcess

MOMENT_NAMES = ("exp_avg", "exp_avg_sq")
"""The first and the second moment, as torch calls them."""


def make_optimizer(
    parameters: Iterable[Tensor],
    config: TrainConfig,
    *,
    query_weights: Tensor | None = None,
    processes: OneProcess | None = None,
) -> Optimizer:
    """The optimizer that ``config`` describes, for those of ``parameters`` that are trained.

    Each of its groups has its largest learning rate as ``initial_lr``. ``query_weights``, which are one of
    ``parameters``, have a group of their own, without weight decay. ``processes`` share out moments that are sharded.

    Raises:
        ConfigError: there is no room for its states.
    """
    memory = config.memory
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    of_model = [parameter for parameter in trained if parameter is not query_weights]
    groups: list[dict[str, Any]] = [{"params": of_model, "initial_lr": config.learning_rate}]
    if query_weights is not None:
        groups.append({"params": [query_weights], "initial_lr": config.query_learning_rate, "weight_decay": 0.0})
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "weight_decay": config.weight_decay,
        "fused": memory.fused_optimizer,
    }
    if memory.optimizer_states == "disk":
        return WindowedAdamW(groups, DiskMoments(trained, folder=memory.optimizer_states_dir), **options)
    if memory.optimizer_states == "bfloat16":
        return WindowedAdamW(groups, Bfloat16Moments(seed=config.seed), **options)
    if memory.optimizer_states == "sharded" and processes and (moments := processes.sharded_moments(trained)):
        return WindowedAdamW(groups, moments, **options)
    return AdamW(groups, **options)


class WindowedAdamW(Optimizer):
    """AdamW (Loshchilov & Hutter, 2019), one window of elements at a time, with its moments in a :class:`Moments`.

    The arithmetic is torch's own, so with exact moments the weights are those of :class:`torch.optim.AdamW`.

    Memory: what the moments keep, and one window of each.
    """

    def __init__(
        self, parameters: Iterable[dict[str, Any]], moments: Moments, *, lr: float, weight_decay: float, fused: bool
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self.moments = moments
        self._fused = fused

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. There is no ``closure`` to call."""
        updated: list[Tensor] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, lr=group["lr"], weight_decay=group["weight_decay"])
                    updated.append(parameter)
        self.moments.share_updated(updated)

    def _step_tensor(self, steps_done: float, device: torch.device) -> Tensor:
        """As AdamW keeps it: beside the parameter if it is fused, filled there, because a copy would wait for it."""
        return torch.full((), steps_done, device=device) if self._fused else torch.tensor(steps_done)

    def _update(self, parameter: Tensor, gradient: Tensor, *, lr: float, weight_decay: float) -> None:
        steps_done = self.state[parameter].get("step", 0)
        elements, gradient = parameter.view(-1), gradient.view(-1)
        own = self.moments.own(parameter)
        for window in once_in_plan(windows(own.stop, own.start)):
            first, second = self.moments.load(parameter, window)
            adamw(
                [elements[window]],
                [gradient[window]],
                [first],
                [second],
                [],
                [self._step_tensor(float(steps_done), parameter.device)],
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
            self.moments.store(parameter, window, (first, second))
            del first, second  # before those of the next window are loaded
        self.state[parameter]["step"] = steps_done + 1


def steps_done(optimizer: Optimizer, parameter: Tensor) -> int:
    """Updates of a parameter so far."""
    return int(optimizer.state[parameter]["step"]) if parameter in optimizer.state else 0


def kept_moment(optimizer: Optimizer, parameter: Tensor, row: int, window: slice) -> Tensor:
    """A window of the first (``row`` 0) or second (1) moment as the optimizer keeps it; valid until the next call."""
    if isinstance(optimizer, WindowedAdamW):
        return optimizer.moments.kept(parameter, row, window)
    moment: Tensor = optimizer.state[parameter][MOMENT_NAMES[row]]
    return moment.view(-1)[window]


def own_windows(optimizer: Optimizer, parameter: Tensor) -> list[slice]:
    """The windows of a parameter whose moments this process keeps."""
    own = optimizer.moments.own(parameter) if isinstance(optimizer, WindowedAdamW) else slice(0, parameter.numel())
    return windows(own.stop, own.start)


def restore_steps(optimizer: Optimizer, parameter: Tensor, steps: int) -> None:
    """Make ``parameter`` one that was updated ``steps`` times; :func:`restore_moment` then sets its moments."""
    if isinstance(optimizer, WindowedAdamW):
        optimizer.state[parameter]["step"] = steps
        return
    on_device = parameter.device if optimizer.defaults["fused"] else "cpu"
    optimizer.state[parameter] = {"step": torch.tensor(float(steps), device=on_device)} | {
        name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in MOMENT_NAMES
    }


def restore_moment(optimizer: Optimizer, parameter: Tensor, row: int, window: slice, moment: Tensor) -> None:
    """Put back what :func:`kept_moment` returned, a window of :func:`own_windows`."""
    if isinstance(optimizer, WindowedAdamW):
        optimizer.moments.keep(parameter, row, window, moment)
    else:
        optimizer.state[parameter][MOMENT_NAMES[row]].view(-1)[window] = moment

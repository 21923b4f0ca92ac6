"""How far a run is, what an optimizer step computed, and who is told: plain data that all of a training shares."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Protocol

from splade_bench.training.step import Phase

FINAL_LOSS_SHARE = 0.1
STOP_FIELDS = ("stop_requested", "stop_reason")
"""The fields of :class:`TrainState` that are about this process, not about the run."""


@dataclass(slots=True)
class TrainState:
    """How far a run is. ``global_step`` counts optimizer steps, ``micro_step`` batches.

    A checkpoint keeps all of it but the two fields about stopping.
    """

    max_steps: int
    active_share: float = 0.0
    """Share of the document vectors' entries that were active in the last optimizer step."""
    global_step: int = 0
    micro_step: int = 0
    queries_seen: int = 0
    epoch: int = 0
    batches_done: int = 0
    """Batches of this epoch that are trained on, those of an optimizer step that float16 skipped included."""
    learning_rate: float = 0.0
    """Of the last optimizer step."""
    gradient_norm: float = 0.0
    """Of the last optimizer step, before clipping."""
    mini_batch_tokens: int | None = None
    """The limit of a mini-batch after ``--on-oom halve`` has halved it; None: as configured."""
    stop_requested: bool = False
    """Set by an observer or a signal handler: the run ends at the next mini-batch, with the last complete step."""
    stop_reason: str | None = None
    """Why an observer ends the run, such as early stopping."""


class TrainObserver(Protocol):
    """Sees a run without changing what it computes. A class that inherits from it needs only the methods it fills.

    An observer whose state must survive a resume has two more methods, ``state_dict()``, which returns JSON types, and
    ``load_state_dict(state)``. A checkpoint keeps that state under the name of its class.
    """

    def on_phase(self, phase: Phase) -> None:
        """A part of an optimizer step begins."""
        return

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        """An optimizer step is done."""
        return


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLoss:
    """Means over the queries of one optimizer step, as plain numbers."""

    total: float
    ranking: float
    query_regularizer: float
    document_regularizer: float
    query_active_dims: float
    document_active_dims: float

    def by_name(self) -> dict[str, float]:
        """The numbers by the names that logs have: the total is ``loss``."""
        terms = asdict(self)
        return {"loss": terms.pop("total"), **terms}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """The loss of each optimizer step, and how far a run came."""

    losses: list[float] = field(repr=False)
    global_step: int
    queries_seen: int
    interrupted: bool
    """Whether the run ended before its last step, and not because an observer found it good enough."""
    stop_reason: str | None = None

    @property
    def final_loss(self) -> float | None:
        """Mean loss over the last tenth of the optimizer steps; None without a step."""
        last = self.losses[-max(1, round(len(self.losses) * FINAL_LOSS_SHARE)) :]
        return sum(last) / len(last) if last else None

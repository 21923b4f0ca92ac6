"""Several processes compute the gradient and the loss of one: for every objective, in every memory mode."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import torch
from equality import FP64, GradientsSeen, assert_gradients_are_near, make_config
from threads import ThreadGroup, run_together
from tokenizers import Tokenizer
from torch import Tensor

from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.errors import ConfigError, TrainingError
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.training import Trainer, shared_loss
from splade_bench.training.collapse import CollapseError
from splade_bench.training.state import StepLoss, TrainState
from splade_bench.training.together import OneProcess, SeveralProcesses

OBJECTIVES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "contrastive": {"temperature": 5.0},
        "cosine": {"similarity": "cosine", "gradient_accumulation_steps": 2},
        "margin": {"loss": "margin", "negatives_per_query": 2},
        "margin-mse": {"loss": "margin-mse", "negatives_per_query": 2},
        "kl": {"loss": "kl", "negatives_per_query": 2, "temperature": 2.0, "teacher_temperature": 0.5},
        "sum": {"loss": "contrastive+kl+0.05*margin-mse", "regularized_documents": "all"},
        "l1 and flops": {"query_regularizer_type": "l1"},
        "mean-l1": {"regularizer": "mean-l1", "regularized_documents": "all"},
        # Between the active entries of the texts, so that some are regularized and others are not.
        "threshold": {"regularizer_threshold": 65, "regularized_documents": "all"},
        "static queries": {"query_encoder": "static"},
        "prompts": {"query_prompt": "query: ", "document_prompt": "text: "},
        "two batches a step": {"gradient_accumulation_steps": 2},
        # Fewer queries than four processes: some have none, and are in the loss without the step of the mode.
        "few queries": {"batch_size": 3, "gradient_accumulation_steps": 2},
    }
)


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of which the last is smaller and cannot be shared out evenly."""
    monkeypatch.setattr(shared_loss, "BLOCK_COLUMNS", 150)


def config_of(name: str, mode: str, **changes: Any) -> TrainConfig:
    weights = {"query_regularizer_weight": 0.1, "document_regularizer_weight": 0.2, "regularizer_warmup_steps": 0}
    memory = replace(MEMORY_MODES[mode], mini_batch_size=4)
    return make_config(**{"batch_size": 8, "memory": memory} | weights | OBJECTIVES[name] | changes)


def trained(
    encoder: SpladeEncoder, triples: Sequence[Triple], config: TrainConfig, processes: OneProcess | None = None
) -> tuple[Trainer, GradientsSeen]:
    model = copy.deepcopy(encoder).double()
    seen = GradientsSeen(model)
    trainer = Trainer(model, triples, config, observers=[seen], processes=processes)
    trainer.train()
    return trainer, seen


@pytest.mark.parametrize("mode", sorted(MEMORY_MODES))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_and_four_processes_have_the_gradient_of_one(
    encoder: SpladeEncoder, scored: Sequence[Triple], name: str, mode: str
) -> None:
    config = config_of(name, mode)
    alone, plain = trained(encoder, scored, config)

    for size in (2, 4):
        for trainer, seen in run_together(
            size, lambda group: trained(encoder, scored, config, SeveralProcesses(group))
        ):
            assert_gradients_are_near(seen.steps[0], plain.steps[0], FP64)
            assert trainer.losses == pytest.approx(alone.losses, rel=1e-12)
            assert trainer.state.queries_seen == alone.state.queries_seen


def test_all_processes_have_the_same_weights_to_the_bit(encoder: SpladeEncoder, scored: Sequence[Triple]) -> None:
    config = config_of("contrastive", "memory-efficient", max_steps=5, epochs=2)

    (one, _), *others = run_together(3, lambda group: trained(encoder, scored, config, SeveralProcesses(group)))

    for other, _ in others:
        assert other.losses == one.losses
        assert other.state == one.state
        for ours, theirs in zip(one.encoder.parameters(), other.encoder.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_twenty_steps_of_sgd_have_the_losses_of_one_process(
    encoder: SpladeEncoder, scored: Sequence[Triple], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sgd(parameters: Iterable[Tensor], config: TrainConfig, **_: Any) -> torch.optim.Optimizer:
        groups = [{"params": [*parameters], "initial_lr": config.learning_rate}]
        return torch.optim.SGD(groups, lr=config.learning_rate)

    monkeypatch.setattr("splade_bench.training.trainer.make_optimizer", sgd)
    config = config_of("sum", "memory-efficient", max_steps=20, epochs=9, learning_rate=0.05)

    def losses(processes: OneProcess | None = None) -> list[float]:
        trainer = Trainer(copy.deepcopy(encoder), scored, config, processes=processes)
        trainer.train()
        return trainer.losses

    alone = losses()

    assert len(alone) == 20
    assert alone[-1] < 0.95 * alone[0], "the losses change while it trains"
    for size in (2, 4):
        for together in run_together(size, lambda group: losses(SeveralProcesses(group))):
            assert together == pytest.approx(alone, rel=1e-5)


def test_all_stop_where_one_was_asked_to(encoder: SpladeEncoder, scored: Sequence[Triple]) -> None:
    """Between two batches, and with the same weights; which one was asked does not matter."""
    config = config_of("contrastive", "memory-efficient", max_steps=12, epochs=9)

    class Asks:
        def __init__(self, trainer: Trainer) -> None:
            self._trainer = trainer

        def on_phase(self, phase: str) -> None:
            if phase == "backward" and self._trainer.state.global_step == 3:
                self._trainer.request_stop()

        def on_step_end(self, *_: object) -> None:
            pass

    def stopped(group: ThreadGroup) -> Trainer:
        trainer = Trainer(copy.deepcopy(encoder), scored, config, processes=SeveralProcesses(group))
        if group.rank == 1:
            trainer.observers.append(Asks(trainer))
        assert trainer.train().interrupted
        return trainer

    trainers = run_together(3, stopped)

    assert {trainer.state.global_step for trainer in trainers} == {4}


def test_what_an_observer_of_rank_0_decides_all_do(encoder: SpladeEncoder, scored: Sequence[Triple]) -> None:
    class Decides:
        def on_phase(self, phase: str) -> None:
            pass

        def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
            if state.global_step == 2:
                raise CollapseError("the vectors are empty")

    def failed(group: ThreadGroup) -> str:
        observers = [Decides()] if group.rank == 0 else []
        config = config_of("contrastive", "memory-efficient", max_steps=5)
        processes = SeveralProcesses(group)
        trainer = Trainer(copy.deepcopy(encoder), scored, config, observers=observers, processes=processes)
        with pytest.raises(TrainingError) as caught:
            trainer.train()
        assert trainer.state.global_step == 2
        return str(caught.value)

    assert run_together(2, failed) == ["the vectors are empty", "rank 0: the vectors are empty"]


def test_other_weights_are_refused(tokenizer: Tokenizer, scored: Sequence[Triple]) -> None:
    def refused(group: ThreadGroup) -> None:
        encoder = build_preset("toy", tokenizer, seed=group.rank)
        trainer = Trainer(encoder, scored, config_of("contrastive", "article"), processes=SeveralProcesses(group))
        with pytest.raises(ConfigError, match="the weights of rank 1 are not those of rank 0"):
            trainer.train()

    run_together(2, refused)

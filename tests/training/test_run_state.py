"""A run that goes on from a checkpoint: bit for bit the run that was never stopped, or refused by name."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tokenizers import Tokenizer

from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.errors import ConfigError, DataError, NotFiniteError
from splade_bench.memory_modes import MEMORY_MODES, memory_mode
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.training.collapse import CollapseGuard
from splade_bench.training.run_state import load_weights, resume_run, save_run
from splade_bench.training.saved_run import STATE_NAME
from splade_bench.training.state import StepLoss, TrainState
from splade_bench.training.trainer import Trainer

STEPS = 5
# Windows of 2 batches in epochs of 11 batches: the last window of an epoch has one, and epochs end within the run.
CONFIG = TrainConfig(
    max_length=16, batch_size=3, gradient_accumulation_steps=2, learning_rate=1e-2, max_steps=STEPS, epochs=9, seed=3
)
MODES = {
    **{name: memory_mode(name) for name in MEMORY_MODES},
    "mini-batches": memory_mode("memory-efficient+smallest-mini-batches"),
    "bfloat16": memory_mode("memory-efficient+optimizer-states-bfloat16"),
    "disk": memory_mode("memory-efficient+optimizer-states-disk"),
    "plain-adamw": memory_mode("memory-efficient-without-fused-optimizer"),
}


@pytest.fixture
def make_encoder(tokenizer: Tokenizer) -> Callable[[], SpladeEncoder]:
    return lambda: build_preset("toy", tokenizer, seed=0, dropout=0.2)


class StopAfter:
    """Asks for a stop after an optimizer step, or within the next one."""

    def __init__(self, trainer: Trainer, step: int, phase: str | None = None) -> None:
        self._trainer, self._step, self._phase = trainer, step, phase

    def on_phase(self, phase: str) -> None:
        if phase == self._phase and self._trainer.state.global_step == self._step:
            self._trainer.request_stop()

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        if self._phase is None and state.global_step == self._step:
            self._trainer.request_stop()


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.encoder.named_parameters()}


def run_to_the_end(encoder: SpladeEncoder, triples: Sequence[Triple], config: TrainConfig) -> Trainer:
    trainer = Trainer(encoder, triples, config)
    trainer.train()
    return trainer


def stopped_and_saved(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    config: TrainConfig,
    folder: Path,
    *,
    step: int,
    phase: str | None = None,
) -> Trainer:
    trainer = Trainer(encoder, triples, config)
    trainer.observers.append(StopAfter(trainer, step, phase))
    result = trainer.train()
    assert result.interrupted
    assert result.global_step == step
    folder.mkdir()
    save_run(trainer, folder, {"--train-file": "a"})
    return trainer


def resumed(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    config: TrainConfig,
    folder: Path,
    inputs: Mapping[str, str] = {"--train-file": "a"},
) -> Trainer:
    trainer = Trainer(encoder, triples, config)
    resume_run(trainer, folder, inputs)
    return trainer


def assert_same_run(one: Trainer, other: Trainer) -> None:
    assert one.losses == other.losses
    assert one.state == other.state
    for name, weight in weights(other).items():
        assert torch.equal(weights(one)[name], weight), name


@pytest.mark.parametrize("memory", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("step", "phase"), [(2, None), (3, "backward")])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    make_encoder: Callable[[], SpladeEncoder],
    triples: Sequence[Triple],
    memory: Any,
    step: int,
    phase: str | None,
    tmp_path: Path,
) -> None:
    config = replace(CONFIG, memory=memory)
    whole = run_to_the_end(make_encoder(), triples, config)
    stopped_and_saved(make_encoder(), triples, config, tmp_path / "saved", step=step, phase=phase)
    torch.manual_seed(99)  # a new process is somewhere else

    again = resumed(make_encoder(), triples, config, tmp_path / "saved")
    again.train()

    assert_same_run(again, whole)


def test_what_a_model_has_beside_its_weights_goes_on(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    config = replace(CONFIG, query_encoder="static", activation="double-log1p", query_prompt="who ")
    whole = run_to_the_end(make_encoder(), triples, config)
    stopped_and_saved(make_encoder(), triples, config, tmp_path / "checkpoint", step=3)

    again = resumed(make_encoder(), triples, config, tmp_path / "checkpoint")
    again.train()

    assert_same_run(again, whole)
    assert again.encoder.query_weights is not None


@pytest.mark.parametrize("step", range(1, STEPS))
def test_every_step_can_be_the_last_one_before_a_stop(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], step: int, tmp_path: Path
) -> None:
    """The epochs of 11 batches end within the fifth step's window and after it."""
    config = replace(CONFIG, max_steps=STEPS + 3)
    whole = run_to_the_end(make_encoder(), triples, config)
    stopped_and_saved(make_encoder(), triples, config, tmp_path / "saved", step=step + 2, phase="forward")

    again = resumed(make_encoder(), triples, config, tmp_path / "saved")
    again.train()

    assert_same_run(again, whole)


def test_a_loss_scale_that_was_lowered_is_kept(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    config = replace(CONFIG, mixed_precision="fp16")
    trainer = Trainer(make_encoder(), triples, config)
    trainer.loss_scale.factor, trainer.loss_scale.steps = 2.0**10, 1990
    (tmp_path / "saved").mkdir()
    trainer.random_state = None
    trainer.observers.append(StopAfter(trainer, 2))
    trainer.train()
    save_run(trainer, tmp_path / "saved", {"--train-file": "a"})

    again = resumed(make_encoder(), triples, config, tmp_path / "saved")

    assert (again.loss_scale.factor, again.loss_scale.steps) == (2.0**10, 1992)


def test_a_limit_of_mini_batches_is_kept(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    trainer = Trainer(make_encoder(), triples, replace(CONFIG, memory=MEMORY_MODES["standard"]))
    trainer.limit_mini_batches(40)
    trainer.observers.append(StopAfter(trainer, 1))
    trainer.train()
    (tmp_path / "saved").mkdir()
    save_run(trainer, tmp_path / "saved", {"--train-file": "a"})

    again = resumed(make_encoder(), triples, trainer.config, tmp_path / "saved")

    assert again.encoder.memory.gradient_caching
    assert again.encoder.memory.mini_batch_tokens == 40


def test_random_states_of_python_and_numpy_go_on(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    random.seed(1)
    numpy.random.seed(1)
    stopped_and_saved(make_encoder(), triples, CONFIG, tmp_path / "saved", step=1)
    drawn = random.random(), numpy.random.rand()

    resumed(make_encoder(), triples, CONFIG, tmp_path / "saved")

    assert (random.random(), numpy.random.rand()) == drawn


def test_an_observer_gets_its_state_back(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    class Counter:
        def __init__(self) -> None:
            self.steps = 0

        def on_phase(self, phase: str) -> None: ...

        def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
            self.steps += 1

        def state_dict(self) -> dict[str, int]:
            return {"steps": self.steps}

        def load_state_dict(self, state: Mapping[str, int]) -> None:
            self.steps = state["steps"]

    first, second = Counter(), Counter()
    trainer = Trainer(make_encoder(), triples, CONFIG, observers=[first])
    trainer.observers.append(StopAfter(trainer, 2))
    trainer.train()
    (tmp_path / "saved").mkdir()
    save_run(trainer, tmp_path / "saved", {})
    again = Trainer(make_encoder(), triples, CONFIG, observers=[second])
    resume_run(again, tmp_path / "saved", {})
    again.train()

    assert second.steps == STEPS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4}, r"--batch-size was 3 and is 4"),
        ({"learning_rate": 1e-3}, r"--learning-rate was 0.01 and is 0.001"),
        ({"seed": 4}, r"--seed was 3 and is 4"),
        ({"loss": "margin"}, r"--loss was contrastive and is margin"),
        ({"mixed_precision": "bf16"}, r"--mixed-precision was no and is bf16"),
        ({"memory": memory_mode("memory-efficient+no-attention-dropout")}, r"--attention-dropout was True and is"),
        ({"memory": memory_mode("memory-efficient+optimizer-states-bfloat16")}, r"--optimizer-states was float32"),
        ({"max_steps": 4}, r"the run had 5 optimizer steps and has 4 now, but it may only grow; raise --max-steps"),
    ],
)
def test_a_changed_setting_that_matters_is_refused_by_name(
    make_encoder: Callable[[], SpladeEncoder],
    triples: Sequence[Triple],
    changes: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    stopped_and_saved(make_encoder(), triples, CONFIG, tmp_path / "saved", step=2)

    with pytest.raises(ConfigError, match=message):
        resumed(make_encoder(), triples, replace(CONFIG, **changes), tmp_path / "saved")


def test_a_setting_that_an_earlier_version_did_not_have_was_its_default(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    stopped_and_saved(make_encoder(), triples, CONFIG, tmp_path / "checkpoint", step=2)
    path = tmp_path / "checkpoint" / STATE_NAME
    state = json.loads(path.read_text())
    del state["config"]["temperature"]
    path.write_text(json.dumps(state))

    assert resumed(make_encoder(), triples, CONFIG, tmp_path / "checkpoint").state.global_step == 2
    with pytest.raises(ConfigError, match=r"--temperature was 1\.0 and is 2\.0"):
        resumed(make_encoder(), triples, replace(CONFIG, temperature=2.0), tmp_path / "checkpoint")


def test_other_data_is_refused(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    stopped_and_saved(make_encoder(), triples, CONFIG, tmp_path / "saved", step=2)

    with pytest.raises(ConfigError, match="--train-file was a and is b"):
        resumed(make_encoder(), triples, CONFIG, tmp_path / "saved", {"--train-file": "b"})


def test_more_steps_and_another_way_to_the_same_gradient_are_allowed(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    """From moments in memory to moments on disk: the same weights, because both are exact."""
    stopped_and_saved(make_encoder(), triples, CONFIG, tmp_path / "saved", step=2)
    longer = replace(CONFIG, max_steps=STEPS + 2)
    in_memory = resumed(make_encoder(), triples, longer, tmp_path / "saved")
    in_memory.train()
    on_disk = resumed(
        make_encoder(),
        triples,
        replace(longer, memory=memory_mode("memory-efficient+optimizer-states-disk")),
        tmp_path / "saved",
    )
    on_disk.train()

    assert in_memory.state.global_step == STEPS + 2
    assert_same_run(on_disk, in_memory)


def test_weights_that_are_not_finite_are_not_saved(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    trainer = run_to_the_end(make_encoder(), triples, replace(CONFIG, max_steps=1))
    with torch.no_grad():
        trainer.encoder.decoder.weight[0, 0] = float("nan")

    with pytest.raises(NotFiniteError, match=r"decoder.weight is not finite"):
        save_run(trainer, tmp_path / "saved", {})


def test_the_weights_of_a_checkpoint_can_be_loaded_alone(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    trainer = stopped_and_saved(make_encoder(), triples, CONFIG, tmp_path / "saved", step=2)
    encoder = make_encoder()

    load_weights(encoder, tmp_path / "saved")

    for name, weight in encoder.named_parameters():
        assert torch.equal(weight, weights(trainer)[name]), name


def test_a_state_that_cannot_be_read_is_named(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], tmp_path: Path
) -> None:
    stopped_and_saved(make_encoder(), triples, CONFIG, tmp_path / "saved", step=2)
    (tmp_path / "saved" / STATE_NAME).write_text("{}")

    with pytest.raises(DataError, match=f"{STATE_NAME}: is not the state of a training"):
        resumed(make_encoder(), triples, CONFIG, tmp_path / "saved")


def test_a_stop_leaves_within_a_mini_batch(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple]
) -> None:
    """Each text is a mini-batch of its own: after the request, no further one is computed."""
    trainer = Trainer(make_encoder(), triples, replace(CONFIG, memory=MODES["mini-batches"]))
    before = weights(trainer)
    calls_after: list[int] = []
    forward = trainer.encoder.pool

    def pool(*arguments: Any, **keywords: Any) -> Any:
        if trainer.state.stop_requested:
            calls_after.append(1)
        trainer.request_stop()
        return forward(*arguments, **keywords)

    trainer.encoder.pool = pool  # type: ignore[method-assign]
    result = trainer.train()

    assert result.global_step == 0
    assert not calls_after
    for name, weight in weights(trainer).items():
        assert torch.equal(weight, before[name])


def test_copies_do_not_share_state(make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple]) -> None:
    """A trainer is rolled back to what it was, not to what it became."""
    trainer = Trainer(make_encoder(), triples, CONFIG)
    trainer.observers.append(StopAfter(trainer, 2, "backward"))
    trainer.train()
    at_stop = copy.copy(trainer.state)

    assert at_stop.global_step == 2
    assert at_stop.micro_step == 4, "the batch under way does not count"
    assert at_stop.batches_done == 4


@pytest.mark.parametrize(
    "change",
    [
        {"python_random_state": [3, [1, 2], None]},
        {"numpy_random_state": ["MT19937", "a", 0, 0.0]},
        {"observers": {"CollapseGuard": [1]}},
    ],
    ids=str,
)
def test_odd_values_in_a_state_are_a_damaged_checkpoint(
    make_encoder: Callable[[], SpladeEncoder], triples: Sequence[Triple], change: dict[str, Any], tmp_path: Path
) -> None:
    stopped_and_saved(make_encoder(), triples, CONFIG, tmp_path / "saved", step=2)
    path = tmp_path / "saved" / STATE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    trainer = Trainer(make_encoder(), triples, CONFIG, observers=[CollapseGuard(512)])

    with pytest.raises(DataError, match=r"saved.*(cannot be restored|is not the state of a training)"):
        resume_run(trainer, tmp_path / "saved", {"--train-file": "a"})

"""Moments shared out between processes: the same weights and checkpoints as with all moments in each of them."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import make_config
from threads import ThreadGroup, run_together
from tokenizers import Tokenizer
from torch import Tensor

from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.device.planned import PlannedAllocator, PlannedDevice
from splade_bench.device.storages import LiveStorages
from splade_bench.distributed.group import RankError
from splade_bench.distributed.simulated import SimulatedGroup
from splade_bench.errors import TrainingError
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.planner.candidates import SETTINGS_TO_TRY
from splade_bench.planner.rehearsal import Lengths, rehearse
from splade_bench.training import Trainer, moments
from splade_bench.training.checkpoints import Checkpoint, Checkpoints
from splade_bench.training.optimizer import WindowedAdamW, kept_moment, make_optimizer
from splade_bench.training.run_state import resume_run, save_run
from splade_bench.training.saving import CheckpointSaver
from splade_bench.training.sharded_moments import QUESTION_NUMBERS, ShardedMoments
from splade_bench.training.together import OneProcess, SeveralProcesses

WINDOW = 1000
# What rank 0 says to the others: whether it failed, whether it stops, and a question.
MESSAGE = 2 + QUESTION_NUMBERS
SAVED_STEP, STEPS = 2, 3
# transformers loads a model with settings of the whole process.
LOADING = threading.Lock()


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters then have several windows, and a process's elements begin and end within one."""
    monkeypatch.setattr(moments, "WINDOW_ELEMENTS", WINDOW)


def config_of(states: str, mode: str = "memory-efficient", **changes: Any) -> TrainConfig:
    memory = replace(MEMORY_MODES[mode], mini_batch_size=4, optimizer_states=states)  # type: ignore[arg-type]
    return make_config(**{"max_steps": STEPS, "epochs": 9, "memory": memory} | changes)


class SavesAt:
    """An observer of rank 0 that saves one optimizer step."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self._trainer, self._folder = trainer, folder

    def on_phase(self, phase: str) -> None:
        pass

    def on_step_end(self, *_: object) -> None:
        if self._trainer.state.global_step == SAVED_STEP:
            self._folder.mkdir()
            save_run(self._trainer, self._folder, {})


def trained(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    config: TrainConfig,
    processes: OneProcess | None = None,
    *,
    saved: Path | None = None,
    resumed: Path | None = None,
) -> Trainer:
    trainer = Trainer(copy.deepcopy(encoder), triples, config, processes=processes)
    if saved and trainer.processes.rank == 0:
        trainer.observers.append(SavesAt(trainer, saved))
    if resumed:
        with LOADING:
            resume_run(trainer, resumed)
    trainer.train()
    return trainer


def weights(trainer: Trainer) -> list[Tensor]:
    return [parameter.detach() for parameter in trainer.encoder.parameters()]


def assert_same(trainer: Trainer, other: Trainer) -> None:
    assert trainer.losses == other.losses
    assert all(map(torch.equal, weights(trainer), weights(other)))


@pytest.fixture
def in_each(encoder: SpladeEncoder, triples: Sequence[Triple]) -> Callable[..., list[Trainer]]:
    """The trainers of so many processes with these states."""

    def run(size: int, states: str, **options: Any) -> list[Trainer]:
        mode, dtype = options.pop("mode", "memory-efficient"), options.pop("dtype", torch.float32)

        def train(group: ThreadGroup) -> Trainer:
            model = copy.deepcopy(encoder).to(dtype)
            return trained(model, triples, config_of(states, mode), SeveralProcesses(group), **options)

        return run_together(size, train)

    return run


@pytest.mark.parametrize(
    ("mode", "dtype"), [*((mode, torch.float32) for mode in sorted(MEMORY_MODES)), ("standard", torch.float64)]
)
def test_weights_are_to_the_bit_those_of_all_moments_in_each_process(
    in_each: Callable[..., list[Trainer]], mode: str, dtype: torch.dtype
) -> None:
    (plain, *_), sharded = (in_each(3, states, mode=mode, dtype=dtype) for states in ("float32", "sharded"))

    assert plain.losses[-1] != plain.losses[0]
    for trainer in sharded:
        assert_same(trainer, plain)


def test_a_checkpoint_is_to_the_byte_that_of_all_moments_in_each_process(
    in_each: Callable[..., list[Trainer]], tmp_path: Path
) -> None:
    for states in ("float32", "sharded"):
        in_each(3, states, saved=tmp_path / states)

    for name in ("optimizer.safetensors", "model.safetensors"):
        assert (tmp_path / "sharded" / name).read_bytes() == (tmp_path / "float32" / name).read_bytes()


@pytest.mark.parametrize(
    ("saved_by", "resumed_with"),
    [("sharded", "sharded"), ("sharded", "float32"), ("float32", "sharded"), ("sharded", "disk")],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    in_each: Callable[..., list[Trainer]], tmp_path: Path, saved_by: str, resumed_with: str
) -> None:
    whole, *_ = in_each(2, saved_by, saved=tmp_path / "saved")

    for trainer in in_each(2, resumed_with, resumed=tmp_path / "saved"):
        assert_same(trainer, whole)


@pytest.mark.parametrize("size", [1, 3])
def test_another_number_of_processes_goes_on(in_each: Callable[..., list[Trainer]], tmp_path: Path, size: int) -> None:
    whole, *_ = in_each(2, "sharded", saved=tmp_path / "saved")

    for trainer in in_each(size, "sharded", resumed=tmp_path / "saved"):
        assert trainer.losses == pytest.approx(whole.losses, abs=1e-6)
        for ours, theirs in zip(weights(trainer), weights(whole), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_one_process_has_all_moments(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    plain, alone = (trained(encoder, triples, config_of(states)) for states in ("float32", "sharded"))

    assert type(alone.optimizer) is torch.optim.AdamW
    assert all(change.memory.get("optimizer_states") != "sharded" for change in SETTINGS_TO_TRY), "a fit is of one"
    assert_same(alone, plain)


def test_only_what_has_a_gradient_is_updated_and_sent() -> None:
    used, idle = (torch.nn.Parameter(torch.ones(300)) for _ in range(2))
    group = SimulatedGroup(0, 2)
    optimizer = make_optimizer([used, idle], config_of("sharded"), processes=SeveralProcesses(group))

    used.grad = torch.ones(300)
    optimizer.step()

    assert torch.equal(idle, torch.ones(300))
    assert used.ne(1).all()  # of 600 elements rank 0 has the first 300 and more
    assert group.exchanged_bytes == used.nbytes


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_step_sends_the_own_weights_to_each_of_the_others(size: int) -> None:
    sizes = (5000, 70, 3, 2900)
    sent = 0
    for rank in range(size):
        group = SimulatedGroup(rank, size)
        parameters = [torch.nn.Parameter(torch.ones(one)) for one in sizes]
        optimizer = make_optimizer(parameters, config_of("sharded"), processes=SeveralProcesses(group))
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert group.exchanged_bytes <= 4 * (size - 1) * (sum(sizes) / size + 128)
        sent += group.exchanged_bytes

    assert sent == 4 * (size - 1) * sum(sizes)


def moment_bytes(trainer: Trainer) -> int:
    assert isinstance(trainer.optimizer, WindowedAdamW)
    kept = trainer.optimizer.moments
    assert isinstance(kept, ShardedMoments)
    return kept.size_bytes


def test_a_plan_has_the_moments_of_the_process_with_most_of_them(
    in_each: Callable[..., list[Trainer]], tokenizer: Tokenizer
) -> None:
    size, config = 4, config_of("sharded")
    device = PlannedDevice("cpu", PlannedAllocator())
    lengths = Lengths.full(config).share_of(size)
    peak = rehearse(lambda: build_preset("toy", tokenizer, seed=0), config, lengths, device=device, active_share=0.1)

    counted = [moment_bytes(trainer) for trainer in in_each(size, "sharded")]

    assert peak.by_category["optimizer"] == max(counted)
    assert max(counted) <= 1.05 * sum(counted) / size


def test_moments_of_others_come_window_by_window(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    processes = SeveralProcesses(SimulatedGroup(0, 4))
    trainer = trained(encoder, triples, config_of("sharded", max_steps=1), processes)
    largest = max(trainer.encoder.parameters(), key=Tensor.numel)
    assert largest.numel() > 16 * WINDOW

    with processes.on_rank_0(trainer.state), LiveStorages() as live:
        for row, window in itertools.product(range(2), moments.windows(largest.numel())):
            assert len(kept_moment(trainer.optimizer, largest, row, window)) == window.stop - window.start

    # The own moments, one window that is sent, and one that comes.
    assert live.peak().peak_bytes <= moment_bytes(trainer) + 2 * 4 * WINDOW


class DiesWhileSaving(SimulatedGroup):
    """Rank 0 of 2. The other dies when it has answered some questions about an optimizer step after the first."""

    def __init__(self) -> None:
        super().__init__(0, 2)
        self.questions_left = 5
        self.steps_done = 0

    def on_phase(self, phase: str) -> None:
        pass

    def on_step_end(self, *_: object) -> None:
        self.steps_done += 1

    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        if self.steps_done > 1 and numbers[-QUESTION_NUMBERS:] != [-1] * QUESTION_NUMBERS and len(numbers) == MESSAGE:
            self.questions_left -= 1
            if not self.questions_left:
                raise RankError("rank 1 died")
        return super().gather(numbers)


def test_a_checkpoint_whose_moments_do_not_all_come_is_not_there(
    encoder: SpladeEncoder, triples: Sequence[Triple], tmp_path: Path
) -> None:
    group = DiesWhileSaving()
    trainer = Trainer(copy.deepcopy(encoder), triples, config_of("sharded"), processes=SeveralProcesses(group))
    trainer.observers += [group, CheckpointSaver(trainer, Checkpoints(tmp_path), every=1)]

    with pytest.raises(RankError, match="rank 1 died"):
        trainer.train()

    assert group.questions_left == 0
    assert trainer.state.global_step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    Checkpoint.at(tmp_path / "checkpoint-1").verify()


def test_moments_of_others_are_out_of_reach_while_they_do_not_wait(
    encoder: SpladeEncoder, triples: Sequence[Triple], tmp_path: Path
) -> None:
    """As when a process died within a step, or this one failed."""
    trainer = trained(encoder, triples, config_of("sharded", max_steps=1), SeveralProcesses(SimulatedGroup(0, 2)))

    with pytest.raises(TrainingError, match=r"the other processes have the rest of its moments \(--optimizer-states"):
        save_run(trainer, tmp_path, {})

    assert not (tmp_path / "optimizer.safetensors").exists()

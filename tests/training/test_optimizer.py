"""AdamW with its moments in a file or in bfloat16, against torch's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from splade_bench.config import TrainConfig
from splade_bench.device.reads import reserved_file
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MemoryConfig
from splade_bench.training import moments
from splade_bench.training.moments import Bfloat16Moments, require_room, round_at_random, windows
from splade_bench.training.optimizer import WindowedAdamW, make_optimizer


def make_parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    shapes: list[tuple[int, ...]] = [(23, 11), (100,), (1,), (2, 3, 4)]
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def train(optimizer: Optimizer, parameters: Sequence[nn.Parameter], steps: int) -> None:
    """Gradients that depend on the weights, so that a wrong update shows in all that follow."""
    for step in range(steps):
        for parameter in parameters:
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
        optimizer.param_groups[0]["lr"] = 0.01 * (step + 1)
        optimizer.step()


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters of these tests then have several windows, the last one shorter."""
    monkeypatch.setattr(moments, "WINDOW_ELEMENTS", 64)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_weights_with_moments_on_disk_are_bitwise_those_of_torch(dtype: torch.dtype, fused: bool) -> None:
    ours, plain = make_parameters(dtype), make_parameters(dtype)
    memory = MemoryConfig(optimizer_states="disk", fused_optimizer=fused)

    train(make_optimizer(ours, TrainConfig(memory=memory, weight_decay=0.1)), ours, steps=5)
    train(AdamW(plain, weight_decay=0.1, fused=fused, foreach=None if fused else False), plain, steps=5)

    for our, its in zip(ours, plain, strict=True):
        assert torch.equal(our, its)


@pytest.mark.usefixtures("small_windows")
def test_bfloat16_moments_stay_near_exact_ones() -> None:
    ours, plain, start = make_parameters(), make_parameters(), make_parameters()
    config = TrainConfig(memory=MemoryConfig(optimizer_states="bfloat16"))

    train(make_optimizer(ours, config), ours, steps=8)
    train(AdamW(plain, fused=True), plain, steps=8)

    flat_ours, flat_plain, flat_start = (
        torch.cat([tensor.detach().flatten() for tensor in tensors]) for tensors in (ours, plain, start)
    )
    assert not torch.equal(flat_ours, flat_plain)
    assert float((flat_ours - flat_plain).norm() / (flat_plain - flat_start).norm()) < 0.01


def test_a_bfloat16_second_moment_follows_small_updates() -> None:
    """Each is a thousandth of the moment: rounded to the nearest, all of them would be lost."""
    parameter = nn.Parameter(torch.zeros(4096))
    kept = Bfloat16Moments(seed=1)
    optimizer = WindowedAdamW([parameter], moments=kept, lr=0.0, weight_decay=0.0, fused=True)

    for _ in range(1000):
        parameter.grad = torch.ones(4096)
        optimizer.step()

    _, second = kept.load(parameter, slice(0, 4096))
    assert second.mean().item() == pytest.approx(1 - 0.999**1000, rel=0.01)
    rounded = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(1000):
        rounded = (rounded.float() * 0.999 + 0.001).bfloat16()
    assert float(rounded) < 0.5  # what it is protected from


def test_rounding_at_random_takes_a_neighbour_and_keeps_the_mean() -> None:
    low, high = torch.tensor([1.0, 1.0 + 2**-7])
    numbers = torch.full((40_001,), float(low + (high - low) * 0.3))

    for values in (numbers, -numbers):
        rounded = round_at_random(values, torch.Generator().manual_seed(0)).float().abs()
        assert set(rounded.tolist()) == {float(low), float(high)}
        assert (rounded == high).float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_rounding_at_random_leaves_what_bfloat16_can_hold() -> None:
    numbers = torch.tensor([0.0, 1.0, -2.5, 2.0**-100, 3.0])

    assert torch.equal(round_at_random(numbers, torch.Generator()).float(), numbers)


@pytest.mark.parametrize("states", ["float32", "bfloat16", "disk"])
def test_only_parameters_with_a_gradient_are_updated(states: Any) -> None:
    trained, idle, frozen = make_parameters()[:3]
    frozen.requires_grad_(False)
    before = [tensor.detach().clone() for tensor in (trained, idle, frozen)]
    optimizer = make_optimizer([trained, idle, frozen], TrainConfig(memory=MemoryConfig(optimizer_states=states)))

    trained.grad = torch.ones_like(trained)
    optimizer.step()

    assert not torch.equal(trained, before[0])
    assert torch.equal(idle, before[1])
    assert torch.equal(frozen, before[2])


def test_states_on_disk_leave_nothing_behind(tmp_path: Path) -> None:
    parameters = make_parameters()
    memory = MemoryConfig(optimizer_states="disk", optimizer_states_dir=str(tmp_path))

    train(make_optimizer(parameters, TrainConfig(memory=memory)), parameters, steps=2)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_hold_the_states_is_named_with_the_flag(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    config = TrainConfig(memory=MemoryConfig(optimizer_states="disk", optimizer_states_dir=str(missing)))

    with pytest.raises(ConfigError, match=r"--optimizer-states disk: .* --optimizer-states-dir") as caught:
        make_optimizer(make_parameters(), config)

    assert str(missing) in str(caught.value)


def test_a_disk_without_room_is_found_out_before_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    memory = replace(MemoryConfig(), optimizer_states="disk", optimizer_states_dir=str(tmp_path))

    with pytest.raises(ConfigError, match="No space left on device"):
        make_optimizer(make_parameters(), TrainConfig(memory=memory))


def test_room_for_the_states_is_asked_for_without_taking_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_room(str(tmp_path), 1)
    with pytest.raises(ConfigError, match=r"--optimizer-states disk: .* are free; name another folder"):
        require_room(str(tmp_path), 2**60)
    with pytest.raises(ConfigError, match="No such file"):
        require_room(str(tmp_path / "missing"), 1)

    monkeypatch.delattr("os.posix_fallocate")  # macOS has none
    with reserved_file(str(tmp_path), 7) as file:
        assert file.readall() == bytes(7)
    with pytest.raises(OSError, match="No space left"):
        reserved_file(str(tmp_path), 2**60)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("elements", [0, 1, 63, 64, 65, 200])
def test_windows_cover_every_element_once(elements: int) -> None:
    covered = list(itertools.chain.from_iterable(range(window.start, window.stop) for window in windows(elements)))

    assert covered == list(range(elements))

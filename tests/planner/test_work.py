"""Work counted on fake tensors is the work of a real step, with the iterations that a plan leaves out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch.utils.flop_counter import FlopCounterMode

from splade_bench.batching.batches import TextBatch, TripleBatch
from splade_bench.config import TrainConfig
from splade_bench.device.planned import PlannedDevice, memoized_in_plan, once_in_plan, planning_for
from splade_bench.memory_modes import memory_mode
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.planner.allocators import LiveAllocator
from splade_bench.planner.calibration import calibrated_rates
from splade_bench.planner.device_models import device_model
from splade_bench.planner.plan import MemoryPlan, plan
from splade_bench.planner.rates import Rates
from splade_bench.planner.rehearsal import Lengths
from splade_bench.planner.work import CountedWork, Product, Traffic, operators, product_flops
from splade_bench.training import Trainer

LENGTH = 16


def make_config(mode: str = "memory-efficient", **changes: Any) -> TrainConfig:
    config = TrainConfig(max_length=LENGTH, batch_size=4, memory=memory_mode(mode))
    memory = {name: value for name, value in changes.items() if hasattr(config.memory, name)}
    run = {name: value for name, value in changes.items() if name not in memory}
    return replace(config, **run, memory=replace(config.memory, **memory))


@pytest.fixture
def make_encoder(tokenizer: Tokenizer) -> Any:
    return lambda: build_preset("toy", tokenizer, seed=0)


def make_plan(make_encoder: Any, config: TrainConfig, *, active_share: float = 0.01) -> MemoryPlan:
    model = device_model("cpu", threads=1)
    return plan(make_encoder, config, Lengths.full(config), model, baseline_bytes=0, active_share=active_share)


class FullBatches:
    """Texts of random tokens, all at full length."""

    batches_per_epoch = 100

    def batches(self, epoch: int, *, start: int = 0) -> Any:
        while True:
            ids = torch.randint(5, 500, (4, LENGTH))
            texts = TextBatch(ids, torch.ones_like(ids), (LENGTH,) * 4)
            yield TripleBatch(texts, (texts, texts))


def measured_flops(encoder: SpladeEncoder, config: TrainConfig) -> tuple[int, float]:
    """Flops of one real optimizer step, by torch's own counter, and the share of entries that were active."""
    trainer = Trainer(encoder, FullBatches(), replace(config, max_steps=1))
    with FlopCounterMode(display=False) as counter:
        trainer.train()
    return counter.get_total_flops(), trainer.state.active_share


# Winners are searched for among as many entries as are active, which a plan can only assume: kept from the forward pass
# here, and compared without them below.
@pytest.mark.parametrize(
    "changes",
    [
        {"mini_batch_tokens": LENGTH},
        {"mini_batch_tokens": 5 * LENGTH},
        {"gradient_caching": False},
        {"mini_batch_tokens": LENGTH, "gradient_accumulation_steps": 5},
        {"mini_batch_tokens": LENGTH, "activation_checkpointing": True},
    ],
)
def test_products_are_those_of_a_real_step(make_encoder: Any, changes: dict[str, Any]) -> None:
    config = make_config(**{"in_place_gradients": False} | changes)  # torch's counter knows no addmm_
    true_flops, active_share = measured_flops(make_encoder(), config)

    planned = make_plan(make_encoder, config, active_share=active_share)

    assert product_flops(planned.work) == pytest.approx(true_flops, rel=0.1)


def test_twice_the_texts_in_equal_mini_batches_are_twice_the_work(make_encoder: Any) -> None:
    few, many = (
        product_flops(make_plan(make_encoder, make_config(batch_size=size, mini_batch_tokens=LENGTH)).work)
        for size in (8, 16)
    )

    assert many == pytest.approx(2 * few, rel=0.05)


def test_accumulated_batches_are_all_counted(make_encoder: Any) -> None:
    one, seven = (make_plan(make_encoder, make_config(gradient_accumulation_steps=steps)).work for steps in (1, 7))

    assert product_flops(seven) == pytest.approx(7 * product_flops(one))
    assert operators(one) < operators(seven) < 7 * operators(one)  # the optimizer runs once


def test_states_on_disk_are_read_and_written_once(make_encoder: Any) -> None:
    work = make_plan(make_encoder, make_config(optimizer_states="disk")).work
    parameters = sum(parameter.numel() for parameter in make_encoder().parameters())

    moved = sum(amount for task, amount in work.items() if isinstance(task, Traffic) and task.kind == "file")
    assert moved == 2 * 8 * parameters


def test_nested_iterations_multiply() -> None:
    counted = CountedWork()
    with planning_for(PlannedDevice("cpu", LiveAllocator(), counted)):
        for _ in once_in_plan(range(3)):
            counted.add("file", 1)
            for _ in once_in_plan([1, 1, 2, 2, 2], key=lambda size: size):
                counted.add("random", 1)
        double = memoized_in_plan(lambda number: counted.add("sort", 1) or [number], key=lambda _: 0, copy=list)
        assert [double(1), double(2)] == [[1], [1]]

    totals: Counter[str] = Counter()
    for task, amount in counted.work.items():
        assert isinstance(task, Traffic)
        totals[task.kind] += amount
    assert totals == {"file": 3, "random": 15, "sort": 2}


def test_outside_a_plan_nothing_is_left_out() -> None:
    assert list(once_in_plan([1, 1, 2])) == [1, 1, 2]
    assert [*map(memoized_in_plan(str, key=lambda _: 0, copy=str), [1, 2])] == ["1", "2"]


def test_the_price_of_an_operator_is_the_time_beyond_its_work() -> None:
    rates = Rates(torch.device("cpu"))
    work: Any = Counter({Traffic("operator"): 4})

    rates.learn_operators(work, 2.0)

    assert rates.seconds(Counter({Traffic("operator"): 3})) == 1.5


def test_twice_the_work_takes_twice_the_time() -> None:
    rates = Rates(torch.device("cpu"))
    small, large = (Product(1, size, size, size, torch.float32, adds) for size, adds in ((8, False), (256, True)))
    work: Any = Counter({large: 10, small: 1, Traffic("elementwise", 20): 2**22, Traffic("fault", 22): 2**22})

    assert 0 < rates.seconds(work) == pytest.approx(rates.seconds(work + work) / 2)


def test_after_the_time_for_timing_a_product_is_as_fast_as_the_nearest_one() -> None:
    rates = Rates(torch.device("cpu"), budget_s=0.0)
    known, unknown = (Product(1, 64, 64, columns, torch.float32) for columns in (64, 128))
    known_s = rates.seconds(Counter({known: 1}))

    assert rates.seconds(Counter({unknown: 1})) == pytest.approx(2 * known_s)


def test_every_kind_of_work_has_a_rate() -> None:
    rates = Rates(torch.device("cpu"))
    for kind in ("elementwise", "function", "random", "rows", "sort", "file"):
        assert rates.seconds(Counter({Traffic(kind, 16): 2**16})) > 0


def test_the_price_of_an_operator_comes_from_a_real_step(make_encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = []
    monkeypatch.setattr(
        Rates, "learn_operators", lambda self, work, duration_s: learned.append((operators(work), duration_s))
    )

    calibrated_rates(make_encoder, torch.device("cpu"))

    ((number, duration_s),) = learned
    assert number > 0
    assert duration_s > 0

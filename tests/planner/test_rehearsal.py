"""A plan's live bytes are those of a real run, for every mode, technique and architecture."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch
from architecture_table import architectures
from architectures import ARCHITECTURES, make_model, wrap
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForMaskedLM

from splade_bench.batching.batches import Targets, TextBatch, TripleBatch, pad, round_up
from splade_bench.config import TrainConfig
from splade_bench.device.planned import PlannedDevice, planned_device, planning_for
from splade_bench.device.settings import SETTINGS
from splade_bench.device.storages import LivePeak, LiveStorages
from splade_bench.memory_modes import MEMORY_MODES, MEMORY_TECHNIQUES, memory_mode
from splade_bench.model import SpladeEncoder
from splade_bench.model.loading import untrained_model
from splade_bench.model.presets import build_preset
from splade_bench.model.proving import prove_architecture
from splade_bench.planner.allocators import LiveAllocator
from splade_bench.planner.device_models import device_model
from splade_bench.planner.plan import plan
from splade_bench.planner.recorded_reads import RecordedReads, knowing
from splade_bench.planner.rehearsal import FakeBatches, Lengths, rehearse
from splade_bench.training import Trainer
from splade_bench.training.losses import SpladeLoss

CONFIGS = architectures()
LENGTHS = Lengths(groups=((3, 5, 2, 7), (9, 4, 12, 6), (16, 5, 3, 11)))
MakeEncoder = Callable[[], SpladeEncoder]


def make_config(mode: str = "memory-efficient", **changes: Any) -> TrainConfig:
    return TrainConfig(**{"max_length": 16, "batch_size": 4, "memory": memory_mode(mode)} | changes)


def texts(lengths: tuple[int, ...], width: int) -> TextBatch:
    generator = torch.Generator().manual_seed(sum(lengths))
    return pad(
        [torch.randint(5, 100, (length,), generator=generator).tolist() for length in lengths],
        pad_token_id=0,
        width=width,
    )


class Batches:
    """The rehearsal's batches, with tokens in them."""

    batches_per_epoch = 20

    def __init__(self, config: TrainConfig, planned: Lengths) -> None:
        self.config = config
        # Before anything is counted: a fake batch is made of tensors too.
        fake = islice(FakeBatches(planned, config).batches(epoch=0), self.batches_per_epoch)
        self.groups = [batch.lengths for batch in fake]

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[TripleBatch]:
        for groups in self.groups:
            memory = self.config.memory
            longest = [round_up(max(lengths), memory.pad_to_multiple_of or 1, at_most=16) for lengths in groups]
            widths = [16] * len(groups) if memory.padding == "max_length" else longest
            queries, *documents = map(texts, groups, widths)
            teacher = torch.ones(len(groups[0]), len(documents)) if self.config.needs_teacher else None
            yield TripleBatch(queries, tuple(documents), targets=Targets(teacher_scores=teacher))


def measure(make_encoder: MakeEncoder, config: TrainConfig, lengths: Lengths = LENGTHS) -> tuple[LivePeak, float]:
    """Live bytes of two optimizer steps, and the share of entries that were active."""
    encoder = make_encoder()
    live = LiveStorages(vocab_size=encoder.vocab_size)
    trainer = Trainer(encoder, Batches(config, lengths), replace(config, max_steps=2), observers=[live])
    live.add([*encoder.parameters(), *encoder.buffers()], "parameters")
    with live:
        trainer.train()
    return live.peak(), trainer.state.active_share


def rehearsed(
    make_encoder: MakeEncoder,
    config: TrainConfig,
    active_share: float = 0.1,
    lengths: Lengths | None = None,
    *,
    device: str = "cpu",
) -> LivePeak:
    planned_device = PlannedDevice(device, LiveAllocator())
    return rehearse(
        make_encoder, config, lengths or Lengths.full(config), device=planned_device, active_share=active_share
    )


def assert_plan_is_true(plan: LivePeak, true: LivePeak, *, operator: bool = True) -> None:
    # In a model this small the head's indices weigh, and a plan counts them by the mean share of active entries.
    assert plan.peak_bytes == pytest.approx(true.peak_bytes, rel=0.005, abs=8192)
    assert plan.phase == true.phase
    assert plan.operator == true.operator or not operator
    assert plan.by_category == pytest.approx(true.by_category, abs=0.02 * true.peak_bytes)


@pytest.fixture(scope="module")
def make_encoder(tokenizer: Tokenizer) -> MakeEncoder:
    return lambda: build_preset("toy", tokenizer, seed=0, dropout=0.1, attention_dropout=0.1)


@dataclass(frozen=True)
class Pair:
    """What a configuration takes, and what its plan says."""

    true: LivePeak
    plan: LivePeak


PairOf = Callable[[TrainConfig], Pair]


@pytest.fixture(scope="module")
def pair_of(make_encoder: MakeEncoder) -> PairOf:
    """Measures and plans a configuration of the toy; one that several tests have only once."""

    @cache
    def pair(config: TrainConfig) -> Pair:
        true, active_share = measure(make_encoder, config)
        return Pair(true, rehearsed(make_encoder, config, active_share, LENGTHS))

    return pair


@pytest.mark.parametrize("mode", MEMORY_MODES)
@pytest.mark.parametrize("accumulated", [1, 3])
def test_live_bytes_of_every_mode(pair_of: PairOf, mode: str, accumulated: int) -> None:
    pair = pair_of(make_config(mode, gradient_accumulation_steps=accumulated))

    # Of minimal-memory's operators two are equally large, but for the head's indices.
    assert_plan_is_true(pair.plan, pair.true, operator=mode != "minimal-memory")


@pytest.mark.parametrize("technique", MEMORY_TECHNIQUES)
@pytest.mark.parametrize("change", ["standard+", "memory-efficient-without-"])
def test_live_bytes_with_every_technique(pair_of: PairOf, change: str, technique: str) -> None:
    config = make_config(change + technique)
    if config.memory.pad_to_multiple_of:
        config = replace(config, memory=replace(config.memory, pad_to_multiple_of=5))  # on texts of up to 16
    pair = pair_of(config)

    assert_plan_is_true(pair.plan, pair.true)


OTHER_TRAININGS: Sequence[dict[str, Any]] = (
    {"mixed_precision": "bf16"},
    {"loss": "margin"},
    {"loss": "contrastive+kl+0.05*margin-mse"},
    {"regularizer": "l1"},
    {"query_regularizer_type": "mean-l1", "regularizer_threshold": 20},
    {"activation": "double-log1p"},
    {"query_encoder": "static"},
)


@pytest.mark.parametrize("changes", OTHER_TRAININGS, ids=str)
@pytest.mark.parametrize("mode", ["standard", "memory-efficient"])
def test_live_bytes_with_autocast_and_other_losses(pair_of: PairOf, mode: str, changes: dict[str, Any]) -> None:
    pair = pair_of(make_config(mode, **changes))

    assert_plan_is_true(pair.plan, pair.true)


@pytest.mark.parametrize("mode", ["standard", "memory-efficient"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_live_bytes_of_every_architecture(tokenizer: Tokenizer, architecture: str, mode: str) -> None:
    config = make_config(mode)
    model = make_model(architecture)

    true, active_share = measure(lambda: SpladeEncoder(model, wrap(tokenizer)), config)
    plan = rehearsed(
        lambda: SpladeEncoder(untrained_model(model.config), wrap(tokenizer)), config, active_share, LENGTHS
    )

    assert_plan_is_true(plan, true)


@pytest.mark.parametrize("architecture", ["flaubert", "ibert", "longformer", "xlm", "xmod"])
def test_live_bytes_of_an_architecture_whose_code_reads_values(tokenizer: Tokenizer, architecture: str) -> None:
    """A small real model of the architecture has been proved, and says what such a line of code reads."""
    config, architecture_config = make_config(), CONFIGS[architecture]
    model = AutoModelForMaskedLM.from_config(architecture_config, dtype=torch.float32)
    true, active_share = measure(lambda: SpladeEncoder(model, wrap(tokenizer)), config)

    with RecordedReads() as reads:
        prove_architecture(SpladeEncoder, architecture_config, wrap(tokenizer), model_name=architecture)
    with knowing(reads):
        plan = rehearsed(
            lambda: SpladeEncoder(untrained_model(architecture_config), wrap(tokenizer)), config, active_share, LENGTHS
        )

    assert_plan_is_true(plan, true)


def test_live_bytes_of_texts_without_padding(tokenizer: Tokenizer) -> None:
    """Transformers leaves out the mask of such a batch, which fused attention would keep as floats in every layer."""
    config = make_config("standard")
    full = Lengths.full(config)

    def make_encoder() -> SpladeEncoder:
        return build_preset("toy", tokenizer, seed=0)  # attention is fused where it has no dropout

    true, active_share = measure(make_encoder, config, full)

    assert rehearsed(make_encoder, config, active_share, full).peak_bytes == true.peak_bytes


# Each of these changes the real step. The plan must change as the measurement does.


def retain_reps(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    with_gradient = SpladeLoss.with_gradient

    def retaining(loss: SpladeLoss, reps: Tensor, queries: int, **options: Any) -> Any:
        kept.append(reps[queries:].clone())
        return with_gradient(loss, reps, queries, **options)

    monkeypatch.setattr(SpladeLoss, "with_gradient", retaining)


def drop_checkpointing(monkeypatch: pytest.MonkeyPatch) -> None:
    configure = SpladeEncoder.configure

    def without(encoder: SpladeEncoder, memory: Any, **options: Any) -> None:
        configure(encoder, replace(memory, activation_checkpointing=False), **options)

    monkeypatch.setattr(SpladeEncoder, "configure", without)


def use_another_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = replace(SETTINGS["cpu"], tile_tokens=8)
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": smaller})


def keep_gradients_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    zero_grad = torch.optim.Optimizer.zero_grad
    monkeypatch.setattr(
        torch.optim.AdamW, "zero_grad", lambda optimizer, set_to_none: zero_grad(optimizer, set_to_none=False)
    )


def lose_no_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpladeEncoder, "pool", SpladeEncoder.pool.__wrapped__)  # type: ignore[attr-defined]


MUTATIONS = {
    "a retained tensor": (retain_reps, "memory-efficient"),
    "no checkpointing": (drop_checkpointing, "standard+activation-checkpointing"),
    "another tile": (use_another_tile, "memory-efficient"),
    "gradients that live longer": (keep_gradients_longer, "standard"),
    "a lost no_grad": (lose_no_grad, "memory-efficient"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_change_of_the_step_changes_the_plan_by_itself(
    make_encoder: MakeEncoder, pair_of: PairOf, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate, mode = MUTATIONS[name]
    config = make_config(mode)
    # In mini-batches of few tokens, so that the first pass and the tiles matter in a model this small.
    config = replace(config, memory=replace(config.memory, mini_batch_tokens=24))
    before = pair_of(config)

    mutate(monkeypatch)
    true, active_share = measure(make_encoder, config)
    plan = rehearsed(make_encoder, config, active_share, LENGTHS)
    gc.collect()

    assert true.by_phase != before.true.by_phase
    for phase, before_bytes in before.true.by_phase.items():
        moved_bytes = true.by_phase[phase] - before_bytes
        planned_bytes = plan.by_phase[phase] - before.plan.by_phase[phase]
        assert planned_bytes == pytest.approx(moved_bytes, abs=0.005 * before_bytes), phase


def test_the_first_optimizer_step_is_on_few_tokens_and_the_others_on_the_planned_ones() -> None:
    config = make_config(gradient_accumulation_steps=3)
    *first, second, third = islice(FakeBatches(LENGTHS, config).batches(epoch=0), 5)

    assert len(first) == 3
    assert all(batch.tokens < second.tokens / 4 for batch in first)
    assert second.lengths == third.lengths == LENGTHS.groups


def test_a_plan_makes_no_tensor(make_encoder: MakeEncoder) -> None:
    @contextmanager
    def watched() -> Iterator[list[int]]:
        sizes: list[int] = []
        with torch.profiler.profile(profile_memory=True) as profile:
            yield sizes
        sizes += [event.self_cpu_memory_usage for event in profile.events() or ()]

    with watched() as real:
        torch.ones(2**20)
    assert sum(size for size in real if size > 0) >= 4 * 2**20

    config = make_config("standard", batch_size=64)
    with watched() as sizes:
        peak = rehearsed(make_encoder, config)

    assert peak.peak_bytes > 20 * 2**20
    assert sum(size for size in sizes if size > 0) < 2**20


def test_a_plan_takes_nothing_of_the_disk(make_encoder: MakeEncoder) -> None:
    memory = replace(MEMORY_MODES["minimal-memory"], optimizer_states="disk", optimizer_states_dir="/nowhere")

    assert rehearsed(make_encoder, make_config(memory=memory)).peak_bytes


def test_a_part_of_a_batch_may_hold_its_longest_texts() -> None:
    groups = (3, 9, 5, 7), (2, 2, 8, 1)
    assert Lengths(groups=groups).cut(2) == Lengths(groups=((9, 7), (8, 2)))
    assert Lengths(groups=groups, usual=groups).cut(2).usual == ((5, 9), (2, 8))
    few = Lengths(groups=((5, 3),), usual=((4, 6),))
    assert few.cut(4) == Lengths(groups=((5, 3),), usual=((4, 6),)), "a corpus may have fewer texts than a batch"


@pytest.mark.parametrize(("device", "trims"), [("cpu", True), ("cuda", False), ("mps", False)])
def test_the_heap_is_trimmed_for_the_cpu_alone(make_encoder: MakeEncoder, device: str, trims: bool) -> None:
    """An accelerator's memory does not come from there."""

    class Counting(LiveAllocator):
        trims = 0

        def trim(self) -> None:
            self.trims += 1

    allocator = Counting()
    config = make_config(memory=replace(MEMORY_MODES["memory-efficient"], mini_batch_size=2))
    rehearse(make_encoder, config, Lengths.full(config), device=PlannedDevice(device, allocator), active_share=0.1)

    assert (allocator.trims > 0) == trims


def test_more_active_entries_take_more(make_encoder: MakeEncoder) -> None:
    few, many = (rehearsed(make_encoder, make_config(), share) for share in (0.01, 1.0))

    assert few.peak_bytes < many.peak_bytes


def test_an_accelerator_takes_its_own_paths(make_encoder: MakeEncoder) -> None:
    """Attention with dropout is fused on CUDA and decomposed on MPS; the CPU's own way is a few heads at a time."""
    config = make_config("standard", batch_size=8)
    peaks = {device: rehearsed(make_encoder, config, device=device).by_phase["loss"] for device in ("cuda", "mps")}

    assert peaks["cuda"] < peaks["mps"]


def test_attention_that_a_model_multiplies_itself_is_fused_nowhere(tokenizer: Tokenizer) -> None:
    """MPNet drops probabilities on CUDA too, into a tensor of their size."""
    model = make_model("mpnet", dropout=0.1)
    config = make_config("standard", batch_size=8)
    with_dropout, without = (
        rehearsed(
            lambda: SpladeEncoder(untrained_model(model.config), wrap(tokenizer)),
            replace(config, memory=replace(config.memory, attention_dropout=attention_dropout)),
            device="cuda",
        ).by_phase["loss"]
        for attention_dropout in (True, False)
    )

    assert with_dropout > without


def test_a_plan_counts_what_products_pack(make_encoder: MakeEncoder) -> None:
    config = make_config()
    model = device_model("cpu", threads=2)

    made = plan(make_encoder, config, Lengths.full(config), model, baseline_bytes=1000)

    weight = make_encoder().decoder.weight
    assert made.workspace_bytes >= model.workspace_bytes(weight.shape[1] * weight.shape[1] * 4) > 0
    assert made.peak_bytes >= 1000 + made.workspace_bytes + made.live_peak_bytes


def test_planning_ends_with_its_block() -> None:
    with planning_for(PlannedDevice("mps", LiveAllocator())):
        assert planned_device() is not None
    assert planned_device() is None

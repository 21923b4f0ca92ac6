"""A device's memory: its limit, its cache, and live bytes as they were planned."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from on_device import ON_ACCELERATOR, ON_CUDA
from results import MIB
from tokenizers import Tokenizer

from splade_bench.batching.sources import SyntheticBatches
from splade_bench.config import TrainConfig
from splade_bench.device.devices import empty_cache, memory_limit_bytes
from splade_bench.device.out_of_memory import failed_allocation_bytes, is_out_of_memory
from splade_bench.device.storages import LiveStorages
from splade_bench.measure.device import device_memory
from splade_bench.memory_modes import MEMORY_MODES, memory_mode
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.planner.device_models import device_model
from splade_bench.planner.plan import plan
from splade_bench.planner.rehearsal import Lengths
from splade_bench.training import Trainer

pytestmark = ON_ACCELERATOR
GIB = 2**30


@ON_CUDA
def test_running_out_of_the_devices_memory_is_known_for_what_it_is(device: torch.device) -> None:
    limited = device_memory("cuda")
    limited.limit(2 * GIB)
    try:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(3 * GIB, dtype=torch.uint8, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

    assert is_out_of_memory(caught.value)
    assert failed_allocation_bytes(caught.value) == 3 * GIB


@ON_CUDA
def test_what_the_allocator_keeps_for_later_can_be_given_back(device: torch.device) -> None:
    block = torch.empty(256 * MIB, dtype=torch.uint8, device=device)
    reserved = torch.cuda.memory_reserved()
    del block

    empty_cache(device)

    assert torch.cuda.memory_reserved() <= reserved - 256 * MIB
    limit_bytes = memory_limit_bytes("cuda")
    assert limit_bytes is not None and GIB < limit_bytes <= torch.cuda.get_device_properties(0).total_memory


def config_of(mode: str, **changes: Any) -> TrainConfig:
    return TrainConfig(**{"max_length": 64, "batch_size": 4, "memory": memory_mode(mode)} | changes)


@ON_CUDA
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("mode", [*MEMORY_MODES, "standard+activation-checkpointing", "standard+gradient-caching"])
def test_live_bytes_are_as_planned_for_the_device(
    tokenizer: Tokenizer, device: torch.device, mode: str, dropout: float, precision: Any, record_property: Any
) -> None:
    def make_encoder() -> SpladeEncoder:
        return build_preset("bert-tiny", tokenizer, seed=0, dropout=dropout, attention_dropout=dropout)

    config = config_of(mode, mixed_precision=precision, max_steps=2)
    source = SyntheticBatches(
        batch_size=4,
        max_length=64,
        vocab_size=30522,
        negatives_per_query=1,
        batches_per_epoch=2,
        seed=0,
        lengths="full",
        padding=config.memory.padding,
    )
    encoder = make_encoder().to(device)
    live = LiveStorages(vocab_size=encoder.vocab_size)
    trainer = Trainer(encoder, source, config, observers=[live])
    live.add([*encoder.parameters(), *encoder.buffers()], "parameters")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    with live:
        trainer.train()
    true = live.peak()
    active_share = trainer.state.active_share

    made = plan(
        make_encoder,
        config,
        Lengths.full(config),
        device_model("cuda", threads=1),
        baseline_bytes=0,
        active_share=active_share,
    )

    record_property("live", json.dumps([true.peak_bytes, made.live_peak_bytes, torch.cuda.max_memory_allocated()]))
    record_property("measured", json.dumps([true.phase, true.operator, dict(true.by_category)]))
    record_property("planned", json.dumps([made.peak_phase, made.peak_op, dict(made.by_category)]))
    assert made.live_peak_bytes == pytest.approx(true.peak_bytes, rel=0.005)

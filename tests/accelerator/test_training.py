"""Trainings on a device: they repeat, stay finite in mixed precision, keep every kind of moments, and can be saved."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import make_config
from on_device import CUT, DEVICE, NEEDS_FP64, ON_ACCELERATOR, ON_CUDA, STANDARD, dropping_encoder
from tokenizers import Tokenizer

from splade_bench.data.records import Triple
from splade_bench.device import reads
from splade_bench.memory_modes import MEMORY_MODES, memory_mode
from splade_bench.model import SpladeEncoder
from splade_bench.training import Trainer

pytestmark = ON_ACCELERATOR


@pytest.mark.parametrize("mode", MEMORY_MODES)
def test_two_trainings_with_the_same_seed_have_the_same_losses(
    tokenizer: Tokenizer, triples: Sequence[Triple], device: torch.device, mode: str, record_property: Any
) -> None:
    """But for the order in which sums are taken on a device: the first loss, before any gradient, bitwise."""
    start = dropping_encoder(tokenizer, STANDARD, device, torch.float32)
    config = make_config(memory=replace(MEMORY_MODES[mode], mini_batch_size=3), max_steps=4)
    runs = [Trainer(copy.deepcopy(start), triples, replace(config, seed=seed)).train().losses for seed in (5, 5, 6)]

    record_property("bitwise", runs[0] == runs[1])
    record_property("losses", json.dumps(runs))
    assert runs[0][0] == runs[1][0]
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)
    assert runs[0] != pytest.approx(runs[2], rel=1e-5)


@ON_CUDA
@pytest.mark.parametrize("mode", ["memory-efficient", "memory-efficient-without-gradient-caching"])
def test_a_step_does_not_wait_for_the_device(
    tokenizer: Tokenizer, triples: Sequence[Triple], device: torch.device, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raises where the host waits; only the end of an optimizer step may."""

    def read_numbers(numbers: torch.Tensor, *, planned: Sequence[float]) -> list[float]:
        torch.cuda.set_sync_debug_mode("default")
        values = reads.read_numbers(numbers, planned=planned)
        torch.cuda.set_sync_debug_mode("error")
        return values

    encoder = dropping_encoder(tokenizer, STANDARD, device, torch.float32)
    config = make_config(memory=replace(memory_mode(mode), mini_batch_size=3), max_steps=3)
    trainer = Trainer(encoder, triples, config)
    monkeypatch.setattr("splade_bench.training.step_numbers.read_numbers", read_numbers)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert trainer.state.global_step == 3


DETERMINISTIC = """
import sys, json, copy
sys.path[:0] = ["tests/support"]
import torch
torch.use_deterministic_algorithms(True)
from dataclasses import replace
from equality import make_config
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.batching.sources import SyntheticBatches
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.model.presets import build_preset
from splade_bench.training import Trainer
device, mode = sys.argv[1:]
start = build_preset("toy", train_tokenizer((), vocab_size=512), seed=0, dropout=0.1, attention_dropout=0.1).to(device)
source = SyntheticBatches(batch_size=4, max_length=40, vocab_size=512, negatives_per_query=1, batches_per_epoch=4,
    seed=0, lengths="real")
config = make_config(memory=replace(MEMORY_MODES[mode], mini_batch_size=3), max_steps=4, max_length=40)
runs = []
for _ in range(2):
    encoder = copy.deepcopy(start)
    losses = Trainer(encoder, source, config).train().losses
    runs.append((losses, torch.cat([part.detach().flatten() for part in encoder.parameters()])))
print(json.dumps({"losses": runs[0][0] == runs[1][0], "weights": torch.equal(runs[0][1], runs[1][1])}))
"""


@ON_CUDA
@pytest.mark.parametrize("mode", MEMORY_MODES)
def test_two_trainings_are_equal_bitwise_where_torch_is_told_to_be_deterministic(mode: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC, DEVICE, mode],
        env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
        capture_output=True,
        text=True,
    )

    assert finished.returncode == 0, finished.stderr[-2000:]
    assert json.loads(finished.stdout) == {"losses": True, "weights": True}


@pytest.mark.parametrize("mode", MEMORY_MODES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_three_steps_in_mixed_precision_are_finite_and_near_float32(
    encoder: SpladeEncoder, triples: Sequence[Triple], mode: str, precision: Any, record_property: Any
) -> None:
    config = make_config(memory=replace(MEMORY_MODES[mode], mini_batch_size=3), max_steps=3)
    exact = Trainer(copy.deepcopy(encoder), triples, config).train().losses

    result = Trainer(encoder, triples, replace(config, mixed_precision=precision)).train()

    record_property("losses", json.dumps([exact, result.losses]))
    assert result.global_step == 3
    assert len(result.losses) == 3
    if precision == "bf16":  # a float16 loss scale may leave batches out first
        assert result.losses == pytest.approx(exact, rel=0.1)
    assert all(bool(parameter.isfinite().all()) for parameter in encoder.parameters())


@pytest.mark.parametrize("states", ["float32", "bfloat16", "disk"])
@pytest.mark.parametrize("fused", [True, False])
@NEEDS_FP64
def test_weights_after_steps_with_every_kind_of_moments(
    encoder: SpladeEncoder, triples: Sequence[Triple], states: Any, fused: bool, record_property: Any
) -> None:
    config = make_config(max_steps=4, memory=replace(CUT, optimizer_states=states, fused_optimizer=fused))
    plain = copy.deepcopy(encoder).cpu().double()
    Trainer(plain, triples, replace(config, memory=STANDARD)).train()
    ours = copy.deepcopy(encoder).double()

    Trainer(ours, triples, config).train()

    before, exact, after = (
        torch.cat([part.detach().flatten().cpu().double() for part in one.parameters()])
        for one in (encoder, plain, ours)
    )
    moved, error = float((exact - before).abs().max()), float((after - exact).abs().max())
    record_property("error", error / moved)
    assert error <= (0.05 * moved if states == "bfloat16" else 1e-6 * config.learning_rate)


def test_a_model_trained_on_the_device_is_saved_and_gives_the_same_vectors_on_the_cpu(
    encoder: SpladeEncoder, triples: Sequence[Triple], tmp_path: Path
) -> None:
    Trainer(encoder, triples, make_config(max_steps=2)).train()
    encoder.save_pretrained(tmp_path / "model")
    texts = [triple.positive for triple in triples]

    loaded = SpladeEncoder.from_pretrained(str(tmp_path / "model")).eval()
    with torch.no_grad():
        here = encoder.eval()(encoder.tokenize(texts, max_length=16))
        there = loaded(loaded.tokenize(texts, max_length=16))

    torch.testing.assert_close(here.cpu(), there, rtol=0, atol=1e-5 * float(there.abs().max()))

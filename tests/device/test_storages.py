"""Live bytes are counted exactly, and named after what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.device.storages import LivePeak, LiveStorages
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model import SpladeEncoder
from splade_bench.training import Trainer
from splade_bench.training.moments import WINDOW_ELEMENTS

BATCH, LENGTH, STEPS = 4, 16, 2


def peak_of(encoder: SpladeEncoder, triples: Sequence[Triple], mode: str, **changes: object) -> LivePeak:
    """Of a short training run."""
    return watched_run(encoder, triples, mode, **changes)[0]


def watched_run(
    encoder: SpladeEncoder, triples: Sequence[Triple], mode: str, **changes: object
) -> tuple[LivePeak, Trainer]:
    config = TrainConfig(
        batch_size=BATCH,
        max_length=LENGTH,
        max_steps=STEPS,
        memory=replace(MEMORY_MODES[mode], **changes),  # type: ignore[arg-type]
    )
    live = LiveStorages(vocab_size=encoder.vocab_size)
    trainer = Trainer(encoder, triples, config, observers=[live])
    live.add([*encoder.parameters(), *encoder.buffers()], "parameters")
    with live:
        trainer.train()
    return live.peak(), trainer


def test_a_known_tensor_is_counted_exactly_once_and_only_while_it_lives() -> None:
    with LiveStorages() as live:
        tensor = torch.ones(2**20)
        same = [tensor.view(2, -1), tensor[: 2**10], tensor.add_(1)]
        assert live.live_bytes == 4 * 2**20
        del tensor
        assert live.live_bytes == 4 * 2**20  # its views hold it
        same.clear()
        assert live.live_bytes == 0

    assert live.peak().peak_bytes == 4 * 2**20


def test_a_peak_between_two_readings_still_counts() -> None:
    with LiveStorages() as live:
        for _ in range(3):
            (torch.ones(2**18) + torch.ones(2**18)).sum()

    peak = live.peak()
    assert peak.peak_bytes == 3 * 4 * 2**18
    assert peak.operator == "aten.add.Tensor"


def test_a_storage_that_grows_counts_with_its_new_size() -> None:
    out = torch.empty(0)
    with LiveStorages() as live:
        live.add([out], "inputs")
        torch.add(torch.ones(2**10), 1, out=out)
        assert live.live_bytes == 4 * 2**10


@pytest.mark.parametrize("mode", ["standard", "memory-efficient"])
def test_the_state_of_training_is_what_the_model_says(
    encoder: SpladeEncoder, triples: Sequence[Triple], mode: str
) -> None:
    parameter_bytes = sum(parameter.nbytes for parameter in encoder.parameters())
    buffer_bytes = sum(buffer.nbytes for buffer in encoder.buffers())

    peak, trainer = watched_run(encoder, triples, mode)
    states = [tensor for state in trainer.optimizer.state.values() for tensor in state.values()]

    assert peak.by_category["parameters"] == parameter_bytes + buffer_bytes
    assert peak.by_category["optimizer"] == sum(tensor.nbytes for tensor in states)
    assert 1.9 * parameter_bytes < peak.by_category["optimizer"]
    assert sum(peak.by_category.values()) == peak.peak_bytes
    assert set(peak.by_phase) >= {"forward", "loss", "backward", "optimizer_step"}
    assert max(peak.by_phase.values()) == peak.peak_bytes == peak.by_phase[peak.phase]


def test_gradients_that_are_summed_in_place_stay(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    parameter_bytes = sum(parameter.nbytes for parameter in encoder.parameters())

    in_place = peak_of(encoder, triples, "memory-efficient")
    anew = peak_of(encoder, triples, "memory-efficient", in_place_gradients=False)

    # The peak is in a forward pass of the second step, before any gradient is made.
    assert in_place.phase == anew.phase == "forward"
    assert 0.9 * parameter_bytes < in_place.by_category["gradients"] <= parameter_bytes
    assert anew.by_category.get("gradients", 0) == 0


def test_only_the_eager_head_has_logits(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    logits_bytes = 4 * BATCH * LENGTH * encoder.vocab_size

    eager = peak_of(encoder, triples, "standard")
    streaming = peak_of(encoder, triples, "standard", head="streaming")

    assert eager.by_category["logits"] >= 3 * logits_bytes  # queries, positives, negatives
    assert "logits" not in streaming.by_category
    assert streaming.by_category["head"] > 0
    assert streaming.peak_bytes < eager.peak_bytes - 2 * logits_bytes


def test_checkpointing_shows_in_the_activations(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    plain = peak_of(encoder, triples, "standard", head="streaming")
    checkpointed = peak_of(encoder, triples, "standard", head="streaming", activation_checkpointing=True)

    assert checkpointed.by_phase["loss"] < plain.by_phase["loss"]


def test_moments_on_disk_are_no_optimizer_memory(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    peak = peak_of(encoder, triples, "memory-efficient", optimizer_states="disk")

    window_bytes = 2 * 4 * WINDOW_ELEMENTS  # of both moments, the same for every model
    assert peak.by_category["optimizer"] == window_bytes


def test_a_second_run_counts_the_same_bytes(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    first, second = (peak_of(encoder, triples, "memory-efficient") for _ in range(2))

    assert first == second

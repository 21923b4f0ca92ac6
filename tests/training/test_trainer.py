"""The training loop: windows of batches, schedules, phases, how it ends, and what it refuses."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from equality import GradientsSeen, text_batches

from splade_bench.batching.batches import TextBatch, TripleBatch
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.errors import ConfigError, NotFiniteError
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model import SpladeEncoder
from splade_bench.training import Trainer
from splade_bench.training.schedules import learning_rate_scale, regularizer_scale
from splade_bench.training.state import StepLoss, TrainState


@dataclass(frozen=True, slots=True)
class FixedBatches:
    """The same batches in every epoch."""

    made: Sequence[TripleBatch]

    @property
    def batches_per_epoch(self) -> int:
        return len(self.made)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[TripleBatch]:
        return iter(self.made[start:])

    def record_name(self, row: int) -> str:
        return f"row {row}"


class Recorder:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.steps: list[TrainState] = []
        self.losses: list[StepLoss] = []

    def on_phase(self, phase: str) -> None:
        self.phases.append(phase)

    def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
        self.steps.append(copy.copy(state))
        self.losses.append(loss)


def make_config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"batch_size": 8, "max_length": 16, "learning_rate": 1e-3, "epochs": 1} | changes)


def weights_after(
    encoder: SpladeEncoder, batches: Sequence[TripleBatch], config: TrainConfig
) -> dict[str, torch.Tensor]:
    trained = copy.deepcopy(encoder).double()
    Trainer(trained, FixedBatches(batches), config).train()
    return {name: parameter.detach() for name, parameter in trained.named_parameters()}


def assert_equal_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=tolerance)


def test_training_lowers_the_loss(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    # Each query is to find its neighbour's document: the words do not help, it must be learnt.
    neighbours = [replace(triple, positive=triples[row - 8].positive) for row, triple in enumerate(triples)]

    result = Trainer(encoder, neighbours, make_config(epochs=10, learning_rate=3e-3)).train()

    assert result.global_step == 40
    assert result.queries_seen == 320
    assert result.final_loss is not None
    assert result.final_loss < 0.5 * result.losses[0]


def test_the_same_seed_gives_the_same_losses(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    first, second = (Trainer(copy.deepcopy(encoder), triples, make_config()).train().losses for _ in range(2))

    assert first == second


def test_an_accumulation_window_equals_a_large_batch_for_a_mean_over_queries(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    """True of the pairwise loss without regularizers; in-batch negatives and FLOPS are no means over queries."""
    small, large = (
        make_config(
            loss="margin",
            margin=20.0,
            query_regularizer_weight=0.0,
            document_regularizer_weight=0.0,
            gradient_accumulation_steps=steps,
            batch_size=batch_size,
            max_steps=1,
        )
        for steps, batch_size in ((3, 4), (1, 10))
    )
    # 4 + 4 + 2 queries: the short last batch must count by its queries.
    batches = list(text_batches(triples[:10], encoder, small))
    whole = list(text_batches(triples[:10], encoder, large))

    accumulated = weights_after(encoder, batches, small)

    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert_equal_weights(accumulated, weights_after(encoder, whole, large), tolerance=1e-9)


def window_gradients(
    encoder: SpladeEncoder, batches: Sequence[TripleBatch], config: TrainConfig
) -> list[dict[str, torch.Tensor]]:
    """Each optimizer step's gradients, as the optimizer is about to see them, unclipped; the weights stay."""
    model = copy.deepcopy(encoder).double()
    seen = GradientsSeen(model)
    Trainer(model, FixedBatches(batches), replace(config, learning_rate=1e-30), observers=[seen]).train()
    return seen.steps


def plain_config(**changes: Any) -> TrainConfig:
    """No clipping, and nothing that depends on the optimizer step: gradients may be compared across steps."""
    unregularized = {"query_regularizer_weight": 0.0, "document_regularizer_weight": 0.0}
    return make_config(**unregularized | {"max_grad_norm": 0.0, "weight_decay": 0.0} | changes)


def test_a_window_is_the_mean_of_its_batches_and_a_short_last_one_of_its_own(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    """Four batches in windows of three: the second window holds one batch and must not be divided by three."""
    single = plain_config(batch_size=4, max_steps=4)
    batches = list(text_batches(triples[:16], encoder, single))

    alone = window_gradients(encoder, batches, single)
    first, last = window_gradients(encoder, batches, replace(single, gradient_accumulation_steps=3, max_steps=2))

    assert len(alone) == 4
    assert max(float(gradient.abs().max()) for gradient in alone[3].values()) > 1e-3
    for name in first:
        torch.testing.assert_close(first[name], sum(step[name] for step in alone[:3]) / 3)
        torch.testing.assert_close(last[name], alone[3][name])


def test_repeated_batches_in_a_window_change_nothing(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    once = plain_config(max_steps=1)
    (batch,) = text_batches(triples[:8], encoder, once)

    (first,) = window_gradients(encoder, [batch], once)
    (second,) = window_gradients(encoder, [batch] * 3, replace(once, gradient_accumulation_steps=3))

    for name in first:
        torch.testing.assert_close(first[name], second[name])


@pytest.mark.parametrize(
    ("usable", "changes", "complaint"),
    [
        (False, {}, "no triples"),
        (True, {"max_length": 600}, "--max-length 600: this model takes at most 512 tokens"),
    ],
)
def test_data_and_model_that_do_not_fit_the_configuration_are_refused(
    encoder: SpladeEncoder, triples: Sequence[Triple], usable: bool, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Trainer(encoder, triples if usable else [], make_config(**changes))


def test_a_query_without_negatives_is_refused_unless_none_are_asked_for(encoder: SpladeEncoder) -> None:
    bare = [Triple(query="who", positive="this function"), Triple(query="what", positive="the parser")]

    with pytest.raises(ConfigError, match="--negatives-per-query"):
        Trainer(encoder, bare, make_config())
    assert Trainer(encoder, bare, make_config(negatives_per_query=0)).train().global_step == 1


def test_a_tokenizer_that_pads_on_the_left_is_trained_with_as_any_other(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    losses = []
    for side in ("right", "left"):
        model = copy.deepcopy(encoder)
        model.tokenizer.padding_side = side
        memory = replace(MEMORY_MODES["memory-efficient"], mini_batch_size=5)
        losses.append(Trainer(model, triples, make_config(memory=memory)).train().losses)

    assert losses[0] == losses[1]


def test_batches_padded_on_the_left_are_refused_where_they_would_be_cut_and_trained_on_where_not(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    config = make_config(max_steps=1)
    batch = next(text_batches(triples, encoder, config))
    positives, *negatives = batch.documents
    assert len(set(positives.lengths)) > 1  # there is padding
    flipped = TextBatch(positives.input_ids.flip(1), positives.attention_mask.flip(1), positives.lengths)
    source = FixedBatches([TripleBatch(batch.queries, (flipped, *negatives))])

    with pytest.raises(ConfigError, match="--no-gradient-caching"):
        Trainer(encoder, source, config).train()
    direct = replace(config, memory=replace(config.memory, gradient_caching=False))
    assert Trainer(encoder, source, direct).train().global_step == 1


@pytest.mark.parametrize(("accumulated", "batch_size"), [(1, 8), (4, 2)])
def test_schedules_count_optimizer_steps_with_and_without_accumulation(
    encoder: SpladeEncoder, triples: Sequence[Triple], accumulated: int, batch_size: int
) -> None:
    rates = []

    class Rates(Recorder):
        def on_phase(self, phase: str) -> None:
            if phase == "optimizer_step":
                rates.extend(group["lr"] for group in trainer.optimizer.param_groups)

    config = make_config(gradient_accumulation_steps=accumulated, batch_size=batch_size)
    trainer = Trainer(encoder, triples, config, observers=[Rates()])
    trainer.train()

    scales = [rate / config.learning_rate for rate in rates]
    assert scales == pytest.approx([1 / 1.4, 3 / 3.6, 2 / 3.6, 1 / 3.6])


def test_the_learning_rate_rises_and_falls_in_straight_lines() -> None:
    config = make_config(warmup_ratio=0.2)
    scales = [learning_rate_scale(config, step, 10) for step in range(11)]

    assert scales == pytest.approx([1 / 3, 2 / 3, *(part / 8 for part in range(8, -1, -1))])


def test_the_regularizers_rise_quadratically_to_their_weights() -> None:
    config = make_config(regularizer_warmup_ratio=0.3)
    scales = [regularizer_scale(config, step, 30) for step in range(30)]

    assert scales[:4] == pytest.approx([(step / 10) ** 2 for step in (1, 2, 3, 4)])
    assert scales[9:] == [1.0] * 21


def test_max_steps_overrides_epochs_and_repeats_the_data(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    result = Trainer(encoder, triples[:8], make_config(max_steps=3)).train()

    assert result.global_step == 3
    assert result.queries_seen == 24
    assert not result.interrupted


def test_observers_see_every_phase_in_order(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    recorder = Recorder()

    Trainer(encoder, triples, make_config(gradient_accumulation_steps=2, max_steps=1), observers=[recorder]).train()

    assert recorder.phases == [
        "batching",
        *2 * ["forward", "loss", "backward", "forward", "backward"],
        "optimizer_step",
    ]
    assert recorder.losses[0].query_active_dims > 0


def test_a_requested_stop_ends_after_the_step_that_is_under_way(
    encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    class StopAtTwo(Recorder):
        def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
            state.stop_requested = state.global_step == 2

    result = Trainer(encoder, triples, make_config(), observers=[StopAtTwo()]).train()

    assert result.global_step == 2
    assert result.interrupted


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_weights_change(
    encoder: SpladeEncoder, triples: Sequence[Triple], where: str
) -> None:
    trainer = Trainer(encoder, triples, make_config())
    parameter = encoder.decoder.weight
    if where == "loss":
        with torch.no_grad():
            encoder.body.bert.embeddings.LayerNorm.weight.fill_(float("nan"))
    else:
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = parameter.detach().clone()

    with pytest.raises(NotFiniteError, match=r"optimizer step 1: the (loss|gradient norm) is (nan|inf)"):
        trainer.train()

    assert torch.equal(parameter, before)


def test_no_gradient_is_kept_when_training_is_over(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    """Nor is the memory of those that were summed in place."""
    memory: list[weakref.ref[torch.UntypedStorage]] = []

    class Memory(Recorder):
        def on_phase(self, phase: str) -> None:
            if phase == "optimizer_step":
                gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
                memory.extend(weakref.ref(gradient.untyped_storage()) for gradient in gradients)

        def on_step_end(self, state: TrainState, loss: StepLoss) -> None:
            assert any(reference() for reference in memory)

    config = make_config(max_steps=2, memory=MEMORY_MODES["memory-efficient"])
    Trainer(encoder, triples, config, observers=[Memory()]).train()

    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert memory and not any(reference() for reference in memory)


def test_gradients_above_the_limit_are_scaled_down(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    norms = []

    class Norms(Recorder):
        def on_phase(self, phase: str) -> None:
            if phase == "optimizer_step":
                gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
                norms.append(torch.nn.utils.get_total_norm(gradients).item())

    Trainer(encoder, triples, make_config(max_grad_norm=0.01, max_steps=2), observers=[Norms()]).train()

    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_garbage_is_collected_every_fifth_batch_in_article_mode_only(
    encoder: SpladeEncoder, triples: Sequence[Triple], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(gc, "collect", lambda: calls.append(None))
    counts = {}
    for name, memory in MEMORY_MODES.items():
        calls.clear()
        Trainer(copy.deepcopy(encoder), triples, make_config(batch_size=3, memory=memory)).train()  # 11 batches
        counts[name] = len(calls)

    assert counts == {"standard": 0, "article": 2, "memory-efficient": 0, "minimal-memory": 0}


@pytest.mark.parametrize(("mini_batch_size", "trims"), [(12, 0), (4, 2)])
def test_the_heap_is_trimmed_between_mini_batches(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    mini_batch_size: int,
    trims: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a step that is one of them it would cost time and gain nothing."""
    calls: list[None] = []
    monkeypatch.setattr("splade_bench.device.heap.trim_heap", lambda: calls.append(None))
    memory = replace(MEMORY_MODES["memory-efficient"], mini_batch_size=mini_batch_size, mini_batch_tokens=10_000)

    Trainer(encoder, triples[:4], make_config(batch_size=4, memory=memory)).train()

    assert len(calls) == trims

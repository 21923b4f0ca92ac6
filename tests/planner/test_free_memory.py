"""The settings that a program gets for the memory that is free."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.errors import ConfigError
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.planner import free_memory
from splade_bench.planner.free_memory import fastest_config
from splade_bench.planner.process import Fitted
from splade_bench.planner.requests import PlanRequest, planned_encoder
from splade_bench.training.trainer import Trainer

TRIPLES = [Triple(query="read a file", positive="open reads a file", negatives=("sorted sorts a list",))] * 8
CONFIG = TrainConfig(batch_size=4, max_length=32, max_steps=1)
MIB = 2**20


@pytest.fixture
def encoder() -> SpladeEncoder:
    return build_preset("toy", train_tokenizer((), vocab_size=512), seed=0, attention_dropout=0.25)


@dataclass
class Asked:
    """A request, and the model that a plan for it would have: it is gone when the request is answered."""

    request: PlanRequest
    model: SpladeEncoder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What was asked; every answer is the same configuration."""
    seen: list[Asked] = []

    def fitted(request: PlanRequest) -> Fitted:
        seen.append(Asked(request, planned_encoder(request.model_name)()))
        return Fitted(request.config, "as it is")

    monkeypatch.setattr(free_memory, "fitted_training", fitted)
    return seen


def test_the_model_is_planned_as_it_is(encoder: SpladeEncoder, asked: list[Asked]) -> None:
    assert fastest_config(encoder, TRIPLES, CONFIG) == CONFIG

    (one,) = asked
    shapes, expected = (
        {name: value.shape for name, value in model.named_parameters()} for model in (one.model, encoder)
    )
    assert shapes == expected
    assert one.model.body.config.attention_probs_dropout_prob == 0.25


def test_the_budget_is_what_is_free_and_what_this_process_has(
    encoder: SpladeEncoder, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "free_memory_bytes", lambda: 1000 * MIB)
    monkeypatch.setattr(free_memory, "known_rss_bytes", lambda: 500 * MIB)

    fastest_config(encoder, TRIPLES, CONFIG)
    fastest_config(encoder, TRIPLES, CONFIG, budget_bytes=700 * MIB)

    parameter_bytes = sum(parameter.nbytes for parameter in encoder.parameters())
    assert [one.request.budget_bytes for one in asked] == [1500 * MIB, 700 * MIB]
    request = asked[0].request
    assert request.resident_bytes == 500 * MIB - parameter_bytes
    assert request.lengths.groups == ((32,) * 4,) * 3
    assert request.lengths.usual is not None
    assert max(map(max, request.lengths.usual)) < 32, "the texts are short"


@pytest.mark.slow
def test_a_program_trains_with_what_is_found(encoder: SpladeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the process that plans

    config = fastest_config(encoder, TRIPLES, CONFIG, budget_bytes=8 * 2**30)

    assert config.memory.activation_memory == "all"
    assert config.batch_size == CONFIG.batch_size
    assert Trainer(encoder, TRIPLES, config).train().global_step == 1
    with pytest.raises(ConfigError, match="--budget 100 MiB: too small"):
        fastest_config(encoder, TRIPLES, CONFIG, budget_bytes=100 * MIB)

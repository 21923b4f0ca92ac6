"""Every objective in every memory mode: the gradient of the plain definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

import pytest
import torch
from equality import FP64, Gradients, assert_gradients_are_near, make_config, text_batches, trained_gradients
from tokenizers import Tokenizer

from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model import SpladeEncoder
from splade_bench.model.presets import build_preset

OBJECTIVES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "temperature": {"temperature": 5.0},
        "cosine": {"similarity": "cosine"},
        "cosine of static queries": {
            "similarity": "cosine",
            "query_encoder": "static",
            "loss": "contrastive+margin-mse",
        },
        "margin-mse": {"loss": "margin-mse", "negatives_per_query": 2},
        "kl": {"loss": "kl", "negatives_per_query": 2, "temperature": 2.0, "teacher_temperature": 0.5},
        "sum": {"loss": "contrastive+kl+0.05*margin-mse"},
        "mean-l1": {"regularizer": "mean-l1", "regularized_documents": "all"},
        "two regularizers": {"query_regularizer_type": "l1"},
        # Between the active entries of the texts, so that some are regularized and others are not.
        "threshold": {"regularizer_threshold": 65, "regularized_documents": "all"},
        "double-log1p": {"activation": "double-log1p"},
        "static queries": {"query_encoder": "static"},
    }
)


def config_of(name: str) -> TrainConfig:
    weights = {"query_regularizer_weight": 0.1, "document_regularizer_weight": 0.2, "regularizer_warmup_steps": 0}
    return make_config(**weights | OBJECTIVES[name])


@pytest.fixture(scope="module")
def plain_gradients(tokenizer: Tokenizer, scored: Sequence[Triple]) -> Callable[[str], Gradients]:
    """The gradients of the standard mode, computed once for each objective."""
    encoder = build_preset("toy", tokenizer, seed=0)

    @cache
    def of(name: str) -> Gradients:
        config = replace(config_of(name), memory=MEMORY_MODES["standard"])
        return trained_gradients(encoder, scored, config, torch.float64)

    return of


@pytest.mark.parametrize("mode", sorted(set(MEMORY_MODES) - {"standard"}))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_of_every_objective_is_that_of_the_plain_definition(
    encoder: SpladeEncoder,
    scored: Sequence[Triple],
    plain_gradients: Callable[[str], Gradients],
    mode: str,
    name: str,
) -> None:
    memory = replace(MEMORY_MODES[mode], mini_batch_size=4)

    ours = trained_gradients(encoder, scored, replace(config_of(name), memory=memory), torch.float64)

    assert_gradients_are_near(ours, plain_gradients(name), FP64)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_a_gradient_of_its_own(plain_gradients: Callable[[str], Gradients], name: str) -> None:
    ours = plain_gradients(name)
    for other in OBJECTIVES.keys() - {name}:
        theirs = plain_gradients(other)
        assert any(not torch.allclose(ours[part], theirs[part], rtol=1e-4, atol=0) for part in ours), other


def test_the_batch_has_false_negatives_and_texts_on_both_sides_of_the_threshold(
    encoder: SpladeEncoder, scored: Sequence[Triple]
) -> None:
    batch = next(text_batches(scored, encoder, config_of("threshold")))
    with torch.no_grad():
        active = torch.cat([torch.count_nonzero(encoder(texts), dim=1) for texts in batch.groups])

    assert batch.targets.false_negatives is not None
    assert int(active.min()) <= config_of("threshold").regularizer_threshold < int(active.max())

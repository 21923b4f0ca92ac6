"""What the loss of several processes takes: memory on each, and bytes between them."""

from __future__ import annotations

import pytest
import torch
from equality import make_config

from splade_bench.config import TrainConfig
from splade_bench.device.storages import LiveStorages
from splade_bench.distributed.group import Group
from splade_bench.distributed.simulated import SimulatedGroup
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.shared_loss import SharedLoss
from splade_bench.training.together import SeveralProcesses

QUERIES, DOCUMENTS, VOCABULARY = 8, 16, 30522
FLOAT_BYTES = 4


def peak_bytes(loss: SpladeLoss, *, queries: int = QUERIES, documents: int = DOCUMENTS) -> int:
    """Most bytes of tensors while the loss and its gradient are computed, the vectors included."""
    live = LiveStorages(vocab_size=VOCABULARY)
    with live:
        reps = torch.ones(queries + documents, VOCABULARY)
        loss.with_gradient(reps, queries)
    return live.peak().peak_bytes


@pytest.mark.parametrize("config", [TrainConfig(), TrainConfig(loss="margin", regularizer_threshold=9)])
def test_the_loss_of_eight_processes_takes_the_memory_of_one(config: TrainConfig) -> None:
    alone = peak_bytes(SpladeLoss(config))

    shared = peak_bytes(SharedLoss(config, SimulatedGroup(0, 8)))

    assert shared <= 1.1 * alone


def test_memory_does_not_grow_with_the_processes() -> None:
    two, eight = (peak_bytes(SharedLoss(TrainConfig(), SimulatedGroup(0, size))) for size in (2, 8))

    assert eight <= 1.02 * two


@pytest.mark.parametrize("size", [2, 3, 8])
def test_a_step_sends_what_the_design_says(size: int) -> None:
    """Vectors and their gradients once, but for the own slice; scores, active entries and regularizers are added up."""
    group, texts = SimulatedGroup(size - 1, size), QUERIES + DOCUMENTS

    SharedLoss(make_config(), group).with_gradient(torch.ones(texts, VOCABULARY), QUERIES)

    out = texts * (VOCABULARY - own_columns(group))
    back = texts * (size - 1) * own_columns(group)
    assert group.exchanged_bytes == FLOAT_BYTES * (out + back)
    scores = size * QUERIES * size * DOCUMENTS
    assert group.reduced_bytes == FLOAT_BYTES * (scores + size * texts + 2)


def own_columns(group: Group) -> int:
    blocks = [min(4096, VOCABULARY - start) for start in range(0, VOCABULARY, 4096)]
    return sum(width // group.size + (group.rank < width % group.size) for width in blocks)


def test_gradients_of_weights_are_added_up_once_and_absent_ones_stay_absent() -> None:
    group = SimulatedGroup(0, 2)
    large, small, unused = (torch.nn.Parameter(torch.ones(size)) for size in (3_000_000, 7, 5))
    large.grad, small.grad = torch.ones(3_000_000), torch.ones(7)

    SeveralProcesses(group).add_up_gradients([large, small, unused])

    assert group.reduced_bytes == FLOAT_BYTES * 3_000_007
    assert unused.grad is None

"""With TF32 an exact technique may round elsewhere than eager does, but not more: both are compared with fp64.

The CPU takes CUDA's paths; a mode rounds what products multiply, as CUDA's tensor cores do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from equality import make_config, relative_error, trained_gradients
from tf32 import Tf32Products
from tokenizers import Tokenizer

from splade_bench.data.records import Triple
from splade_bench.device import cuda
from splade_bench.device.settings import SETTINGS
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model.presets import build_preset
from splade_bench.training.trainer import Trainer

STANDARD = MEMORY_MODES["standard"]
EFFICIENT = replace(MEMORY_MODES["memory-efficient"], mini_batch_size=4)
MEMORIES: dict[str, MemoryConfig] = {
    "memory-efficient": EFFICIENT,
    "minimal-memory": MEMORY_MODES["minimal-memory"],
    "all graphs kept": replace(EFFICIENT, activation_memory="all"),
    "checkpointing": replace(EFFICIENT, activation_checkpointing=True),
    "head": replace(STANDARD, head="streaming"),
}
SEEDS = range(6)
SLACK = 1.05  # as in test_low_precision.py


@pytest.fixture(autouse=True)
def on_cudas_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": SETTINGS["cuda"]})


def errors_of(memory: MemoryConfig, tokenizer: Tokenizer, triples: Sequence[Triple]) -> float:
    """The sum of the gradients' relative errors over all seeds."""
    total = 0.0
    for seed in SEEDS:
        encoder = build_preset("toy", tokenizer, seed=seed)
        config = make_config(memory=STANDARD, max_grad_norm=0.0, seed=seed)
        exact = trained_gradients(encoder, triples, config, torch.float64)
        with Tf32Products() as products:
            rounded = trained_gradients(encoder, triples, replace(config, memory=memory), torch.float32)
        assert products.rounded > 10
        total += relative_error(rounded, exact)
    return total


@pytest.fixture(scope="module")
def eager_error(tokenizer: Tokenizer, triples: Sequence[Triple]) -> float:
    return errors_of(STANDARD, tokenizer, triples)


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
def test_the_gradients_error_with_tf32_is_no_larger_than_that_of_the_standard_mode(
    memory: MemoryConfig, eager_error: float, tokenizer: Tokenizer, triples: Sequence[Triple]
) -> None:
    assert 1e-5 < errors_of(memory, tokenizer, triples) <= SLACK * eager_error


def test_ten_bits_after_the_point_are_left() -> None:
    ones = torch.eye(1)
    with Tf32Products():
        kept, lost = (torch.tensor([[1 + 2.0**-bits]]) @ ones for bits in (10, 12))

    assert kept.item() == 1 + 2.0**-10
    assert lost.item() == 1.0


@pytest.fixture
def precision() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("before", ["none", "ieee"])
def test_the_setting_is_torchs_and_ends_with_the_training(before: str) -> None:
    matmul = torch.backends.cuda.matmul
    matmul.fp32_precision = before
    with cuda.tf32_products(False):
        assert matmul.fp32_precision == before
    with cuda.tf32_products(True):
        assert matmul.fp32_precision == "tf32"

    assert matmul.fp32_precision == before


@pytest.mark.usefixtures("precision")
def test_a_training_turns_it_on(
    tokenizer: Tokenizer, triples: Sequence[Triple], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Watcher:
        def on_phase(self, phase: str) -> None:
            seen.append(torch.backends.cuda.matmul.fp32_precision)

        def on_step_end(self, state: object, loss: object) -> None:
            pass

    monkeypatch.setattr("splade_bench.training.preparing.device_type", lambda device: "cuda")
    encoder = build_preset("toy", tokenizer, seed=0)
    Trainer(encoder, triples, make_config(tf32=True), observers=[Watcher()]).train()

    assert set(seen) == {"tf32"}
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"


def test_a_device_without_it_is_refused_in_one_line(tokenizer: Tokenizer, triples: Sequence[Triple]) -> None:
    encoder = build_preset("toy", tokenizer, seed=0)

    with pytest.raises(ConfigError, match=r"^--tf32: only CUDA has this number type, and the device is cpu; use"):
        Trainer(encoder, triples, make_config(tf32=True))

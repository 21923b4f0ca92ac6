"""A step on an accelerator reads values once for each optimizer step: tried on the CPU, which takes the same paths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from waiting import Waits

from splade_bench.batching.sources import SyntheticBatches
from splade_bench.config import TrainConfig, memory_mode
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device.settings import SETTINGS
from splade_bench.model.presets import build_preset
from splade_bench.training import feeding
from splade_bench.training.feeding import prepared_ahead
from splade_bench.training.trainer import Trainer

READING = ("item", "tolist", "numpy", "nonzero", "unique", "unique_consecutive", "__bool__", "__int__", "__float__")
STEPS = 3


@pytest.fixture(params=["cuda", "mps"])
def reads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the loop reads, where the CPU takes the paths of an accelerator. Any other reading fails."""
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": SETTINGS[request.param]})
    seen: list[str] = []
    tolist = Tensor.tolist

    def read_numbers(numbers: Tensor, *, planned: Any) -> list[float]:
        seen.append("numbers")
        return tolist(numbers)

    monkeypatch.setattr("splade_bench.training.trainer.read_numbers", read_numbers)
    # It reads the batch before it leaves the host.
    monkeypatch.setattr("splade_bench.training.trainer.require_right_padding", lambda groups: None)
    for name in READING:
        plain = getattr(Tensor, name)

        def checked(tensor: Tensor, *args: Any, plain: Any = plain, name: str = name, **kwargs: Any) -> Any:
            if tensor.dim() == 0 and tensor.dtype == torch.bool and not tensor.requires_grad and name == "__bool__":
                return plain(tensor)
            seen.append(name)
            return plain(tensor, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, checked)
    return seen


@pytest.mark.parametrize(
    "mode",
    ["memory-efficient", "memory-efficient-without-gradient-caching", "memory-efficient+activation-checkpointing"],
)
@pytest.mark.parametrize("lengths", ["full", "real"])
def test_a_step_reads_once(mode: str, lengths: Any, reads: list[str]) -> None:
    config = TrainConfig(batch_size=4, max_length=24, max_steps=STEPS, memory=memory_mode(mode))
    config = replace(config, memory=replace(config.memory, mini_batch_tokens=48))
    encoder = build_preset("toy", train_tokenizer((), vocab_size=512), seed=0)
    source = SyntheticBatches(
        batch_size=4,
        max_length=24,
        vocab_size=512,
        negatives_per_query=1,
        batches_per_epoch=STEPS,
        seed=0,
        lengths=lengths,
    )

    with Waits() as waits:
        Trainer(encoder, source, config).train()

    assert reads == ["numbers"] * STEPS
    # What is left are numbers of the host: the loop's own, and whether a mask has no padding, which is known.
    assert set(waits.found) <= {"_local_scalar_dense"}
    assert "all" not in waits.called


def test_a_thread_prepares_what_comes_next() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            yield number

    ahead = prepared_ahead(items())
    assert made == []
    assert next(ahead) == 0
    assert [0, *ahead] == [0, 1, 2, 3]
    assert made == [0, 1, 2, 3]


def test_an_error_comes_where_its_batch_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("row 2 is damaged")

    ahead = prepared_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="row 2 is damaged"):
        next(ahead)


def test_another_thread_has_a_tokenizer_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from splade_bench.data.records import Triple

    encoder = build_preset("toy", train_tokenizer((), vocab_size=512), seed=0)
    triples = [Triple(query="read a file", positive="open", negatives=("sort",))]
    assert feeding.source_of(triples, encoder, TrainConfig()).tokenizer is encoder.tokenizer  # type: ignore[union-attr]

    monkeypatch.setattr(feeding, "prepares_ahead", lambda _: True)

    assert feeding.source_of(triples, encoder, TrainConfig()).tokenizer is not encoder.tokenizer  # type: ignore[union-attr]

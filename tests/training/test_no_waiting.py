"""A step on an accelerator reads values once for each optimizer step: tried on the CPU, which takes the same paths."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor
from waiting import Waits

from splade_bench.batching.sources import SyntheticBatches, TripleBatches
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device.reads import HAS_PADDING
from splade_bench.device.settings import SETTINGS
from splade_bench.memory_modes import memory_mode
from splade_bench.model.presets import build_preset
from splade_bench.training.feeding import PreparedAhead, prepared_ahead, source_of
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

    monkeypatch.setattr("splade_bench.training.step_numbers.read_numbers", read_numbers)
    # It reads the batch before it leaves the host.
    monkeypatch.setattr("splade_bench.training.trainer.require_right_padding", lambda groups: None)
    for name in READING:
        plain = getattr(Tensor, name)

        def checked(tensor: Tensor, *args: Any, plain: Any = plain, name: str = name, **kwargs: Any) -> Any:
            if tensor is HAS_PADDING:
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
    made = [threading.Event() for _ in range(3)]
    threads = set()

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            threads.add(threading.get_ident())
            event.set()
            yield number

    ahead = prepared_ahead(items())
    assert next(ahead) == 0
    assert made[1].wait(timeout=60), "the next one is made while this one is computed"
    assert [*ahead] == [1, 2]
    assert threading.get_ident() not in threads


def test_an_error_comes_where_its_batch_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("row 2 is damaged")

    ahead = prepared_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="row 2 is damaged"):
        next(ahead)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_another_thread_has_a_tokenizer_of_its_own(device: str) -> None:
    encoder = build_preset("toy", train_tokenizer((), vocab_size=512), seed=0).to(device)
    triples = [Triple(query="read a file", positive="open", negatives=("sort",))]

    source = source_of(triples, encoder, TrainConfig(max_length=8))

    assert source.batches_per_epoch == 1
    assert source.record_name(0) == "record 1"
    (batch,) = source.batches(epoch=0)
    assert len(batch) == 1
    if device == "cpu":
        assert isinstance(source, TripleBatches)
        assert source.tokenizer is encoder.tokenizer
    else:
        assert isinstance(source, PreparedAhead)
        assert isinstance(source.source, TripleBatches)
        assert source.source.tokenizer is not encoder.tokenizer

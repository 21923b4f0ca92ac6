"""Each known defect of torch on MPS: the CPU takes the paths of MPS, and a double records what would run there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from splade_bench.batching.sources import SyntheticBatches
from splade_bench.config import TrainConfig
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device import mps
from splade_bench.device.products import scores
from splade_bench.device.settings import SETTINGS
from splade_bench.memory_modes import memory_mode
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import build_preset
from splade_bench.training.preparing import prepare_model
from splade_bench.training.trainer import Trainer

VOCAB_SIZE = 50_265  # RoBERTa's: more than M1 and M2 sum rightly
LENGTH = 40


@dataclass
class Call:
    """An operator, with the shapes of its tensors."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def shape(self, position: int) -> tuple[int, ...]:
        return tuple(self.args[position].shape)


class Recording(TorchDispatchMode):
    """Writes down every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = tuple(arg.detach().to("meta") if isinstance(arg, torch.Tensor) else arg for arg in args)
        out = (kwargs or {}).get("out")
        offset = {} if out is None else {"offset": out.storage_offset(), "contiguous": out.is_contiguous()}
        self.calls.append(Call(func.overloadpacket.__name__, shapes, offset))
        return func(*args, **(kwargs or {}))

    def named(self, *names: str) -> list[Call]:
        return [call for call in self.calls if call.name in names]


@pytest.fixture(scope="module")
def encoder() -> SpladeEncoder:
    encoder = build_preset("toy", train_tokenizer((), vocab_size=512), seed=0, dropout=0.1, attention_dropout=0.1)
    body = encoder.body
    # More entries than words: token ids stay below the tokenizer's.
    weight = torch.randn(VOCAB_SIZE, encoder.decoder.in_features, generator=torch.Generator().manual_seed(0))
    encoder.decoder.weight = torch.nn.Parameter(weight)
    encoder.decoder.bias = torch.nn.Parameter(torch.zeros(VOCAB_SIZE))
    encoder.decoder.out_features = VOCAB_SIZE
    body.config.vocab_size = VOCAB_SIZE
    return encoder


@pytest.fixture(scope="module")
def recorded(encoder: SpladeEncoder) -> list[Call]:
    """What a training and an encoding on MPS would run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": SETTINGS["mps"]})
        config = TrainConfig(batch_size=3, max_length=LENGTH, max_steps=2, memory=memory_mode("memory-efficient"))
        source = SyntheticBatches(
            batch_size=3,
            max_length=LENGTH,
            vocab_size=512,
            negatives_per_query=1,
            batches_per_epoch=2,
            seed=0,
            lengths="real",
        )
        with Recording() as recording:
            Trainer(encoder, source, config).train()
            with torch.no_grad(), encoder.evaluating():
                encoder(next(source.batches(0)).queries)
    return recording.calls


def products(calls: list[Call]) -> list[tuple[Call, int]]:
    """Each matrix product with the number of terms of its sums."""
    inner = {"mm": (0, 1), "addmm": (1, 1), "bmm": (0, 2), "baddbmm": (1, 2)}
    return [(call, call.shape(inner[call.name][0])[inner[call.name][1]]) for call in calls if call.name in inner]


def no_long_sum(calls: list[Call]) -> None:
    assert len(products(calls)) > 20
    assert max(terms for _, terms in products(calls)) < mps.SHORTEST_WRONG_SUM


def products_into_starts(calls: list[Call]) -> None:
    into = [call for call, _ in products(calls) if call.kwargs]
    assert into, "the head writes its tiles into a buffer"
    assert all(call.kwargs == {"offset": 0, "contiguous": True} for call in into)


def reductions_over_the_last_dimension(calls: list[Call]) -> None:
    large = [call for call in calls if call.name in ("amax", "max") and len(call.shape(0)) == 3]
    assert {call.name for call in large} == {"amax", "max"}, "an encoding takes the one, a training the other"
    for call in large:
        dims = call.args[1] if isinstance(call.args[1], list) else [call.args[1]]
        assert dims in ([2], [-1])


def small_tiles(calls: list[Call]) -> None:
    searched = [prod(call.shape(0)) for call in calls if call.name in ("max", "argmax")]
    assert searched
    assert max(searched) < 2**32
    assert SETTINGS["mps"].tile_bytes // 2 <= 2**25


def never(*names: str) -> Callable[[list[Call]], None]:
    def check(calls: list[Call]) -> None:
        assert [call.name for call in calls if call.name.startswith(names)] == []

    return check


def contiguous_additions(calls: list[Call]) -> None:
    added = [call for call in calls if call.name.startswith("index_add")]
    assert added, "gradients of embeddings are added in place"
    for call in added:
        assert all(arg.is_contiguous() for arg in call.args if isinstance(arg, torch.Tensor))


def nothing_is_compiled(calls: list[Call]) -> None:
    assert torch.compiler.is_compiling() is False
    assert not [call.name for call in calls if "inductor" in call.name or "triton" in call.name]


CHECKS: dict[int, Callable[[list[Call]], None]] = {
    195163: no_long_sum,
    193385: products_into_starts,
    182255: reductions_over_the_last_dimension,
    194082: small_tiles,
    190060: never("_embedding_bag", "embedding_bag"),
    176159: contiguous_additions,
    170360: nothing_is_compiled,
}
# Widths: tests/device/test_devices.py, and the warnings below.
ELSEWHERE = {184180, 152550}


def test_every_known_defect_has_a_check() -> None:
    assert {defect.issue for defect in mps.DEFECTS} == CHECKS.keys() | ELSEWHERE


@pytest.mark.parametrize("issue", CHECKS)
def test_a_run_on_mps_does_not_do_what_torch_does_wrong(issue: int, recorded: list[Call]) -> None:
    CHECKS[issue](recorded)


def test_the_check_of_long_sums_sees_one() -> None:
    vectors = torch.rand(2, VOCAB_SIZE)
    with Recording() as recording:
        scores(vectors, vectors)

    assert max(terms for _, terms in products(recording.calls)) == VOCAB_SIZE


@pytest.mark.parametrize("vocab_size", [5, 16384, 16385, 50_265])
def test_scores_in_slices_are_those_of_one_product(vocab_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, documents = (
        torch.rand(rows, vocab_size, dtype=torch.float64, generator=generator).requires_grad_() for rows in (3, 7)
    )
    upstream = torch.rand(3, 7, dtype=torch.float64, generator=generator)
    whole = queries @ documents.t()
    expected = [whole, *torch.autograd.grad(whole, (queries, documents), upstream)]

    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": SETTINGS["mps"]})
    sliced = scores(queries, documents)

    for ours, plain in zip(
        [sliced, *torch.autograd.grad(sliced, (queries, documents), upstream)], expected, strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("multiple", "tokens", "warned"),
    [
        (32, 16384, []),
        (16, 32766, []),
        (None, 64, []),
        (8, 64, ["--pad-to-multiple-of 8: up to torch 2.12"]),
        (32, 32767, ["mini-batches of up to 32767 tokens"]),
    ],
)
def test_settings_that_could_show_a_defect_are_warned_of(multiple: int | None, tokens: int, warned: list[str]) -> None:
    lines = [*mps.warnings_for(pad_to_multiple_of=multiple, tokens=tokens)]

    assert len(lines) == len(warned)
    assert all(line.startswith(start) for line, start in zip(lines, warned, strict=True))


@pytest.mark.parametrize(("mode", "cached"), [("memory-efficient", True), ("standard", False)])
def test_a_run_on_mps_warns_before_it_begins(
    mode: str, cached: bool, encoder: SpladeEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainConfig(batch_size=1024, max_length=LENGTH, memory=memory_mode(mode))
    monkeypatch.setattr("splade_bench.training.preparing.device_type", lambda device: "mps")
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": SETTINGS["mps"]})

    prepare_model(encoder, config)

    assert ("mini-batches of up to 40960 tokens" in caplog.text) is not cached


@pytest.mark.parametrize(
    ("environment", "limits", "faulty"),
    [
        ({}, (17, 14), False),
        ({"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "1.0"}, (10, 14), True),
        ({"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "1.0", "PYTORCH_MPS_LOW_WATERMARK_RATIO": "0.5"}, (10, 5), False),
        ({"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "0.0"}, (None, 14), False),
        ({"PYTORCH_MPS_LOW_WATERMARK_RATIO": "many"}, (17, 14), False),
    ],
)
def test_the_allocators_limits_follow_the_environment(
    environment: dict[str, str], limits: tuple[int | None, int | None], faulty: bool
) -> None:
    found = mps.watermarks(10, environment)

    assert (found["high_watermark_bytes"], found["low_watermark_bytes"]) == limits
    assert (mps.watermark_fault(environment) is not None) is faulty


@pytest.mark.parametrize(
    ("version", "concerned"), [("2.10.0", True), ("2.12.1+cpu", True), ("2.13.0+cpu", False), ("3.0.0", False)]
)
def test_a_defect_concerns_versions_before_its_repair(version: str, concerned: bool) -> None:
    attention = next(defect for defect in mps.DEFECTS if defect.issue == 184180)
    lasting = next(defect for defect in mps.DEFECTS if defect.fixed_in is None)

    assert attention.concerns(version) is concerned
    assert lasting.concerns(version)

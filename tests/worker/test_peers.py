"""Peers: each makes the plain definition's gradient, and loads the same weights."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from gradient_check import gradient_error, largest_gradient_error

from splade_bench.batching.batches import TripleBatch, pad
from splade_bench.bench.calls import CallRunner
from splade_bench.bench.cells import CellRunner
from splade_bench.bench.session import MeasuringSession
from splade_bench.config import MODEL_PRESETS, ModelPreset
from splade_bench.grid.cell import Cell
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.worker.flops import cached_step_flops, direct_step_flops

MISSING_PEERS = importlib.util.find_spec("sentence_transformers") is None
PEERS = [
    pytest.param(trainer, size, marks=pytest.mark.skipif(MISSING_PEERS, reason="needs the extra [peers]"))
    for trainer, size in (("SpladeLoss", None), ("SpladePooling-chunked", 8), ("CachedSpladeLoss", 3))
]


def make_cell(trainer: str = "splade-bench", size: int | None = None, **changes: object) -> Cell:
    values: dict[str, object] = {
        "workload": "bert-tiny-128",
        "device": "cpu",
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "memory_mode": "memory-efficient" if trainer == "splade-bench" else "standard",
        "max_steps": 2,
        "trainer": trainer,
        "trainer_size": size,
    }
    return Cell(**values | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("trainer", "size"), [("splade-bench", None), ("article-trainer", None), *PEERS])
def test_every_trainer_makes_the_gradient_of_the_plain_definition(trainer: str, size: int | None) -> None:
    assert gradient_error(**asdict(make_cell(trainer, size))) <= 1e-9


def test_a_wrong_gradient_has_a_large_error() -> None:
    exact = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0])}

    assert largest_gradient_error(exact, exact) == 0.0
    assert largest_gradient_error(exact | {"a": torch.tensor([1.0, 2.002])}, exact) == pytest.approx(1e-3, rel=1e-3)
    assert largest_gradient_error({"a": exact["a"]}, exact) == float("inf")
    assert largest_gradient_error({}, {}) == float("inf")
    # A gradient that is zero is held by the model's scale.
    assert largest_gradient_error(exact | {"b": torch.tensor([2e-6])}, exact) == pytest.approx(1.0)


def make_session(folder: Path, *, resume: bool) -> MeasuringSession:
    return MeasuringSession(
        results_path=folder / "results.jsonl",
        cells=CellRunner(cache=folder / "cache", timeout_s=120),
        calls=CallRunner(timeout_s=120),
        resume=resume,
    )


@pytest.mark.slow
def test_a_peer_and_this_package_start_with_the_same_weights_and_have_the_same_record(tmp_path: Path) -> None:
    session = make_session(tmp_path, resume=False)
    own, article = (
        session.measure(make_cell(trainer), lambda run: (run.wait_until_ready(), run.train()))
        for trainer in ("splade-bench", "article-trainer")
    )

    assert own.status == article.status == "ok", (own.error, article.error)
    assert own.losses and article.losses
    assert own.losses[0] == pytest.approx(article.losses[0], rel=0.05)  # dropout draws other numbers
    assert own.optimizer_steps == article.optimizer_steps == 2
    assert own.active_share == pytest.approx(TRAINED_ACTIVE_SHARE, rel=0.5)
    assert own.step_flops and own.gemm_flops_per_s and own.parameter_bytes
    assert own.direct_step_flops and 3 / 4 < own.direct_step_flops / own.step_flops < 1
    assert own.memray_peak_bytes is None
    assert len(list((tmp_path / "cache").glob("weights-*"))) == 1
    assert own.peak_rss_bytes and article.peak_rss_bytes
    assert own.peak_rss_bytes < article.peak_rss_bytes

    assert session.recorded(make_cell()) == own
    assert make_session(tmp_path, resume=False).recorded(make_cell()) is None
    assert make_session(tmp_path, resume=True).recorded(make_cell()) == own
    assert make_session(tmp_path, resume=True).recorded(make_cell(seed=7)) is None


def test_the_work_of_a_cached_step_is_counted_by_its_products() -> None:
    preset = ModelPreset(layers=3, hidden_size=8, attention_heads=2, vocab_size=100)
    batch = TripleBatch(pad([[1] * 5], pad_token_id=0), (pad([[1] * 7], pad_token_id=0),))

    linear = sum(length * (3 * 12 * 64 + 64) for length in (5, 7))
    attention = sum(3 * 2 * length * length * 8 for length in (5, 7))
    head = sum(length * 8 * 100 for length in (5, 7))

    assert cached_step_flops(preset, batch) == 2 * (4 * (linear + attention) + head)
    assert direct_step_flops(preset, batch) == 2 * (3 * (linear + attention) + head)


def test_the_work_of_bert_base_is_that_worked_out_by_hand() -> None:
    texts = pad([[1] * 512] * 2, pad_token_id=0)

    assert cached_step_flops(MODEL_PRESETS["base"], TripleBatch(texts, (texts, texts))) == pytest.approx(
        2.46e12, rel=0.02
    )

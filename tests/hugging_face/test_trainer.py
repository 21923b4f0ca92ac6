"""sentence-transformers' own trainer with this package's parts: the losses of its SpladeLoss, in all its ways."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra [sentence-transformers]")
pytest.importorskip("accelerate", reason="needs the extra [sentence-transformers]")
pytest.importorskip("datasets", reason="needs the extra [sentence-transformers]")

import torch
from datasets import Dataset
from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss

from splade_bench.data.records import Triple
from splade_bench.hugging_face.callback import MemoryCallback
from splade_bench.hugging_face.loss import LeanSpladeLoss
from splade_bench.hugging_face.streaming import heads_of
from splade_bench.memory_modes import MemoryConfig

MakeModel = Callable[..., Any]
MakeTrainer = Callable[..., Any]
WEIGHTS = {"document_regularizer_weight": 3e-2, "query_regularizer_weight": 5e-2}

pytestmark = pytest.mark.filterwarnings("default")  # of libraries that this project does not choose


@pytest.fixture
def make_trainer(make_model: MakeModel, triples: Sequence[Triple], tmp_path: Path) -> MakeTrainer:
    """Makes a trainer of four optimizer steps; ``lean`` says with whose loss."""
    data = Dataset.from_dict(
        {
            "query": [triple.query for triple in triples],
            "positive": [triple.positive for triple in triples],
            "negative_1": [triple.negatives[0] for triple in triples],
            "negative_2": [triple.negatives[1] for triple in triples],
        }
    )

    def make(*, lean: bool, callbacks: Sequence[Any] = (), evaluates: bool = False, **changes: Any) -> Any:
        model = make_model()
        ranking = SparseMultipleNegativesRankingLoss(model)
        loss = (
            LeanSpladeLoss(model, ranking, **WEIGHTS, memory=MemoryConfig(mini_batch_size=3))
            if lean
            else SpladeLoss(model, ranking, **WEIGHTS)
        )
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / ("lean" if lean else "plain")),
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        arguments = SparseEncoderTrainingArguments(**settings | changes)
        model.model_card_data.generate_widget_examples = False
        return SparseEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=data,
            eval_dataset=data.select(range(8)) if evaluates else None,
            loss=loss,
            callbacks=[*callbacks],
        )

    return make


def logged(trainer: Any, name: str = "loss") -> list[float]:
    trainer.train()
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"prompts": {"query": "who answers: ", "positive": "a text: "}},
    ],
    ids=lambda changes: next(iter(changes), "plain"),
)
def test_the_losses_are_those_of_its_own_loss(make_trainer: MakeTrainer, changes: dict[str, Any]) -> None:
    ours, theirs = (make_trainer(lean=lean, **changes) for lean in (True, False))

    losses = logged(ours)

    assert losses == pytest.approx(logged(theirs), rel=1e-3)
    assert len(losses) == 4 and losses[-1] < losses[1]  # the regularizers begin at the second step
    for name in ("base_loss", "document_regularizer_loss", "query_regularizer_loss"):
        assert [entry[name] for entry in ours.state.log_history if name in entry] == pytest.approx(
            [entry[name] for entry in theirs.state.log_history if name in entry], rel=1e-3, abs=1e-4
        )


def test_mixed_precision_learns_as_its_own_loss_does(make_trainer: MakeTrainer) -> None:
    ours, theirs = (make_trainer(lean=lean, bf16=True) for lean in (True, False))

    assert logged(ours) == pytest.approx(logged(theirs), rel=0.05)


def test_a_checkpoint_is_ordinary_and_a_run_goes_on_from_it(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = make_trainer(lean=True)
    whole.train()
    first = make_trainer(lean=True, save_strategy="steps", save_steps=2)
    first.train()
    checkpoint = tmp_path / "lean" / "checkpoint-2"
    second = make_trainer(lean=True)

    second.train(resume_from_checkpoint=str(checkpoint))

    assert not heads_of(SparseEncoder(str(checkpoint), device="cpu"))
    assert heads_of(second.model)
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def test_the_best_model_is_loaded_at_the_end(make_trainer: MakeTrainer) -> None:
    every_step = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer = make_trainer(lean=True, evaluates=True, load_best_model_at_end=True, **every_step)

    trainer.train()

    best = SparseEncoder(trainer.state.best_model_checkpoint, device="cpu").state_dict()
    assert all(torch.equal(weight, best[name]) for name, weight in trainer.model.state_dict().items())
    assert all(math.isfinite(entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry)


def test_the_callback_puts_its_figures_into_the_history_and_a_file(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    callback = MemoryCallback(tmp_path / "memory.json")
    trainer = make_trainer(lean=True, callbacks=[callback])

    trainer.train()

    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 4
    assert all(entry["peak_rss_bytes"] > 0 and entry["step_time_s"] > 0 for entry in entries)
    record = json.loads((tmp_path / "memory.json").read_text())
    assert record["optimizer_steps"] == 4

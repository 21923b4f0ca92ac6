"""Trains a SPLADE model with sentence-transformers' own trainer, in a process of its own.

The model has random weights. Texts are random words: 256 tokens each (``full``), or lengths as real texts have them.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
from sentence_transformers.sparse_encoder.losses import (
    CachedSpladeLoss,
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from splade_bench.config import MODEL_PRESETS
from splade_bench.data.wordpiece import SPECIAL_TOKENS
from splade_bench.hugging_face.callback import MemoryCallback
from splade_bench.hugging_face.loss import LeanSpladeLoss
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE, build_preset, set_active_share

LENGTH, QUERIES, COLUMNS = 256, 8, ("query", "positive", "negative")
_SHORTEST = 16
_WEIGHTS: dict[str, Any] = {"document_regularizer_weight": 3e-5, "query_regularizer_weight": 5e-5}


def train(
    loss: str,
    *,
    model: str = "mini",
    dropout: float = 0.0,
    steps: int = 4,
    full: bool = True,
    mini_batch_size: int = 1,
    activation_memory: str = "none",
) -> dict[str, Any]:
    """The figures of :class:`MemoryCallback`, and the loss of each optimizer step.

    Args:
        loss: SpladeLoss, CachedSpladeLoss or LeanSpladeLoss.
        model: a preset.
        dropout: of hidden states and of attention.
        steps: optimizer steps, one batch each.
        full: all texts have 256 tokens, or they have 16 to 256.
        mini_batch_size: of CachedSpladeLoss.
        activation_memory: of LeanSpladeLoss.
    """
    with TemporaryDirectory() as name:
        record = Path(name) / "memory.json"
        callback = MemoryCallback(record)
        columns = _texts(steps, full=full)
        _save_model(Path(name) / "model", model, columns["positive"][:QUERIES])
        chances = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        encoder = SparseEncoder(str(Path(name) / "model"), device="cpu", config_kwargs=chances)
        encoder.model_card_data.generate_widget_examples = False
        trainer = SparseEncoderTrainer(
            model=encoder,
            args=SparseEncoderTrainingArguments(
                output_dir=name,
                per_device_train_batch_size=QUERIES,
                max_steps=steps,
                learning_rate=2e-5,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                seed=1,
            ),
            train_dataset=Dataset.from_dict(columns),
            loss=_loss(loss, encoder, mini_batch_size, activation_memory),
            callbacks=[callback],
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return {**json.loads(record.read_text(encoding="utf-8")), "losses": losses}


def _loss(name: str, encoder: SparseEncoder, mini_batch_size: int, activation_memory: str) -> Any:
    ranking = SparseMultipleNegativesRankingLoss(encoder)
    if name == "LeanSpladeLoss":
        memory = replace(MEMORY_MODES["memory-efficient"], activation_memory=activation_memory)
        return LeanSpladeLoss(encoder, ranking, **_WEIGHTS, memory=memory)
    if name == "CachedSpladeLoss":
        return CachedSpladeLoss(encoder, ranking, **_WEIGHTS, mini_batch_size=mini_batch_size)
    return SpladeLoss(encoder, ranking, **_WEIGHTS)


def _save_model(folder: Path, preset: str, documents: list[str]) -> None:
    """A model whose documents have as many active entries as those of a trained one."""
    encoder = build_preset(preset, _tokenizer(MODEL_PRESETS[preset].vocab_size), seed=1)
    encoder.tokenizer.model_max_length = LENGTH
    set_active_share(encoder, encoder.tokenize(documents, max_length=LENGTH), TRAINED_ACTIVE_SHARE)
    encoder.save_pretrained(folder)


def _tokenizer(vocab_size: int) -> Tokenizer:
    """One token for each word ``w0``, ``w1``, …"""
    words = [*SPECIAL_TOKENS, *(f"w{number}" for number in range(vocab_size - len(SPECIAL_TOKENS)))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, words.index(name)) for name in ("[CLS]", "[SEP]")]
    )
    return tokenizer


def _texts(steps: int, *, full: bool) -> dict[str, list[str]]:
    random_numbers = random.Random(1)

    def text() -> str:
        words = (LENGTH if full else random_numbers.randint(_SHORTEST, LENGTH)) - 2
        return " ".join(f"w{random_numbers.randrange(500)}" for _ in range(words))

    return {column: [text() for _ in range(QUERIES * steps)] for column in COLUMNS}

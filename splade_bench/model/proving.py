"""A model is proved: a text's vector is its own, and the model without its decoder gives the same ones.

A loaded model is proved by itself. For a plan, which loads no weights, a small model of the same architecture is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from splade_bench.batching.batches import TextBatch, pad
from splade_bench.device.out_of_memory import is_out_of_memory
from splade_bench.errors import ConfigError, error_line
from splade_bench.model.activations import ACTIVATIONS, saved_activation
from splade_bench.model.miniature import miniature

_Encoder = TypeVar("_Encoder", bound=nn.Module)
_LONGEST_REASON = 200
# Rounding depends on the shape of a batch.
_TOLERANCE = 1e-3


def proved(
    make_encoder: Callable[[PreTrainedModel, PreTrainedTokenizerBase], _Encoder],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    model_name: str,
) -> _Encoder:
    """The encoder that is made of a model, if its vectors are right.

    They are compared on two short texts of different lengths: the whole model's vector of each text alone, its vectors
    of both in one batch, and the encoder's.

    Raises:
        ConfigError: the vectors differ, or the architecture fails.
    """
    texts = _toy_texts(tokenizer)
    refused = f"--model-name {model_name}: {type(model).__name__} cannot be used here, because"
    with _failing_as(f"{refused} it fails on two short texts"):
        together = _vectors(model, texts)
        alone = torch.cat([_vectors(model, text, masked=False) for text in _one_by_one(texts)])
    with _failing_as(f"{refused} it fails on two short texts in training"), _training(model):
        _vectors(model, texts)
    with _failing_as(f"{refused} its output embeddings cannot be taken out of it"), torch.no_grad():
        encoder = make_encoder(model, tokenizer)
        torch.testing.assert_close(encoder(texts), together, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
    if not torch.allclose(alone, together, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
        raise ConfigError(
            f"{refused} it gives a text another vector beside a longer text than alone: its layers do not leave out "
            "padding; choose another architecture"
        )
    return encoder


def prove_architecture(
    make_encoder: Callable[[PreTrainedModel, PreTrainedTokenizerBase], _Encoder],
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    model_name: str,
) -> _Encoder | None:
    """Refuse an architecture whose models :func:`proved` refuses, without their weights; a small model of it.

    None if no small one can be made. The padding token of ``tokenizer`` must be 0.

    Raises:
        ConfigError: as :func:`proved`, of a small model with this config's choices and random weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            small = AutoModelForMaskedLM.from_config(miniature(config), dtype=torch.float32).eval()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return (
                None  # an architecture that is not known to have small models: this says nothing about its large ones
            )
        return proved(make_encoder, small, tokenizer, model_name=model_name)


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """The model in train mode, and afterwards with the random numbers and the buffers that it had."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    with torch.random.fork_rng(devices=[]):
        model.train()
        try:
            yield
        finally:
            model.train(was_training)
            for name, buffer in buffers.items():
                model.get_buffer(name).copy_(buffer)


@contextmanager
def _failing_as(reason: str) -> Iterator[None]:
    """Whatever an architecture that nobody tried raises inside the block is a refusal for this reason."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ConfigError) or is_out_of_memory(error):
            raise
        line = error_line(error)[:_LONGEST_REASON]
        raise ConfigError(f"{reason} ({line}); choose another architecture") from error


def _toy_texts(tokenizer: PreTrainedTokenizerBase) -> TextBatch:
    """Two texts of a few tokens, which every vocabulary has."""
    padding = tokenizer.pad_token_id or 0
    tokens = [token for token in range(8) if token != padding]
    return pad([tokens[:2], tokens], pad_token_id=padding)


def _one_by_one(texts: TextBatch) -> Iterator[TextBatch]:
    for row, length in enumerate(texts.lengths):
        one = slice(row, row + 1), slice(length)
        yield TextBatch(texts.input_ids[one], texts.attention_mask[one], (length,))


@torch.no_grad()
def _vectors(model: PreTrainedModel, texts: TextBatch, *, masked: bool = True) -> Tensor:
    """Vectors [N, V] from the model's own logits; without a mask for texts of a length, as on an accelerator."""
    logits = model(input_ids=texts.input_ids, attention_mask=texts.attention_mask if masked else None).logits
    activation = ACTIVATIONS[saved_activation(model.config)]
    weights: Tensor = activation.weights(torch.relu(logits)) * texts.attention_mask.unsqueeze(-1)
    return weights.amax(1)

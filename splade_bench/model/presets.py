"""BERT models with random weights that learn at once: without a download, they start from words and not from noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from splade_bench.batching.batches import TextBatch
from splade_bench.config import MODEL_PRESETS, ModelPreset
from splade_bench.model.encoder import SpladeEncoder

# Share of a document's entries that are active in a trained SPLADE model: about 300 of 30,522.
TRAINED_ACTIVE_SHARE = 0.01
_DECODER_BIAS = -4.0
# With this bias every logit is positive and still has five digits.
ALL_ACTIVE_BIAS = 64.0
# A token's own logit for itself, with the bias.
_SELF_LOGIT = math.sqrt(128) + _DECODER_BIAS
# Chosen on the development split of the embedded corpus: weight = mean weight * (idf / mean idf) ** 0.35, and at most
# 1.5 times the mean's embedding: with more, unrelated tokens activate each other.
_IDF_EXPONENT = 0.35
_EMBEDDING_SCALE_RANGE = (0.1, 1.5)


def build_preset(
    name: str,
    tokenizer: Tokenizer,
    *,
    seed: int,
    inverse_document_frequencies: Sequence[float] | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> SpladeEncoder:
    """A preset of :data:`splade_bench.config.MODEL_PRESETS` with seeded random weights and this tokenizer.

    With ``inverse_document_frequencies``, one for each entry of the vocabulary, rare words start with more weight.
    Dropout is off by default: it does not help a short run from random weights, and without it modes can be compared
    exactly.
    """
    preset = MODEL_PRESETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForMaskedLM(bert_config(preset, dropout, attention_dropout))
        _start_from_words(model)
    if inverse_document_frequencies is not None:
        _weigh_words(model, torch.tensor(inverse_document_frequencies))
    return SpladeEncoder(model, wrap_tokenizer(tokenizer))


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """``tokenizer`` for transformers, with BERT's special tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@torch.no_grad()
def set_active_share(encoder: SpladeEncoder, texts: TextBatch, share: float) -> None:
    """Set one decoder bias for all entries so that ``share`` of the entries of ``texts`` are active.

    A model with random weights then costs as much as a trained one: the work of the head's backward depends on it.
    """
    bias = encoder.decoder.bias
    bias.fill_(ALL_ACTIVE_BIAS)
    with encoder.evaluating():
        bias.fill_(bias_for_active_share(encoder(texts.to(encoder.device)), share))


def bias_for_active_share(vectors: torch.Tensor, share: float) -> float:
    """The bias with which ``share`` of the entries are active, from vectors made with :data:`ALL_ACTIVE_BIAS`."""
    largest_logits = torch.expm1(vectors).flatten() - ALL_ACTIVE_BIAS
    if share == 1:
        return 1 - float(largest_logits.min())
    rank = max(1, round((1 - share) * len(largest_logits)))
    return -float(largest_logits.kthvalue(rank).values)


def bert_config(preset: ModelPreset, dropout: float, attention_dropout: float) -> BertConfig:
    """The preset's shape as a transformers config."""
    return BertConfig(
        vocab_size=preset.vocab_size,
        hidden_size=preset.hidden_size,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.attention_heads,
        intermediate_size=4 * preset.hidden_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=attention_dropout,
    )


@torch.no_grad()
def _start_from_words(model: BertForMaskedLM) -> None:
    """Initialise so that a text's vector starts as roughly its own words.

    Plain random weights give scores near 180: the softmax saturates, and SPLADE collapses to zero vectors. Here tied
    embeddings are long enough that a token recognises itself through the (identity) transform, and a negative decoder
    bias keeps all other entries inactive.
    """
    hidden_size = model.config.hidden_size
    embeddings = model.bert.embeddings.word_embeddings.weight
    # A token's logit for itself is about sqrt(H) * |embedding|: with this deviation, the same for every H.
    nn.init.normal_(embeddings, std=128**0.5 / hidden_size)
    head = model.cls.predictions
    nn.init.eye_(head.transform.dense.weight)
    nn.init.zeros_(head.transform.dense.bias)
    nn.init.constant_(head.decoder.bias, _DECODER_BIAS)


@torch.no_grad()
def _weigh_words(model: BertForMaskedLM, idf: torch.Tensor) -> None:
    """Scale each token's embedding and bias so that its own weight, ``log1p(logit)``, grows with its rarity."""
    mean_idf = idf[idf < idf.max()].mean()  # without tokens that are in no document
    weights = math.log1p(_SELF_LOGIT) * (idf / mean_idf) ** _IDF_EXPONENT
    scales = (torch.expm1(weights) / _SELF_LOGIT).clamp(*_EMBEDDING_SCALE_RANGE)
    model.bert.embeddings.word_embeddings.weight.mul_(scales.unsqueeze(1))
    model.cls.predictions.decoder.bias.mul_(scales)

"""How the vectors of a loaded model start: with so many active entries, or from a text's own words.

*Calibrated*: one shift of the decoder's bias, so that texts begin with a wanted number of active dims.

*Lexical*: the decoder's weights are those of the input embeddings, and the transform before it passes hidden states on.
It is a linear layer, an activation and a LayerNorm. The linear layer is an identity with a bias that is larger than any
hidden state is negative. There GELU and its relatives change nothing, and LayerNorm takes the bias out again. So the
decoder compares each token's hidden state with the embedding of each word. From the logit of a word its mean over a
sample of texts is taken, by the decoder's bias. The weight of the LayerNorm is the scale of the logits.

Both starts leave an ordinary masked-language model.

Shapes: L tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from splade_bench.batching.batches import TextBatch
from splade_bench.errors import ConfigError
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.starts import START_ACTIVE_DIMS, StartName

_TEXTS_AT_ONCE = 4
_ENTRIES_AT_ONCE = 8192
# GELU(x) is x from here on, to six digits.
_PASSES_FROM = 6.0
_SAME_DIRECTION = 0.99
# An active entry's mean logit: with more, the first scores saturate the softmax, with less, they are all alike. Of 1,
# 0.5, 0.3, 0.2, 0.1 and 0.05, this one gave minilm the smallest first loss on the embedded corpus.
_MEAN_ACTIVE_LOGIT = 0.5
_SMALLEST = 1e-6
# The setting of a config that gives a layer a bias, for architectures that have such a setting.
_DECODER_BIAS, _TRANSFORM_BIAS = "decoder_bias", "classifier_bias"
_OTHERWISE = "choose another model, or leave --start out"


@torch.no_grad()
def apply_start(
    encoder: SpladeEncoder,
    start: StartName,
    documents: Sequence[str],
    *,
    max_length: int,
    active_dims: int = START_ACTIVE_DIMS,
) -> None:
    """Make the vectors of ``encoder`` start as ``start`` says.

    Args:
        encoder: on the device of the training.
        start: ``as-is`` changes nothing.
        documents: a sample, whose vectors begin with ``active_dims`` active entries on average.
        max_length: tokens after which they are cut.
        active_dims: for ``calibrated`` and ``lexical``.

    Memory: the logits of a text for 8192 entries, and ``active_dims`` numbers a document.

    Raises:
        ConfigError: the architecture has no such start, or the vocabulary has not so many entries.
    """
    if start == "as-is":
        return
    require_active_dims(active_dims, encoder.vocab_size)
    with encoder.evaluating():
        length = min(max_length, encoder.position_limit or max_length)
        texts = [
            encoder.tokenize(documents[first : first + _TEXTS_AT_ONCE], max_length=length, kind="documents")
            for first in range(0, len(documents), _TEXTS_AT_ONCE)
        ]
        bias = _with_bias(encoder.decoder, encoder.body.config, _DECODER_BIAS, start)
        if start == "lexical":
            norm = _start_from_words(encoder, texts)
            # Without this, the same few entries are active in most texts.
            bias.zero_().sub_(_mean_logits(encoder, texts))
        largest = _largest_logits(encoder, texts, active_dims * len(documents) + 1)
        threshold = largest[-2:].mean()
        bias.sub_(threshold)
        if start == "lexical":
            scale = _MEAN_ACTIVE_LOGIT / (largest[:-1].mean() - threshold).clamp(min=_SMALLEST)
            norm.weight.mul_(scale)
            bias.mul_(scale)


def require_active_dims(active_dims: int, vocab_size: int) -> None:
    """Refuse a start with more active dims than a vector can have.

    Raises:
        ConfigError: it names both numbers.
    """
    if active_dims >= vocab_size:
        raise ConfigError(
            f"--start-active-dims {active_dims}: must be below the {vocab_size} entries of the vocabulary"
        )


def _mean_logits(encoder: SpladeEncoder, texts: Sequence[TextBatch]) -> Tensor:
    """The mean over texts of each entry's pooled logit: [V]."""
    total, count = torch.zeros(encoder.vocab_size, device=encoder.device), 0
    for logits in _pooled_logits(encoder, texts):
        total, count = total + logits, count + 1
    return total / count


def _largest_logits(encoder: SpladeEncoder, texts: Sequence[TextBatch], count: int) -> Tensor:
    """The largest of all texts' pooled logits, in falling order: [count].

    Half-way between the last two of them is the threshold above which all others are.
    """
    kept = torch.empty(0, device=encoder.device)
    for logits in _pooled_logits(encoder, texts):
        kept = torch.cat([kept, logits])
        kept = kept.topk(min(count, len(kept))).values
    return kept


def _pooled_logits(encoder: SpladeEncoder, texts: Sequence[TextBatch]) -> Iterator[Tensor]:
    """Each text's largest logit of every entry, [V]."""
    weight, bias = encoder.decoder.weight, encoder.decoder.bias
    for hidden in _hidden_states(encoder, texts):
        parts = zip(weight.split(_ENTRIES_AT_ONCE), bias.split(_ENTRIES_AT_ONCE), strict=True)
        yield torch.cat([F.linear(hidden, *part).amax(0) for part in parts])


def _hidden_states(encoder: SpladeEncoder, texts: Sequence[TextBatch]) -> Iterator[Tensor]:
    """What the decoder gets of each text, [L, H]."""
    for batch in texts:
        hidden = encoder.body(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        for row, length in enumerate(batch.lengths):
            yield hidden[row, :length]


def _start_from_words(encoder: SpladeEncoder, texts: Sequence[TextBatch]) -> nn.LayerNorm:
    """Make the head compare hidden states with the embeddings of words; the LayerNorm before its decoder."""
    name = type(encoder.body).__name__
    embeddings: Any = encoder.body.get_input_embeddings().weight
    if embeddings.shape != encoder.decoder.weight.shape:
        raise ConfigError(f"--start lexical: {name} has embeddings of another size than its decoder; {_OTHERWISE}")
    dense, norm = _transform(encoder, name)
    encoder.decoder.weight.copy_(embeddings)
    bias = _with_bias(dense, encoder.body.config, _TRANSFORM_BIAS, "lexical")
    own = [_body_states(encoder, batch) for batch in texts]
    nn.init.eye_(dense.weight)
    bias.fill_(max(float(states.abs().max()) for states in own) + _PASSES_FROM)
    nn.init.ones_(norm.weight)
    if norm.bias is not None:
        nn.init.zeros_(norm.bias)
    before = F.layer_norm(own[0], own[0].shape[-1:], eps=norm.eps)
    after = torch.cat([*_hidden_states(encoder, texts[:1])])
    if F.cosine_similarity(before, after).min() < _SAME_DIRECTION:
        raise ConfigError(f"--start lexical: the head of {name} cannot pass hidden states on; {_OTHERWISE}")
    return norm


def _transform(encoder: SpladeEncoder, name: str) -> tuple[nn.Linear, nn.LayerNorm]:
    """The linear layer and the LayerNorm of the head, without which there is no lexical start."""
    body = f"{encoder.body.base_model_prefix}."
    parts = [part for path, part in encoder.body.named_modules() if not path.startswith(body)]
    linear = [part for part in parts if isinstance(part, nn.Linear)]
    norms = [part for part in parts if isinstance(part, nn.LayerNorm)]
    if len(linear) != 1 or len(norms) != 1 or linear[0].in_features != linear[0].out_features:
        raise ConfigError(
            f"--start lexical: the head of {name} is not a square linear layer and a LayerNorm; {_OTHERWISE}"
        )
    return linear[0], norms[0]


def _body_states(encoder: SpladeEncoder, batch: TextBatch) -> Tensor:
    """The body's last hidden states of all tokens of some texts: [L, H]."""
    states = encoder.body.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
    return torch.cat([states[row, :length] for row, length in enumerate(batch.lengths)])


def _with_bias(layer: nn.Linear, config: PretrainedConfig, setting: str, start: StartName) -> Tensor:
    """The bias of a layer; it gets one if the config can say so, so that the saved model has it too."""
    if layer.bias is None:
        if getattr(config, setting, None) is None:
            raise ConfigError(
                f"--start {start}: a {config.model_type} model has a layer without a bias in its head, and no setting "
                f"that gives it one; {_OTHERWISE}"
            )
        setattr(config, setting, True)
        layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_features))
    return layer.bias

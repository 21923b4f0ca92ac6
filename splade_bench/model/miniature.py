"""A small config of any architecture: as many as transformers has can be tried so, in little time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

VOCAB_SIZE = 64
_LAYERS, _HEADS, _WIDTH, _NARROW, _INNER = 2, 2, 32, 16, 48
# Large weights, so that what is computed wrongly shows.
_WEIGHT_DEVIATION = 0.5

_LAYER_NAMES = ("num_hidden_layers", "n_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
_WIDTH_NAMES = ("hidden_size", "d_model", "dim", "emb_dim")
_VOCABULARY_NAMES = ("vocab_size", "entity_vocab_size", "shape_vocab_size", "pronunciation_vocab_size")
# What each architecture calls its sizes, and the small ones.
_SIZES: Mapping[str, Any] = {
    **dict.fromkeys((*_LAYER_NAMES, "num_self_attends_per_block"), _LAYERS),
    **dict.fromkeys(
        (
            *("num_attention_heads", "num_key_value_heads", "n_heads", "n_head"),
            *("encoder_attention_heads", "decoder_attention_heads"),
            *("num_self_attention_heads", "num_cross_attention_heads"),
        ),
        _HEADS,
    ),
    **dict.fromkeys((*_WIDTH_NAMES, "d_latents"), _WIDTH),
    **dict.fromkeys(("head_dim", "d_head", "attention_head_size"), _WIDTH // _HEADS),
    **dict.fromkeys(("embedding_rank", "entity_emb_size", "num_latents"), _NARROW),
    **dict.fromkeys(("pronunciation_embed_dim", "shape_embed_dim"), 8),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_inner", "feed_forward_size"), _INNER),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "prediction_head_size"), _INNER),
    **dict.fromkeys(("max_position_embeddings", "max_2d_position_embeddings"), 64),
    **dict.fromkeys(("initializer_range", "init_std", "embed_init_std", "initializer_std"), _WEIGHT_DEVIATION),
    "attention_window": 8,
    "block_sizes": 1,
    "axial_pos_embds_dim": (8, 24),
    "axial_pos_shape": (8, 8),
}
# As wide as the hidden states, or narrower.
_EMBEDDING_NAMES = (
    *("embedding_size", "input_embedding_size", "output_embedding_size"),
    *("intra_bottleneck_size", "true_hidden_size"),
)


def miniature(config: PretrainedConfig, *, vocab_size: int = VOCAB_SIZE) -> PretrainedConfig:
    """``config`` with two layers, a hidden size of 32 and a small vocabulary; its choices stay, padding is token 0.

    An architecture whose sizes have other names than those known here keeps them.
    """
    small: PretrainedConfig = type(config).from_dict(_shrunk(config.to_dict(), vocab_size))
    small.name_or_path = config.name_or_path
    return small


def _shrunk(values: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    layers = {values[name] for name in _LAYER_NAMES if name in values}
    widths = {values[name] for name in _WIDTH_NAMES if name in values}
    return {
        name: _small_value(name, value, vocab_size, layers, widths)
        for name, value in values.items()
        if name != "per_layer_config"  # follows from the types of the layers
    }


def _small_value(name: object, value: Any, vocab_size: int, layers: set[int], widths: set[int]) -> Any:
    if isinstance(value, dict):  # a part's own config
        return _shrunk(value, vocab_size)
    if value is None or isinstance(value, bool) or not isinstance(name, str):  # labels are numbered
        return value
    if name in _EMBEDDING_NAMES:
        return _WIDTH if value in widths else _NARROW
    if name in _VOCABULARY_NAMES:
        return vocab_size
    if name in _SIZES:
        small = _SIZES[name]
        if isinstance(value, Sequence) and not isinstance(small, Sequence):
            count = _LAYERS if len(value) in layers else len(value)
            return [small] * count
        return small
    if "layer" in name and isinstance(value, (list, tuple)) and len(value) in layers:
        return list(value)[-_LAYERS:]  # the last ones: some architectures want their last layer to be of one type
    if name.endswith(("_token_id", "_index")) and isinstance(value, int):
        return 0 if name == "pad_token_id" else min(value, vocab_size - 1)
    return value

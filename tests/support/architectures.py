"""A model of every architecture this package is tried with, small enough to cost nothing."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
# What each architecture calls its sizes.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "camembert": SIZES,
    "electra": SIZES | {"embedding_size": 32},
    "mpnet": SIZES,
    "modernbert": SIZES | {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3},
    "albert": SIZES | {"embedding_size": 16},
    "deberta-v2": SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    # These change the result of a linear layer in place.
    "deberta": SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "roc_bert": SIZES
    | {
        "pronunciation_vocab_size": 120,
        "pronunciation_embed_dim": 8,
        "shape_vocab_size": 120,
        "shape_embed_dim": 8,
    },
    "distilbert": {
        "vocab_size": 120,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 48,
        "max_position_embeddings": 40,
    },
}


def make_model(
    architecture: str, *, dropout: float | None = None, attention_dropout: float | None = None, **sizes: int
) -> Any:
    """With seeded random weights, in eval mode; ``dropout`` takes the place of each probability it has for it.

    ``attention_dropout`` takes that of the probability for attention alone.
    """
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture, **ARCHITECTURES[architecture] | sizes)
    for name, value in config.to_dict().items():
        if "dropout" not in name or not isinstance(value, float):
            continue
        wanted = attention_dropout if "attention" in name and attention_dropout is not None else dropout
        if wanted is not None:
            setattr(config, name, wanted)
    return AutoModelForMaskedLM.from_config(config).eval()


def wrap(tokenizer: Tokenizer, **options: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", **options)

"""Whether a tokenizer knows the words of the texts: if it knows none, all texts look alike, and nothing is learned."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from transformers import PreTrainedTokenizerBase

from splade_bench.errors import ConfigError

_TEXTS = 200
_CHARACTERS = 1000
_MAX_UNKNOWN_SHARE = 0.5


def require_known_words(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, model_name: str) -> None:
    """Refuse texts of which most tokens are unknown to ``tokenizer``. It looks at the beginnings of the first 200.

    Raises:
        ConfigError: it names the share.
    """
    if tokenizer.unk_token_id is None:
        return  # a vocabulary of bytes
    beginnings = [text[:_CHARACTERS] for text in islice(texts, _TEXTS)]
    sequences = tokenizer(beginnings, add_special_tokens=False, verbose=False)["input_ids"] if beginnings else []
    total = sum(map(len, sequences))
    unknown = sum(sequence.count(tokenizer.unk_token_id) for sequence in sequences)
    if unknown > _MAX_UNKNOWN_SHARE * total:
        raise ConfigError(
            f"--model-name {model_name}: its tokenizer does not know {unknown / total:.0%} of the tokens of the texts, "
            "so they look alike to it; choose a model for the language of your texts"
        )

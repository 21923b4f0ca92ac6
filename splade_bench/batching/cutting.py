"""Token ids of texts cut at a number of tokens, without tokenizing more of a long text than that takes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# Far above the 4 to 6 of most languages, so that nearly every text is tokenized once.
_CHARACTERS_PER_TOKEN = 32
_LEAST_CHARACTERS = 1024
# So much of a text is read, even if it gives too few tokens: a text without spaces, for example. It takes a second.
_MOST_CHARACTERS = 2**20
_LETTERS = re.compile("[A-Za-z]*")


def first_token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int) -> list[list[int]]:
    """The same ids as ``tokenizer(texts, truncation=True, max_length=max_length)``, special tokens included.

    Only the beginning of a long text is tokenized, and a longer one while that gives too few tokens. It ends before a
    space, where words end for every tokenizer. If there is no space, the cut may change the tokens beside it: then the
    ids count only if twice as much text gives the same.

    Of a text whose first 2**20 characters have fewer than ``max_length`` tokens, the rest is not read. A tokenizer that
    cuts texts on the left reads the last 2**20 characters.
    """
    size = max(_LEAST_CHARACTERS, _CHARACTERS_PER_TOKEN * max_length)
    if keeps_end := tokenizer.truncation_side == "left":
        texts = [text[-_MOST_CHARACTERS:] for text in texts]
    is_cut = [len(text) > size and not keeps_end for text in texts]
    beginnings = [text[:0] if cut else text for text, cut in zip(texts, is_cut, strict=True)]
    ids: list[list[int]] = tokenizer(beginnings, truncation=True, max_length=max_length)["input_ids"]
    for row, text in enumerate(texts):
        if is_cut[row]:
            ids[row] = _ids_of_long(tokenizer, text, size, max_length=max_length)
    return ids


def _ids_of_long(tokenizer: PreTrainedTokenizerBase, text: str, size: int, *, max_length: int) -> list[int]:
    text = text[:_MOST_CHARACTERS]
    before: list[int] = []
    while size < len(text):
        end = _last_space_after_a_word(text, size)
        ids: list[int] = tokenizer([text[: end or size]], truncation=True, max_length=max_length)["input_ids"][0]
        if len(ids) == max_length and (end or ids == before):
            return ids
        word_end = _LETTERS.match(text, size // 2).end()  # type: ignore[union-attr]  # it matches no letters too
        if ids == before and word_end > size:
            # A word that is unknown at both lengths. It stays so, and its other letters change nothing.
            text = text[:size] + text[word_end:]
        before, size = ids, 2 * size
    whole: list[int] = tokenizer([text], truncation=True, max_length=max_length)["input_ids"][0]
    return whole


def _last_space_after_a_word(text: str, size: int) -> int:
    """Where the first ``size`` characters can end; 0 if they have no such place."""
    end = size + 1
    while (end := text.rfind(" ", 0, end)) > 0 and text[end - 1].isspace():
        pass  # inside a run of spaces, which some tokenizers take as one token
    return max(0, end)

"""Texts in words that the tokenizer does not know."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from splade_bench.errors import ConfigError
from splade_bench.model.known_words import require_known_words


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "open": 1, "close": 2}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.mark.parametrize("texts", [["open the"], ["open close open"], [], [""], ["open close", "das ist", "open"]])
def test_texts_of_which_half_is_known_are_accepted(words: PreTrainedTokenizerFast, texts: list[str]) -> None:
    require_known_words(words, texts, model_name="m")


@pytest.mark.parametrize(("texts", "share"), [(["was ist das"], "100%"), (["open das", "ist das"], "75%")])
def test_texts_of_which_most_is_unknown_are_refused(
    words: PreTrainedTokenizerFast, texts: list[str], share: str
) -> None:
    with pytest.raises(ConfigError, match=f"--model-name m: its tokenizer does not know {share} of the tokens"):
        require_known_words(words, texts, model_name="m")


def test_a_vocabulary_of_bytes_knows_everything() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))

    require_known_words(PreTrainedTokenizerFast(tokenizer_object=tokenizer), ["x"], model_name="m")


def test_only_the_first_texts_are_read(words: PreTrainedTokenizerFast) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "open" * 10**6

    with pytest.raises(ConfigError):
        require_known_words(words, endless(), model_name="m")

"""A long text has the same token ids as without the cut, and only a small part of it is tokenized."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from splade_bench.batching import cutting
from splade_bench.batching.batches import tokenize
from splade_bench.batching.cutting import first_token_ids
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.model.presets import wrap_tokenizer

RNG = random.Random(0)
LONG_WORD = "".join(RNG.choices("abcdefg", k=2_500))
AWKWARD = {
    "words": " ".join(RNG.choices(["open", "window", "a", "zzzz"], k=20_000)),
    "runs of spaces": "open" + " " * 40_000 + "window " * 3_000,
    "spaces around newlines": "open \n  window\n   a \t " * 4_000,
    "spaces first": " " * 5_000 + "window " * 3_000,
    "newlines only": "open\nwindow\n" * 4_000,
    "long words": " ".join([LONG_WORD] * 5),
    "a long word, then words": LONG_WORD * 2 + " window" * 5_000,
    "one word": LONG_WORD * 2,
    "an unknown word in CJK": LONG_WORD * 2 + "\u7a97" * 5_000,
    "what is removed, then words": "\x00" * 50_000 + "window " * 5_000,
    "word and punctuation": "open-window,a;" * 4_000,
    "no spaces": "\u7a97\u6237\u5f00" * 20_000,
    "no spaces, then words": "\u7a97\u6237\u5f00" * 20 + "window" * 1_000 + " open" * 2_000,
    "accents and emoji": "ope\u0301n \U0001f6b2 w\u0131ndow \u0130 " * 4_000,
    "control characters": "op\x1cen\x00 \x1f window\u00a0a " * 4_000,
    "short": "open the window",
    "empty": "",
}


def byte_level_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer as GPT-2 and RoBERTa have: spaces belong to the words after them, and runs of them are tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<pad>"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


TEXTS = ["open the window", "    a  \n\n  window   zzzz", "\u7a97\u6237\u5f00 window-open"] * 3
TOKENIZERS = {
    "word pieces": wrap_tokenizer(train_tokenizer(TEXTS, vocab_size=200)),
    "bytes": byte_level_tokenizer(TEXTS),
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())
@pytest.mark.parametrize("max_length", [3, 17, 64])
def test_the_ids_are_those_of_the_whole_text(tokenizer: Any, max_length: int) -> None:
    texts = list(AWKWARD.values())
    expected = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]

    found = first_token_ids(tokenizer, texts, max_length=max_length)

    assert dict(zip(AWKWARD, found, strict=True)) == dict(zip(AWKWARD, expected, strict=True))


@pytest.mark.parametrize("between", [60 * " ", 90 * "\n"], ids=["spaces", "newlines"])
def test_a_cut_beside_the_last_token_does_not_change_it(between: str) -> None:
    unit = "open" + between  # two or three tokens, so that 32 tokens end about where the first cut is
    tokenizer = byte_level_tokenizer([unit * 8] * 3)

    for shift in range(0, len(unit), 3):
        text = "a" * shift + unit * 100
        expected = tokenizer([text], truncation=True, max_length=32)["input_ids"]
        assert first_token_ids(tokenizer, [text], max_length=32) == expected


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Characters of each text that the tokenizer gets."""
    tokenizer_class = type(TOKENIZERS["word pieces"])
    lengths: list[int] = []
    call = tokenizer_class.__call__

    def watched(self: Any, texts: list[str], **options: Any) -> Any:
        lengths.extend(map(len, texts))
        return call(self, texts, **options)

    monkeypatch.setattr(tokenizer_class, "__call__", watched)
    return lengths


@pytest.mark.parametrize(
    ("unit", "tokens"),
    [("open the window ", 64), ("\u7a97\u6237\u5f00", 64), ("open-window,", 64), ("acgt", 3)],
    ids=["words", "no spaces", "punctuation", "one unknown word"],
)
def test_a_document_of_20_mb_costs_no_more_than_its_beginning(unit: str, tokens: int, given: list[int]) -> None:
    text = unit * (20_000_000 // len(unit.encode()))

    batch = tokenize(TOKENIZERS["word pieces"], [text, "open"], max_length=64)

    assert batch.lengths[0] == tokens
    assert sum(given) < 20_000


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("beginning", "unit", "tokens"),
    [("", "0a1f", 3), ("", "0123456789", 3), ("", "\u0301", 2), ("open", " ", 3)],
    ids=["hex digits", "digits", "combining marks", "a word, then spaces"],
)
def test_of_a_document_with_few_tokens_no_more_than_a_mebibyte_is_read(
    beginning: str, unit: str, tokens: int, side: str, given: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cutting._MOST_CHARACTERS <= 2**20
    monkeypatch.setattr(cutting, "_MOST_CHARACTERS", 2**16)
    tokenizer = wrap_tokenizer(train_tokenizer(TEXTS, vocab_size=200))
    tokenizer.truncation_side = side
    repeated = unit * (20_000_000 // len(unit.encode()))
    text = beginning + repeated if side == "right" else repeated + beginning

    batch = tokenize(tokenizer, [text, "open"], max_length=64)

    assert batch.lengths[0] == tokens
    assert sum(given) <= 2 * 2**16 + len("open")


def test_a_text_that_is_cut_on_the_left_keeps_its_end() -> None:
    tokenizer = wrap_tokenizer(train_tokenizer(TEXTS, vocab_size=200))
    tokenizer.truncation_side = "left"
    text = "window " * 5_000 + "open"

    expected = tokenizer([text], truncation=True, max_length=8)["input_ids"]

    assert first_token_ids(tokenizer, [text], max_length=8) == expected

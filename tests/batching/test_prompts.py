"""Prompts are before each text of a batch, and are saved with the model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from equality import make_config

from splade_bench.batching.prompts import Prompts
from splade_bench.data.records import Triple
from splade_bench.errors import ConfigError
from splade_bench.evaluation.encoding import encode_windows
from splade_bench.model import SpladeEncoder
from splade_bench.model.saved_settings import save_settings, saved_prompts
from splade_bench.training import Trainer

GIVEN = {"query_prompt": "who opens ", "document_prompt": "this function "}


def first_texts(encoder: SpladeEncoder, triples: Sequence[Triple], **changes: object) -> list[list[int]]:
    """Token ids of the first query, positive and negative of a training."""
    batch = next(Trainer(encoder, triples, make_config(**changes)).source.batches(0))
    return [texts.input_ids[0, : texts.lengths[0]].tolist() for texts in batch.groups]


def test_each_query_and_each_document_has_its_prompt(encoder: SpladeEncoder, triples: Sequence[Triple]) -> None:
    plain = first_texts(encoder, triples)
    query_prompt, document_prompt = (
        encoder.tokenizer(GIVEN[name], add_special_tokens=False)["input_ids"] for name in GIVEN
    )

    with_prompts = first_texts(encoder, triples, **GIVEN)

    for ids, before, prompt in zip(with_prompts, plain, (query_prompt, document_prompt, document_prompt), strict=True):
        expected = [before[0], *prompt, *before[1:]]
        assert ids == (expected if len(expected) <= 16 else [*expected[:15], expected[-1]])


def test_prompts_stay_with_the_model_until_others_are_given(
    encoder: SpladeEncoder, triples: Sequence[Triple], tmp_path: Path
) -> None:
    Trainer(encoder, triples, make_config(**GIVEN))
    encoder.save_pretrained(tmp_path / "model")

    again = SpladeEncoder.from_pretrained(str(tmp_path / "model"))

    assert again.prompts == Prompts("who opens ", "this function ")
    Trainer(again, triples, make_config(query_prompt=""))
    assert again.prompts == Prompts("", "this function ")


def test_a_model_without_prompts_has_no_file_of_them(tmp_path: Path) -> None:
    save_settings(tmp_path, Prompts(), "dot")

    assert [*tmp_path.iterdir()] == []
    assert saved_prompts(str(tmp_path)) == Prompts()


@pytest.mark.parametrize("content", ["{", "[]", '{"prompts": {"query": 3}}', '{"prompts": [1]}'])
def test_a_file_of_prompts_that_cannot_be_used_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text(content)

    with pytest.raises(ConfigError, match=r"config_sentence_transformers\.json: cannot be used"):
        saved_prompts(str(tmp_path))


def test_an_evaluation_puts_the_prompts_before_its_texts(encoder: SpladeEncoder) -> None:
    text = "opens the parser"
    encoder.prompts = Prompts("who ", "this function ")
    expected = {
        "queries": encoder.tokenize([f"who {text}"], max_length=16),
        "documents": encoder.tokenize([f"this function {text}"], max_length=16),
    }

    for kind, batch in expected.items():
        (window,) = encode_windows(encoder, [("id", text)], kind, max_length=16)  # type: ignore[arg-type]
        with torch.no_grad():
            torch.testing.assert_close(window.reps.dense(0, 1), encoder(batch))


@pytest.mark.parametrize(("kind", "flag"), [("queries", "query_prompt"), ("documents", "document_prompt")])
def test_a_prompt_that_leaves_no_room_for_a_text_is_refused(
    kind: str, flag: str, encoder: SpladeEncoder, triples: Sequence[Triple]
) -> None:
    room = 16 - encoder.tokenizer.num_special_tokens_to_add()
    for words, complaint in ((room - 1, nullcontext()), (room, pytest.raises(ConfigError, match="--max-length 16: "))):
        prompt = "opens " * words
        with complaint:
            first_texts(encoder, triples, **{flag: prompt})
        encoder.prompts = Prompts(**{flag.removesuffix("_prompt"): prompt})
        with complaint:
            list(encode_windows(encoder, [("id", "a")], kind, max_length=16))  # type: ignore[arg-type]


def test_an_evaluation_uses_the_static_weights_of_queries(encoder: SpladeEncoder) -> None:
    encoder.use_static_queries()
    (queries,) = encode_windows(encoder, [("id", "opens the parser")], "queries", max_length=16)
    (documents,) = encode_windows(encoder, [("id", "opens the parser")], "documents", max_length=16)

    words = encoder.tokenizer("opens the parser", add_special_tokens=False)["input_ids"]
    assert sorted(queries.reps.entries.tolist()) == sorted({*words})
    assert len(documents.reps.entries) > len(words)

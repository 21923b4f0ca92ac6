"""How vectors start: with the wanted number of active dims, from words without a trained head, and saved as ever."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, make_model, wrap
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel

from splade_bench.data.records import Triple
from splade_bench.errors import ConfigError
from splade_bench.model import SpladeEncoder
from splade_bench.model.start import apply_start
from splade_bench.starts import StartName

MAX_LENGTH = 16
TRAINED = ["bert", "roberta", "modernbert", "distilbert", "electra", "mpnet", "deberta-v2"]
BODIES = ["bert", "roberta", "modernbert", "distilbert", "mpnet"]


@pytest.fixture
def documents(triples: Sequence[Triple]) -> list[str]:
    return [triple.positive for triple in triples]


def make_encoder(architecture: str, tokenizer: Tokenizer, **sizes: Any) -> SpladeEncoder:
    wrapped = wrap(tokenizer)
    return SpladeEncoder(make_model(architecture, vocab_size=len(wrapped), **sizes), wrapped)


def vectors(encoder: SpladeEncoder, texts: Sequence[str]) -> torch.Tensor:
    with encoder.evaluating(), torch.no_grad():
        return encoder(encoder.tokenize(texts, max_length=MAX_LENGTH))


def pooled_logits(model: PreTrainedModel, encoder: SpladeEncoder, texts: Sequence[str]) -> torch.Tensor:
    """The definition, from the model's own logits."""
    batch = encoder.tokenize(texts, max_length=MAX_LENGTH)
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return (torch.log1p(torch.relu(logits)) * batch.attention_mask.unsqueeze(-1)).amax(1)


def save_body(architecture: str, tokenizer: Tokenizer, folder: Path) -> None:
    """An encoder without a masked-language-model head, whose hidden states are mainly those of the words."""
    wrapped = wrap(tokenizer)
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture] | {"vocab_size": len(wrapped)})
    body = AutoModel.from_config(config)
    with torch.no_grad():
        body.get_input_embeddings().weight.mul_(10)
    body.save_pretrained(folder)
    wrapped.save_pretrained(folder)


@pytest.mark.parametrize("start", ["calibrated", "lexical"])
@pytest.mark.parametrize("architecture", TRAINED)
def test_documents_begin_with_the_wanted_number_of_active_dims_and_a_saved_model_has_the_same_vectors(
    architecture: str, start: StartName, tokenizer: Tokenizer, documents: Sequence[str], tmp_path: Path
) -> None:
    encoder = make_encoder(architecture, tokenizer)

    apply_start(encoder, start, documents, max_length=MAX_LENGTH, active_dims=12)

    made = vectors(encoder, documents)
    assert made.count_nonzero().item() / len(documents) == pytest.approx(12, rel=0.02)
    encoder.save_pretrained(tmp_path)
    model, loading = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    torch.testing.assert_close(pooled_logits(model.eval(), encoder, documents), made, rtol=1e-4, atol=1e-5)
    assert torch.equal(vectors(SpladeEncoder.from_pretrained(str(tmp_path)), documents), made)


@pytest.mark.parametrize("architecture", BODIES)
def test_a_body_without_a_head_starts_from_the_words_of_a_text(
    architecture: str, tokenizer: Tokenizer, documents: Sequence[str], tmp_path: Path
) -> None:
    save_body(architecture, tokenizer, tmp_path)
    with pytest.raises(ConfigError, match=r"has no masked-language-model head .*--start lexical makes one"):
        SpladeEncoder.from_pretrained(str(tmp_path))
    encoder = SpladeEncoder.from_pretrained(str(tmp_path), needs_head=False)

    apply_start(encoder, "lexical", documents, max_length=MAX_LENGTH, active_dims=12)

    own = [{*ids} for ids in encoder.tokenizer(documents)["input_ids"]]
    for vector, words in zip(vectors(encoder, documents), own, strict=True):
        # What all texts have tells nothing of one of them, so the start takes it out.
        rare = {word for word in words if sum(word in others for others in own) < len(own) / 2}
        assert len(rare) >= 2
        assert rare <= {*vector.topk(12).indices.tolist()}
        assert vector[[*rare]].min() > 0


def test_a_lexical_start_does_not_depend_on_random_numbers(
    tokenizer: Tokenizer, documents: Sequence[str], tmp_path: Path
) -> None:
    save_body("bert", tokenizer, tmp_path)
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = SpladeEncoder.from_pretrained(str(tmp_path), needs_head=False)
        apply_start(encoder, "lexical", documents, max_length=MAX_LENGTH, active_dims=12)
        made.append(encoder.state_dict())

    assert all(torch.equal(weight, made[1][name]) for name, weight in made[0].items())


def test_a_body_whose_weights_are_incomplete_is_refused_all_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_body("bert", tokenizer, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    config.num_hidden_layers = 3
    config.save_pretrained(tmp_path)

    with pytest.raises(ConfigError, match=r"its weights are incomplete: none for bert\.encoder\.layer\.2"):
        SpladeEncoder.from_pretrained(str(tmp_path), needs_head=False)


@pytest.mark.parametrize("start", ["calibrated", "lexical"])
def test_a_decoder_without_a_bias_gets_one_that_is_saved(
    start: StartName, tokenizer: Tokenizer, documents: Sequence[str], tmp_path: Path
) -> None:
    encoder = make_encoder("modernbert", tokenizer, decoder_bias=False)
    assert encoder.decoder.bias is None

    apply_start(encoder, start, documents, max_length=MAX_LENGTH, active_dims=12)

    encoder.save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(
        pooled_logits(model, encoder, documents), vectors(encoder, documents), rtol=1e-4, atol=1e-5
    )


def test_as_is_changes_nothing(encoder: SpladeEncoder, documents: Sequence[str]) -> None:
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}

    apply_start(encoder, "as-is", documents, max_length=MAX_LENGTH)

    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


def refusal(encoder: SpladeEncoder, start: StartName, documents: Sequence[str], active_dims: int = 12) -> str:
    with pytest.raises(ConfigError) as caught:
        apply_start(encoder, start, documents, max_length=MAX_LENGTH, active_dims=active_dims)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_start_so_is_refused_by_name(tokenizer: Tokenizer, documents: Sequence[str]) -> None:
    encoder = make_encoder("bert", tokenizer)
    entries = encoder.vocab_size
    assert f"--start-active-dims {entries}: must be below the {entries} entries" in refusal(
        encoder, "calibrated", documents, entries
    )

    encoder.decoder.bias = None
    assert "--start calibrated: a bert model has a layer without a bias" in refusal(encoder, "calibrated", documents)

    albert = make_encoder("albert", tokenizer)
    assert "the head of AlbertForMaskedLM is not a square linear layer" in refusal(albert, "lexical", documents)

    tanh = make_encoder("bert", tokenizer, hidden_act="tanh")
    assert "the head of BertForMaskedLM cannot pass hidden states on" in refusal(tanh, "lexical", documents)

"""The encoder on every architecture: the vectors of its own model, what it loads and refuses, what it leaves alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from architectures import ARCHITECTURES, SIZES, make_model, wrap
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertModel, PreTrainedModel

from splade_bench.batching.batches import TextBatch, pad
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MEMORY_MODES, MemoryConfig
from splade_bench.model import SpladeEncoder, splade_max_eager
from splade_bench.model.presets import build_preset


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_the_pooled_logits_of_its_own_model(
    architecture: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    vocab_size = len(wrap(tokenizer))
    model = make_model(architecture, vocab_size=vocab_size)
    texts = SpladeEncoder(make_model(architecture, vocab_size=vocab_size), wrap(tokenizer)).tokenize(
        ["who opens the parser", "who"], max_length=12
    )
    with torch.no_grad():
        logits = model(input_ids=texts.input_ids, attention_mask=texts.attention_mask).logits
        activated = torch.log1p(torch.relu(logits)) * texts.attention_mask.unsqueeze(-1)
        expected = activated.max(dim=1).values

        encoder = SpladeEncoder(model, wrap(tokenizer))
        for head in ("eager", "streaming"):
            encoder.configure(MemoryConfig(head=head))  # type: ignore[arg-type]
            torch.testing.assert_close(encoder(texts), expected, rtol=1e-5, atol=1e-6)

    encoder.save_pretrained(tmp_path)
    reloaded = SpladeEncoder.from_pretrained(str(tmp_path)).eval()
    with torch.no_grad():
        assert torch.equal(reloaded(texts), encoder(texts))


@pytest.mark.parametrize("padding", ["right", "left", "scattered"])
@pytest.mark.parametrize("head", ["eager", "streaming"])
def test_a_batch_may_be_padded_anywhere(encoder: SpladeEncoder, padding: str, head: Any) -> None:
    """Against BERT itself, told by its mask alone where the tokens are."""
    mask = {
        "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
        "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]],
        "scattered": [[0, 1, 0, 1, 1], [1, 0, 1, 0, 1]],
    }[padding]
    texts = TextBatch(torch.randint(5, 100, (2, 5)), torch.tensor(mask), (5, 5))
    encoder.configure(MemoryConfig(head=head))

    with torch.no_grad():
        hidden = encoder.body(texts.input_ids, texts.attention_mask).logits
        for row in range(2):
            tokens = hidden[row][texts.attention_mask[row].bool()]
            logits = F.linear(tokens, encoder.decoder.weight, encoder.decoder.bias)
            expected = torch.log1p(torch.relu(logits)).max(0).values
            torch.testing.assert_close(encoder(texts)[row], expected)


@pytest.mark.parametrize("memory", [MemoryConfig(), MEMORY_MODES["standard"]], ids=["memory-efficient", "standard"])
def test_a_text_without_tokens_is_a_zero_vector_and_leaves_gradients_finite(
    encoder: SpladeEncoder, memory: MemoryConfig
) -> None:
    encoder.configure(memory)
    texts = pad([[], [7, 8, 9]], pad_token_id=0)

    reps = encoder(texts)
    reps.sum().backward()

    assert torch.count_nonzero(reps[0]) == 0
    assert torch.count_nonzero(reps[1]) > 0
    gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
    assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert torch.count_nonzero(encoder(pad([[], []], pad_token_id=0))) == 0


def test_modes_are_switched_back_and_forth_without_a_trace(encoder: SpladeEncoder) -> None:
    """Each way of computing gives, after all others, what it gave at first: the same graph and the same bits."""
    texts = encoder.tokenize(["who opens the parser", "who"], max_length=12)
    modes = [*MEMORY_MODES.values(), MemoryConfig(activation_checkpointing=True), MemoryConfig(head="eager")]
    encoder.train()

    def graph_and_vectors(memory: MemoryConfig) -> tuple[list[str], torch.Tensor, list[bool]]:
        encoder.configure(memory)
        reps = encoder(texts)
        checkpointed = [getattr(module, "gradient_checkpointing", False) for module in encoder.modules()]
        return node_names(reps), reps.detach(), checkpointed

    first = [graph_and_vectors(memory) for memory in modes]
    for memory, (names, reps, checkpointed) in list(zip(modes, first, strict=True))[::-1] * 2:
        again = graph_and_vectors(memory)
        assert again[0] == names
        assert torch.equal(again[1], reps)
        assert again[2] == checkpointed
        assert any(checkpointed) == memory.activation_checkpointing
    assert node_names(encoder.decoder(torch.ones(1, 32)))[0] == "AddmmBackward0"  # outside forward all is torch's own


def node_names(tensor: torch.Tensor) -> list[str]:
    """Of every operation that autograd has recorded for ``tensor``, from the last to the first."""
    names, waiting, seen = [], [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop(0)
        if node is not None and node not in seen:
            seen.add(node)
            names.append(node.name())
            waiting.extend(parent for parent, _ in node.next_functions)
    return names


def test_a_copy_of_a_checkpointed_encoder_computes_as_it_was_configured(encoder: SpladeEncoder) -> None:
    """A layer that is computed again must take the copy's paths, whatever becomes of the first encoder."""
    texts = encoder.tokenize(["who opens the parser"], max_length=12)
    encoder.train().configure(MemoryConfig(activation_checkpointing=True))
    twin = copy.deepcopy(encoder)
    encoder.configure(MEMORY_MODES["standard"])

    encoder(texts).square().sum().backward()
    twin(texts).square().sum().backward()

    for name, parameter in encoder.named_parameters():
        gradient = twin.get_parameter(name).grad
        assert (gradient is None) == (parameter.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(gradient, parameter.grad)


def test_a_half_precision_checkpoint_is_trained_in_single_precision(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.half().save_pretrained(tmp_path)

    assert SpladeEncoder.from_pretrained(str(tmp_path)).decoder.weight.dtype == torch.float32


def test_a_truncated_checkpoint_is_refused_in_one_line(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])

    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        SpladeEncoder.from_pretrained(str(tmp_path))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "limit"), [("bert", 40), ("roberta", 38), ("mpnet", 38), ("modernbert", None)]
)
def test_the_limit_of_positions_is_that_of_the_architecture(
    architecture: str, limit: int | None, tokenizer: Tokenizer
) -> None:
    assert SpladeEncoder(make_model(architecture), wrap(tokenizer)).position_limit == limit


@pytest.mark.parametrize(
    ("architecture", "saved", "limit"),
    [
        ("bert", 12, 12),
        ("bert", 512, 40),
        ("bert", int(1e30), 40),
        ("modernbert", 1024, 1024),
        ("modernbert", int(1e30), 512),
    ],
)
def test_texts_are_cut_at_the_saved_length_where_the_model_has_the_positions(
    architecture: str, saved: int, limit: int, tokenizer: Tokenizer
) -> None:
    encoder = SpladeEncoder(make_model(architecture), wrap(tokenizer))
    encoder.tokenizer.model_max_length = saved

    assert encoder.max_length == limit


def test_outside_a_trainer_gradients_are_autograds(encoder: SpladeEncoder) -> None:
    texts = encoder.tokenize(["who opens the parser"], max_length=12)
    weights = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    loss = encoder.train()(texts).square().sum()

    first = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    assert all(weight.grad is None for weight in weights)
    loss.backward()

    for weight, gradient in zip(weights, first, strict=True):
        assert (weight.grad is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(weight.grad, gradient)
    assert sum(gradient is not None for gradient in first) > 10


def test_an_evaluation_makes_no_logits_in_any_mode(encoder: SpladeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = encoder.tokenize(["who opens the parser", "a socket"], max_length=12)
    encoder.eval().configure(MEMORY_MODES["standard"])
    plain = encoder(texts)
    assert "Log1PBackward0" in node_names(plain)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("logits")

    monkeypatch.setattr("splade_bench.model.encoder.splade_max_eager", refuse)
    with torch.no_grad():
        torch.testing.assert_close(encoder(texts), plain.detach())
        with pytest.raises(AssertionError, match="logits"):
            encoder.train()(texts)


def test_the_saved_folder_is_an_ordinary_masked_language_model(encoder: SpladeEncoder, tmp_path: Path) -> None:
    texts = encoder.tokenize(["who opens the parser"], max_length=16)
    encoder.save_pretrained(tmp_path)

    model, loading = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert tokenizer("who opens the parser")["input_ids"] == texts.input_ids[0].tolist()
    with torch.no_grad():
        hidden = encoder.body(texts.input_ids, texts.attention_mask).logits
        expected = splade_max_eager(hidden, encoder.decoder.weight, encoder.decoder.bias, texts.attention_mask)
        logits = model.eval()(texts.input_ids, texts.attention_mask).logits
        pooled = (torch.log1p(torch.relu(logits)) * texts.attention_mask.unsqueeze(-1)).max(1).values
    torch.testing.assert_close(pooled, expected)


def test_saving_leaves_the_encoder_as_it_was(encoder: SpladeEncoder, tmp_path: Path) -> None:
    texts = encoder.tokenize(["who opens the parser"], max_length=16)
    before = encoder(texts)

    encoder.save_pretrained(tmp_path)

    assert torch.equal(encoder(texts), before)


# ModernBERT's is on the output of attention too, where it stays.
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "modernbert"])
def test_attention_dropout_is_left_out_of_an_architecture(architecture: str, tokenizer: Tokenizer) -> None:
    """Also of those that multiply attention themselves."""
    model = make_model(architecture, dropout=0.0, attention_dropout=0.5)
    encoder = SpladeEncoder(model, wrap(tokenizer)).train()
    texts = encoder.tokenize(["who opens the parser", "who"], max_length=12)
    texts.input_ids.clamp_(max=119)

    encoder.configure(MemoryConfig())
    dropped = encoder(texts)
    encoder.configure(MemoryConfig(attention_dropout=False))
    without = encoder(texts)

    assert not torch.equal(dropped, encoder.eval()(texts))
    torch.testing.assert_close(without, encoder(texts))


def test_the_tied_weight_is_one_parameter(encoder: SpladeEncoder) -> None:
    assert encoder.body.get_input_embeddings().weight is encoder.decoder.weight
    assert sum(parameter is encoder.decoder.weight for parameter in encoder.parameters()) == 1


def test_a_model_without_a_masked_language_model_head_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
    wrap(tokenizer).save_pretrained(tmp_path)

    with pytest.raises(ConfigError, match="has no masked-language-model head"):
        SpladeEncoder.from_pretrained(str(tmp_path))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    wrapped = wrap(tokenizer)
    wrapped.save_pretrained(tmp_path)
    make_model("bert", vocab_size=len(wrapped)).save_pretrained(tmp_path)
    SpladeEncoder.from_pretrained(str(tmp_path))

    make_model("bert", vocab_size=len(wrapped) - 1).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=f"tokenizer has {len(wrapped)} tokens, but the model has embeddings for {len(wrapped) - 1}"
    ):
        SpladeEncoder.from_pretrained(str(tmp_path))


def test_another_kind_of_model_is_refused_in_one_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = transformers.GPT2Config(vocab_size=120, n_embd=32, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    wrap(tokenizer).save_pretrained(tmp_path)

    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        SpladeEncoder.from_pretrained(str(tmp_path))

    assert "\n" not in str(caught.value)


def test_a_name_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--model-name"):
        SpladeEncoder.from_pretrained(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["tiny", "bert-tiny"])
def test_a_preset_starts_from_its_words_and_depends_on_its_seed(name: str, tokenizer: Tokenizer) -> None:
    first, same, other = (build_preset(name, tokenizer, seed=seed).eval() for seed in (1, 1, 2))
    texts = first.tokenize(["parser"], max_length=8)
    own = texts.input_ids[0].tolist()  # the word between [CLS] and [SEP]

    with torch.no_grad():
        reps = first(texts)
        assert torch.equal(reps, same(texts))
        assert not torch.equal(reps, other(texts))
    assert int(reps[0].argmax()) in own
    assert reps[0, own].min() > 0


def test_building_a_preset_leaves_the_random_state_alone(tokenizer: Tokenizer) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    build_preset("toy", tokenizer, seed=1)

    assert torch.equal(torch.rand(3), expected)


def test_rare_words_start_with_more_weight(tokenizer: Tokenizer) -> None:
    idf = [1.0] * 8192
    rare, common = (tokenizer.token_to_id(word) for word in ("parser", "the"))
    idf[rare], idf[common] = 3.0, 0.2
    idf[-1] = 9.0
    encoder = build_preset("tiny", tokenizer, seed=0, inverse_document_frequencies=idf).eval()

    with torch.no_grad():
        reps = encoder(encoder.tokenize(["the parser"], max_length=8))[0]

    assert reps[rare] > 2 * reps[common]


def test_checkpointing_under_the_names_of_older_transformers(
    encoder: SpladeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 5.20 there is ``gradient_checkpointing_enable`` and no ``activation_checkpointing_enable``."""
    for name in ("activation_checkpointing_enable", "activation_checkpointing_disable", "is_activation_checkpointing"):
        if hasattr(PreTrainedModel, name):
            monkeypatch.setattr(PreTrainedModel, name.replace("activation", "gradient"), getattr(PreTrainedModel, name))
            monkeypatch.delattr(PreTrainedModel, name)

    for enabled in (True, False):
        encoder.configure(MemoryConfig(activation_checkpointing=enabled))
        assert encoder.body.is_gradient_checkpointing == enabled

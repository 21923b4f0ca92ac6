"""What is refused when a model is loaded: each in one line that says what is there and what to do."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import SIZES, make_model, wrap
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from splade_bench.errors import ConfigError, NotFiniteError
from splade_bench.model import SpladeEncoder
from splade_bench.model.loading import load_config
from splade_bench.model.presets import build_preset
from splade_bench.model.weights import first_weight_not_finite, require_finite_weights

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 438064459\n"


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A sound BERT."""
    path = tmp_path / "bert"
    wrap(tokenizer).save_pretrained(path)
    make_model("bert", vocab_size=len(wrap(tokenizer))).save_pretrained(path)
    return path


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refusal(name: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        SpladeEncoder.from_pretrained(str(name))
    text = str(caught.value)
    assert text.startswith(f"--model-name {name}: ")
    assert "\n" not in text
    return text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["bert.encoder.layer.1.output.dense.bias"][3] = value
        return weights

    change_weights(folder, spoil)

    assert "its weight bert.encoder.layer.1.output.dense.bias is not finite" in refusal(folder)


def test_weights_that_are_not_finite_are_not_saved(encoder: SpladeEncoder) -> None:
    require_finite_weights(encoder)
    assert first_weight_not_finite(encoder) is None

    with torch.no_grad():
        encoder.decoder.bias[0] = float("nan")

    with pytest.raises(NotFiniteError, match=r"decoder\.bias is not finite"):
        require_finite_weights(encoder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()

    assert "no tokenizer files in the folder" in refusal(folder)


def test_a_tokenizer_without_its_vocabulary_is_refused(folder: Path) -> None:
    """transformers 5 makes one of the special tokens alone, under which every word is unknown."""
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))

    assert "its tokenizer has 5 tokens, but the model has embeddings for" in refusal(folder)


def test_a_tokenizer_that_is_far_too_small_is_refused(folder: Path, tokenizer: Tokenizer) -> None:
    size = len(wrap(tokenizer))
    make_model("bert", vocab_size=2 * size).save_pretrained(folder)
    SpladeEncoder.from_pretrained(str(folder))  # embeddings may be padded

    make_model("bert", vocab_size=2 * size + 1).save_pretrained(folder)

    assert f"its tokenizer has {size} tokens, but the model has embeddings for {2 * size + 1}" in refusal(folder)


def test_a_preset_that_was_trained_on_few_words_loads_again(folder: Path, tokenizer: Tokenizer) -> None:
    encoder = build_preset("toy", tokenizer, seed=0)
    assert len(encoder.tokenizer) < encoder.vocab_size / 2

    encoder.save_pretrained(folder / "toy")

    assert SpladeEncoder.from_pretrained(str(folder / "toy")).vocab_size == encoder.vocab_size


def test_a_pickle_is_refused_with_the_command_that_converts_it(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    text = refusal(folder)

    assert "its weights are a pickle (pytorch_model.bin)" in text
    assert "use_safetensors=False).save_pretrained('FOLDER')" in text
    with pytest.raises(ConfigError, match="its weights are a pickle"):
        load_config(str(folder))  # so that no plan is made for what cannot be trained


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_called_one(folder: Path, name: str) -> None:
    (folder / name).write_text(LFS_POINTER)

    assert f"{name} is a Git LFS pointer, not the file itself; run git lfs pull" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_this_user_may_not_read_is_named(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def denied(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", denied)  # root may read everything

    assert f"cannot be read: {folder / name}: Permission denied" in refusal(folder)


def test_weights_of_other_shapes_are_called_so(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 8}))

    assert "its weights have other shapes than its config.json says" in refusal(folder)


def test_a_weight_that_is_missing_in_the_body_is_not_called_a_missing_head(folder: Path) -> None:
    lost = "bert.encoder.layer.0.output.LayerNorm.weight"
    change_weights(folder, lambda weights: {name: weight for name, weight in weights.items() if name != lost})

    text = refusal(folder)

    assert f"its weights are incomplete: none for {lost}" in text
    assert "head" not in text


def test_the_prefix_of_a_wrapped_model_is_shown(folder: Path) -> None:
    change_weights(folder, lambda weights: {f"module.{name}": weight for name, weight in weights.items()})

    assert "the file has module.bert." in refusal(folder)


@pytest.mark.parametrize("name", ["./nosuch", "/nosuch", "../nosuch/model", "a/b/c"])
def test_a_path_without_a_folder_is_not_taken_for_a_hub_id(name: str) -> None:
    assert "there is no such folder; check the path" in refusal(name)


def test_a_missing_folder_beside_others_is_not_taken_for_a_hub_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)

    assert "there is no such folder" in refusal("bert/final_model")


def test_an_architecture_whose_decoder_cannot_be_taken_out_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """MobileBERT multiplies with its decoder's weight, and never calls the decoder."""
    size = len(wrap(tokenizer))
    config = transformers.MobileBertConfig(
        **SIZES | {"vocab_size": size, "embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 1}
    )
    transformers.MobileBertForMaskedLM(config).save_pretrained(tmp_path)
    wrap(tokenizer).save_pretrained(tmp_path)

    assert "MobileBertForMaskedLM cannot be used here, because its output embeddings" in refusal(tmp_path)


def test_the_positions_of_roformer_are_known(tokenizer: Tokenizer) -> None:
    config = transformers.RoFormerConfig(**SIZES | {"max_position_embeddings": 24})
    encoder = SpladeEncoder(transformers.RoFormerForMaskedLM(config), wrap(tokenizer))

    assert encoder.position_limit == 24
    with pytest.raises(ConfigError, match="takes at most 24 tokens"):
        encoder.require_positions(25)

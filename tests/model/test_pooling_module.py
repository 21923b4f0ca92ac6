"""The folder of a SparseEncoder: its model is loaded if its pooling is one that the head computes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from splade_bench.errors import ConfigError
from splade_bench.model import SpladeEncoder
from splade_bench.model.loading import load_config

MODULES = "sentence_transformers.sparse_encoder.modules"
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": f"{MODULES}.mlm_transformer.MLMTransformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": f"{MODULES}.splade_pooling.SpladePooling"}
MAX = {"pooling_strategy": "max", "activation_function": "relu", "embedding_dimension": None}


def write(folder: Path, modules: Any, pooling: Any = MAX) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "modules.json").write_text(modules if isinstance(modules, str) else json.dumps(modules))
    (folder / "1_SpladePooling").mkdir()
    (folder / "1_SpladePooling/config.json").write_text(json.dumps(pooling))
    return folder


def refusal(folder: Path) -> str:
    """Of the weights and of a plan, which reads the config alone."""
    with pytest.raises(ConfigError) as loaded:
        SpladeEncoder.from_pretrained(str(folder))
    with pytest.raises(ConfigError) as planned:
        load_config(str(folder))
    assert str(planned.value) == str(loaded.value)
    assert str(loaded.value).startswith(f"--model-name {folder}: ")
    assert "\n" not in str(loaded.value)
    return str(loaded.value)


@pytest.mark.parametrize("path", ["", "0_MLMTransformer"])
def test_a_model_with_the_heads_own_pooling_is_loaded(encoder: SpladeEncoder, path: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "sparse", [TRANSFORMER | {"path": path}, POOLING])
    encoder.save_pretrained(folder / path)

    loaded = SpladeEncoder.from_pretrained(str(folder))

    assert loaded.decoder.weight.equal(encoder.decoder.weight)
    assert len(loaded.tokenizer) == len(encoder.tokenizer)


@pytest.mark.parametrize("path", ["", "0_MLMTransformer"])
@pytest.mark.parametrize(
    ("content", "length"), [({"max_seq_length": 24}, 24), ({"max_seq_length": None}, 32), ([], 32)]
)
def test_a_text_is_cut_where_the_sparse_encoder_cuts_it(
    encoder: SpladeEncoder, path: str, content: object, length: int, tmp_path: Path
) -> None:
    folder = write(tmp_path / "sparse", [TRANSFORMER | {"path": path}, POOLING])
    encoder.tokenizer.model_max_length = 32
    encoder.save_pretrained(folder / path)
    (folder / path / "sentence_bert_config.json").write_text(json.dumps(content))

    assert SpladeEncoder.from_pretrained(str(folder)).max_length == length


@pytest.mark.parametrize(("named", "activation"), [("relu", "log1p"), ("log1p_relu", "double-log1p")])
def test_the_activation_is_that_of_the_pooling(
    encoder: SpladeEncoder, named: str, activation: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "sparse", [TRANSFORMER, POOLING], MAX | {"activation_function": named})
    encoder.save_pretrained(folder)

    loaded = SpladeEncoder.from_pretrained(str(folder))
    loaded.save_pretrained(tmp_path / "again")

    assert loaded.activation == activation
    assert SpladeEncoder.from_pretrained(str(tmp_path / "again")).activation == activation


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"pooling_strategy": "sum"}, "1_SpladePooling/config.json: its pooling_strategy is sum and its"),
        ({"activation_function": "gelu"}, "its activation_function gelu, but only max with relu or log1p_relu"),
    ],
)
def test_another_pooling_is_refused_by_its_file(
    encoder: SpladeEncoder, changes: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    encoder.save_pretrained(write(tmp_path / "sparse", [TRANSFORMER, POOLING], MAX | changes))

    assert complaint in refusal(tmp_path / "sparse")


def modules_of(*kinds: str) -> Sequence[dict[str, str]]:
    return [{"path": f"{number}_{kind}" if number else "", "type": f"x.{kind}"} for number, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("modules", "complaint"),
    [
        (modules_of("Transformer", "SpladePooling", "Normalize"), "Transformer, SpladePooling, Normalize, but"),
        (modules_of("SparseStaticEmbedding", "SpladePooling"), "modules are SparseStaticEmbedding, SpladePooling"),
        (modules_of("Router"), "name the folder of one, such as"),
        ({"0": "Transformer"}, "modules.json: is not a list of modules"),
        ("[", "modules.json: is not JSON"),
    ],
)
def test_modules_that_the_head_does_not_stand_for_are_refused(
    encoder: SpladeEncoder, modules: Any, complaint: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "sparse", modules)
    encoder.save_pretrained(folder)
    encoder.save_pretrained(folder / "document_0_MLMTransformer")

    text = refusal(folder)

    assert complaint in text
    assert ("document_0_MLMTransformer" in text) == ("Router" in text)


def test_a_dense_sentence_encoder_is_a_start_like_any_other(encoder: SpladeEncoder, tmp_path: Path) -> None:
    folder = write(tmp_path / "dense", modules_of("Transformer", "Pooling", "Normalize"))
    encoder.save_pretrained(folder)

    assert SpladeEncoder.from_pretrained(str(folder)).vocab_size == encoder.vocab_size


def test_a_model_outside_the_folder_is_refused(encoder: SpladeEncoder, tmp_path: Path) -> None:
    folder = write(tmp_path / "sparse", [TRANSFORMER | {"path": "../other"}, POOLING])
    encoder.save_pretrained(tmp_path / "other")

    assert "is outside the folder" in refusal(folder)


def test_the_pooling_of_a_model_of_the_hub_is_read_too(
    encoder: SpladeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are in the cache, as a download leaves them."""
    commit = "0" * 40
    repository = tmp_path / "models--somebody--sparse"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    encoder.save_pretrained(write(snapshot, [TRANSFORMER, POOLING]))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    assert SpladeEncoder.from_pretrained("somebody/sparse").vocab_size == encoder.vocab_size

    (snapshot / "1_SpladePooling/config.json").write_text(json.dumps(MAX | {"pooling_strategy": "sum"}))
    with pytest.raises(
        ConfigError, match=r"somebody/sparse: 1_SpladePooling/config\.json: its pooling_strategy is sum"
    ):
        SpladeEncoder.from_pretrained("somebody/sparse")

    (snapshot / "modules.json").unlink()  # as most models, which have none
    assert SpladeEncoder.from_pretrained("somebody/sparse").vocab_size == encoder.vocab_size

"""The files that make a model folder a SparseEncoder: what they say, and that transformers does not mind them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

from splade_bench.batching.prompts import Prompts
from splade_bench.model import SpladeEncoder
from splade_bench.model.sparse_encoder_files import write_sparse_encoder_files


def read(folder: Path, name: str) -> object:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_they_name_the_modules_and_what_they_do(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.tokenizer.model_max_length = 64

    encoder.prompts = Prompts("frage: ")

    write_sparse_encoder_files(tmp_path, encoder)

    modules = read(tmp_path, "modules.json")
    assert isinstance(modules, list)
    assert [(module["path"], module["type"].rpartition(".")[2]) for module in modules] == [
        ("", "MLMTransformer"),
        ("1_SpladePooling", "SpladePooling"),
    ]
    assert read(tmp_path, "1_SpladePooling/config.json") == {
        "pooling_strategy": "max",
        "activation_function": "relu",
        "word_embedding_dimension": 512,
    }
    assert read(tmp_path, "sentence_bert_config.json") == {"max_seq_length": 64, "do_lower_case": False}
    assert read(tmp_path, "config_sentence_transformers.json") == {
        "model_type": "SparseEncoder",
        "similarity_fn_name": "dot",
        "prompts": {"query": "frage: ", "document": ""},
        "default_prompt_name": None,
    }


def test_the_double_logarithm_has_the_name_that_sentence_transformers_gives_it(
    encoder: SpladeEncoder, tmp_path: Path
) -> None:
    encoder.configure(encoder.memory, activation="double-log1p")

    write_sparse_encoder_files(tmp_path, encoder)

    assert "log1p_relu" in (tmp_path / "1_SpladePooling" / "config.json").read_text()


def test_static_queries_of_a_larger_vocabulary_are_left_out_with_a_warning(
    encoder: SpladeEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder.use_static_queries()
    assert len(encoder.tokenizer) < encoder.vocab_size

    write_sparse_encoder_files(tmp_path, encoder)

    assert "cannot have static queries" in caplog.text
    assert not [*tmp_path.iterdir()]


def test_transformers_loads_the_folder_as_before(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    write_sparse_encoder_files(tmp_path, encoder)

    _, loading = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)

    assert not any(loading.values())
    assert SpladeEncoder.from_pretrained(str(tmp_path)).max_length == encoder.max_length

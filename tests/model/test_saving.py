"""A saved folder: readable by others, without traces of the run, for transformers 4 and 5, and inside its folder."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from architectures import make_model, wrap
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from splade_bench.model import SpladeEncoder


def test_every_file_has_the_permissions_of_other_new_files(encoder: SpladeEncoder, tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        encoder.save_pretrained(tmp_path / "model")
    finally:
        os.umask(umask)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {0o640}


def test_the_limits_of_a_runs_texts_are_not_saved(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.tokenize(["who opens the parser"], max_length=3)
    run_limits = encoder.tokenizer.backend_tokenizer.truncation

    encoder.save_pretrained(tmp_path / "model")

    saved = json.loads((tmp_path / "model/tokenizer.json").read_text(encoding="utf-8"))
    assert saved["truncation"] is None
    assert saved["padding"] is None
    assert encoder.tokenizer.backend_tokenizer.truncation == run_limits == {**run_limits, "max_length": 3}


def test_the_limits_that_a_tokenizer_was_loaded_with_are_kept(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "first")
    path = tmp_path / "first/tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(7)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(path))

    loaded = SpladeEncoder.from_pretrained(str(tmp_path / "first"))
    loaded.tokenize(["who opens the parser"], max_length=3)
    loaded.save_pretrained(tmp_path / "second")

    first, second = (json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("first", "second"))
    assert second["truncation"]["max_length"] == 7
    assert second["padding"]["strategy"] == {"Fixed": 9}
    assert second == first


def test_the_tokenizers_class_has_a_name_that_transformers_4_knows(encoder: SpladeEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "model")

    settings = json.loads((tmp_path / "model/tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert isinstance(again, PreTrainedTokenizerFast)
    assert again("who opens the parser")["input_ids"] == encoder.tokenizer("who opens the parser")["input_ids"]


def test_further_special_tokens_have_the_name_that_transformers_4_knows(encoder: SpladeEncoder, tmp_path: Path) -> None:
    """It fails at a list under the new name."""
    encoder.tokenizer.add_special_tokens({"additional_special_tokens": ["[UNUSED]"]})

    encoder.save_pretrained(tmp_path / "model")

    settings = json.loads((tmp_path / "model/tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["additional_special_tokens"] == ["[UNUSED]"]
    assert "extra_special_tokens" not in settings
    again = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert again.convert_tokens_to_ids("[UNUSED]") in again.all_special_ids
    assert again.tokenize("[UNUSED]") == ["[UNUSED]"]


@pytest.mark.parametrize("layers", [4, 1])
def test_a_modernbert_has_its_rotary_bases_under_both_names(layers: int, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = make_model("modernbert", num_hidden_layers=layers, global_attn_every_n_layers=2)
    model.config.rope_parameters["sliding_attention"]["rope_theta"] = 123.0

    SpladeEncoder(model, wrap(tokenizer)).save_pretrained(tmp_path)

    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert (settings["global_rope_theta"], settings["local_rope_theta"]) == (160000.0, 123.0)
    assert settings["global_attn_every_n_layers"] == min(2, layers)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.rope_parameters == model.config.rope_parameters
    assert again.layer_types == model.config.layer_types


def test_the_config_has_no_word_that_transformers_4_does_not_read(encoder: SpladeEncoder, tmp_path: Path) -> None:
    """BERT's, as a sample: the words of version 4.57's own config, and those that it passes over."""
    encoder.save_pretrained(tmp_path)

    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))

    assert settings["architectures"] == ["BertForMaskedLM"]
    assert settings["model_type"] == "bert"
    assert settings["dtype"] == "float32"
    assert {"vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"} <= set(settings)
    assert not {"rope_parameters", "layer_types", "per_layer_config", "auto_map"} & set(settings)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_nothing_is_written_through_a_link(encoder: SpladeEncoder, tmp_path: Path, name: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "model"
    outside.write_text("precious")
    folder.mkdir()
    (folder / name).symlink_to(outside)

    with pytest.raises(OSError, match=f"has the symbolic link {name}"):
        encoder.save_pretrained(folder)

    assert outside.read_text() == "precious"


@pytest.mark.parametrize("message", ["No space left on device (os error 28)", "I/O error: full (os error 28)"])
def test_a_full_disk_is_an_os_error_with_its_number(
    encoder: SpladeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    """The library tokenizers raises a plain Exception for it."""

    def full(*arguments: object, **keywords: object) -> None:
        raise Exception(message)

    monkeypatch.setattr(encoder.tokenizer, "save_pretrained", full)

    with pytest.raises(OSError, match="No space left on device") as caught:
        encoder.save_pretrained(tmp_path / "model")

    assert caught.value.errno == errno.ENOSPC

"""A saved folder: readable by others, without traces of the run, for transformers 4 and 5, and inside its folder."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

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

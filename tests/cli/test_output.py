"""The output folder of a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from splade_bench.cli.output import OutputFolder
from splade_bench.errors import ConfigError
from splade_bench.model import SpladeEncoder


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigError, match=r"--output-dir .*file: cannot be written to"):
        OutputFolder(tmp_path / "file").prepare(overwrite=True)


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "file"])
def test_anything_in_the_place_of_the_model_is_replaced_only_if_asked(
    kind: str, encoder: SpladeEncoder, tmp_path: Path
) -> None:
    output, elsewhere = OutputFolder(tmp_path / "run"), tmp_path / "elsewhere"
    output.prepare(overwrite=False)
    if kind == "file":
        output.model.write_text("old")
    elif kind == "folder":
        output.model.mkdir()
        (output.model / "old").write_text("old")
    else:
        output.model.symlink_to(elsewhere)
    if kind == "link":
        elsewhere.mkdir()
        (elsewhere / "kept").write_text("kept")

    with pytest.raises(ConfigError, match="add --overwrite"):
        output.prepare(overwrite=False)
    output.prepare(overwrite=True)
    output.save_model(encoder)

    assert (output.model / "model.safetensors").is_file()
    assert not output.model.is_symlink()
    assert not (output.model / "old").exists()
    assert kind != "link" or (elsewhere / "kept").read_text() == "kept"
    assert [path.name for path in output.path.iterdir() if path.name.startswith(".")] == []


def test_a_number_that_is_not_finite_is_null_in_the_record(tmp_path: Path) -> None:
    output = OutputFolder(tmp_path)

    output.write_record({"final_loss": float("nan"), "model_name": "é"})

    assert json.loads(output.record.read_text(encoding="utf-8")) == {"final_loss": None, "model_name": "é"}

"""Every recipe trains, and data that a recipe cannot use is refused before anything is deleted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from splade_bench.cli import main
from splade_bench.data.records import Triple
from splade_bench.recipes import RECIPES

SMALL = ["--model-name", "toy", "--device", "cpu", "--max-steps", "2", "--batch-size", "4", "--max-length", "16"]


@pytest.fixture
def scored_file(tmp_path: Path, triples: Sequence[Triple]) -> Path:
    path = tmp_path / "scored.jsonl"
    with path.open("w") as file:
        for number, triple in enumerate(triples):
            record = {
                "query": triple.query,
                "positive_document": triple.positive,
                "negative_documents": [*triple.negatives],
                "teacher_scores": [9.0, number % 5, 0.5],
            }
            file.write(json.dumps(record) + "\n")
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_is_recorded(name: str, scored_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ["train", "--recipe", name, "--train-file", str(scored_file), "--output-dir", str(output), *SMALL]

    assert main([*arguments, "--no-auto-fit"]) == 0

    record = json.loads((output / "run.json").read_text())
    assert record["status"] == "ok"
    assert record["optimizer_steps"] == 2
    for field in ("loss", "regularizer", "query_encoder"):
        assert record["config"][field] == RECIPES[name].settings.get(field, record["config"][field])
    assert (output / "final_model" / "query_weights.safetensors").exists() is (name == "inference-free")


@pytest.mark.parametrize("loss", ["kl", "contrastive+margin-mse"])
def test_data_without_teacher_scores_is_refused_by_its_line_before_anything_is_deleted(
    loss: str, train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ["train", "--train-file", str(train_file), "--output-dir", str(output), *SMALL]
    assert main(arguments) == 0

    assert main([*arguments, "--loss", loss, "--overwrite"]) == 2

    complaint = capsys.readouterr().err.splitlines()[-1]
    assert "train data.json: record 1: has no teacher scores, which --loss needs" in complaint
    assert (output / "final_model").is_dir()


def test_the_embedded_corpus_has_no_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--loss", "kl", "--output-dir", str(tmp_path / "run"), *SMALL]) == 2

    assert "--loss kl: some queries have no teacher scores" in capsys.readouterr().err

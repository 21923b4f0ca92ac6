"""``splade-bench train`` and ``evaluate`` on the toy model: what is written, and what is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForMaskedLM

from splade_bench.cli import main


def train_arguments(train_file: Path, output: Path, *more: str) -> list[str]:
    return [
        *["train", "--train-file", str(train_file), "--val-file", str(train_file), "--output-dir", str(output)],
        *["--model-name", "toy", "--max-steps", "4", "--batch-size", "4", "--device", "cpu", *more],
    ]


def test_an_output_folder_that_cannot_be_written_is_found_out_before_training(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")

    assert main(train_arguments(train_file, tmp_path / "file")) == 2

    error = capsys.readouterr().err
    assert "cannot be written: " in error
    assert "training" not in error


@pytest.mark.parametrize(
    ("mode", "advice"),
    [
        ("standard", "remove --memory-mode or --head, whichever you gave"),
        ("memory-efficient", "add --on-oom halve, run splade-bench fit with these flags"),
    ],
)
def test_training_without_memory_says_where_and_what_helps(
    mode: str,
    advice: str,
    train_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("splade_bench.model.encoder.SpladeEncoder.forward", without_memory)

    assert main(train_arguments(train_file, tmp_path / "run", "--memory-mode", mode)) == 1

    complaint = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory during forward (batch of 4 queries, 12 texts of at most " in complaint
    assert f": DefaultCPUAllocator: can't allocate memory; {advice}" in complaint
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "out of memory" in record["stop_reason"]


def test_the_model_is_saved_before_an_evaluation_that_fails(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("splade_bench.cli.training_run.evaluate", without_memory)

    assert main(train_arguments(train_file, tmp_path / "run")) == 1

    complaint = capsys.readouterr().err.splitlines()[-1]
    assert "its evaluation failed: DefaultCPUAllocator: can't allocate memory; try splade-bench evaluate" in complaint
    assert (tmp_path / "run" / "final_model" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["optimizer_steps"] == 4


def test_train_writes_a_model_that_loads_a_record_and_a_timeline(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"

    code = main(train_arguments(train_file, output, "--memory-tracking", "--json"))

    printed = json.loads(capsys.readouterr().out)
    record = json.loads((output / "run.json").read_text())
    assert code == 0
    assert printed == record
    assert record["status"] == "ok"
    assert record["optimizer_steps"] == len(record["losses"]) == 4
    assert record["config"]["batch_size"] == 4
    assert record["config"]["memory"]["head"] == "streaming"
    assert record["peak_rss_bytes"] >= record["baseline_rss_bytes"] > 0
    assert record["metrics"]["candidate_mrr@10"] > 0.9
    phases = {sample["phase"] for sample in record["memory_tracking"]["samples"]}
    assert phases
    assert phases <= {*["setup", "batching", "forward", "loss", "backward", "optimizer_step"]}
    assert (output / "memory-timeline.svg").stat().st_size > 1000
    _, loading = AutoModelForMaskedLM.from_pretrained(output / "final_model", output_loading_info=True)
    assert not loading["missing_keys"]
    card = (output / "final_model" / "README.md").read_text(encoding="utf-8")
    assert f"| mrr@10 | {record['metrics']['mrr@10']:.3f} | {record['bm25']['mrr@10']:.3f} |" in card
    assert f"`{record['corpus_sha256']}`" in card
    assert (output / "final_model" / "modules.json").is_file()


def test_a_trained_model_is_evaluated_as_it_was_when_it_was_trained(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    main(train_arguments(train_file, output, "--max-length", "12", "--json"))
    trained = json.loads(capsys.readouterr().out)

    arguments = ["evaluate", "--model-name", str(output / "final_model"), "--val-file", str(train_file), "--json"]
    assert main([*arguments, "--device", "cpu"]) == 0

    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["max_length"] == 12
    assert evaluated["metrics"] == pytest.approx(trained["metrics"])
    assert evaluated["bm25"] == trained["bm25"]


def test_flags_for_single_settings_change_the_memory_mode(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--memory-mode", "standard", "--padding", "longest", "--json"]

    main(train_arguments(train_file, tmp_path / "run", *more))

    memory = json.loads(capsys.readouterr().out)["config"]["memory"]
    assert memory["head"] == "eager"
    assert memory["padding"] == "longest"


def test_an_earlier_run_is_not_overwritten_unless_asked(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    main(train_arguments(train_file, output))
    before = (output / "run.json").read_bytes()

    assert main(train_arguments(train_file, output, "--seed", "1")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (output / "run.json").read_bytes() == before

    assert main(train_arguments(train_file, output, "--seed", "1", "--overwrite")) == 0
    assert (output / "run.json").read_bytes() != before


def test_a_file_of_pairs_trains_with_in_batch_negatives_alone(train_file: Path, tmp_path: Path) -> None:
    pairs = [
        {name: value for name, value in record.items() if name != "negative_documents"}
        for record in json.loads(train_file.read_text(encoding="utf-8"))
    ]
    train_file.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")

    assert main(train_arguments(train_file, tmp_path / "run")) == 2
    assert main(train_arguments(train_file, tmp_path / "run", "--negatives-per-query", "0")) == 0
    figures = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "mrr@10" in figures["metrics"]
    assert not any(name.startswith("candidate_") for name in figures["metrics"])


def test_a_bad_file_leaves_an_earlier_run_alone(train_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    main(train_arguments(train_file, output))
    before = (output / "run.json").read_bytes()
    train_file.write_text("{oops", encoding="utf-8")

    assert main(train_arguments(train_file, output, "--overwrite")) == 2

    assert (output / "run.json").read_bytes() == before
    assert (output / "final_model" / "config.json").is_file()


def test_a_loss_that_is_not_finite_is_a_failed_run(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(train_arguments(train_file, tmp_path / "run", "--learning-rate", "1e30", "--warmup-ratio", "0"))

    assert code == 1
    assert "is nan" in capsys.readouterr().err
    assert not (tmp_path / "run" / "final_model").exists()


def test_without_a_validation_file_nothing_is_evaluated(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = train_arguments(train_file, tmp_path / "run", "--json")
    position = arguments.index("--val-file")

    assert main(arguments[:position] + arguments[position + 2 :]) == 0

    assert "metrics" not in json.loads(capsys.readouterr().out)

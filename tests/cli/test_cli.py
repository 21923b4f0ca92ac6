"""The command line in this process: usage errors, exit codes, and a whole run on the toy model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForMaskedLM

from splade_bench.cli import main
from splade_bench.cli.arguments import _first_paragraph
from splade_bench.data.records import Triple


@pytest.fixture
def train_file(tmp_path: Path, triples: Sequence[Triple]) -> Path:
    """The article's format, with both spellings of a negative."""
    path = tmp_path / "train.json"
    records = [
        {
            "query": triple.query,
            "positive_document": triple.positive,
            "negative_documents": [triple.negatives[0], {"document": triple.negatives[1]}],
        }
        for triple in triples
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def train_arguments(train_file: Path, output: Path, *more: str) -> list[str]:
    return [
        *["train", "--train-file", str(train_file), "--val-file", str(train_file), "--output-dir", str(output)],
        *["--model-name", "toy", "--max-steps", "4", "--batch-size", "4", "--device", "cpu", *more],
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobnicate"], "frobnicate: no such verb; choose from train, evaluate, plan, fit, report"),
        (["train", "--device", "tpu"], "invalid choice 'tpu' for argument '--device'"),
        (["train", "--batch-size", "x"], "--batch-size"),
        (["train", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["train", "--frobnicate"], "Unrecognized options: --frobnicate"),
        (["train", "--memory-mode", "fast"], "--memory-mode fast: no such mode"),
        (["train", "--memory-efficient", "--memory-mode", "article"], "--memory-efficient contradicts"),
        (["train", "--train-file", "nowhere.json"], "nowhere.json: cannot be read"),
        (["train", "--val-file", "some.json"], "--val-file needs --train-file"),
        (["evaluate", "--val-file", "nowhere.json"], "nowhere.json: cannot be read"),
        (["evaluate", "--batch-size", "-2"], "--batch-size -2"),
        (["report", "--results", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_two(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))

    code = main(arguments)

    captured = capsys.readouterr()
    assert code == 2
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert {path for path in set(tmp_path.rglob("*")) - before if path.is_file()} == set()


def test_colours_and_boxes_of_the_parser_do_not_reach_the_user(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")

    assert main(["train", "--device", "tpu"]) == 2

    complaint = capsys.readouterr().err
    assert "invalid choice 'tpu'" in complaint
    assert complaint.count("\n") == 1
    assert not set(complaint) & set("\x1b│─╭╯")


def test_framed_complaints_are_read_in_colour_and_in_ascii() -> None:
    red, plain = "\x1b[31m", "\x1b[0m"
    boxes = (
        "╭─ Invalid choice ─╮\n│ no 'tpu' here │\n│ ──────── │\n│ see help │\n╰──╯",
        f"{red}╭─{plain} Invalid {red}─╮{plain}\n{red}│{plain} no 'tpu' here {red}│{plain}\n│ {red}───{plain} │",
        "+- Invalid choice -+\n| no 'tpu' here |\n| --------- |\n| see help |\n+--+",
        " Invalid choice \n ---------- \n no 'tpu' here \n -------- \n see help",
    )

    assert {_first_paragraph(box) for box in boxes} == {"no 'tpu' here"}


def test_an_output_folder_that_cannot_be_written_is_found_out_before_training(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")

    assert main(train_arguments(train_file, tmp_path / "file")) == 2

    error = capsys.readouterr().err
    assert "cannot be written to" in error
    assert "training" not in error


@pytest.mark.parametrize(
    ("mode", "advice"),
    [("standard", "leave --memory-mode and --head out"), ("memory-efficient", "splade-bench fit with these")],
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
    assert f"out of memory during forward: DefaultCPUAllocator: can't allocate memory; {advice}" in complaint


def test_auto_fit_trains_nothing_where_nothing_fits(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"fits": False, "verdict": "nothing fits in 1 GiB"})
    monkeypatch.setattr(
        "splade_bench.cli.train.subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 1, answer, "")
    )

    assert main(train_arguments(train_file, tmp_path / "run", "--auto-fit", "--budget", "1GiB")) == 1

    assert "nothing fits in 1 GiB" in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_model_is_saved_before_an_evaluation_that_fails(
    train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("splade_bench.cli.train.evaluate", without_memory)

    assert main(train_arguments(train_file, tmp_path / "run")) == 1

    assert capsys.readouterr().err.splitlines()[-1].endswith("failed: DefaultCPUAllocator: can't allocate memory")
    assert (tmp_path / "run" / "final_model" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["optimizer_steps"] == 4


def test_help_names_every_flag_of_the_article(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["train", "--help"])

    assert ending.value.code == 0
    text = capsys.readouterr().out
    flags = "device force-device gradient-accumulation-steps memory-tracking memory-efficient batch-size train-file"
    flags += " val-file output-dir model-name max-length learning-rate epochs max-steps seed memory-mode json"
    for flag in flags.split():
        assert f"--{flag}" in text
    assert main(["--help"]) == 0


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


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_whatever_stands_in_the_models_place_is_replaced(kind: str, train_file: Path, tmp_path: Path) -> None:
    output, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    output.mkdir()
    place = output / "final_model"
    if kind == "file":
        place.write_text("old")
    else:
        place.symlink_to(elsewhere)
    if kind == "link":
        elsewhere.mkdir()
        (elsewhere / "kept").write_text("kept")

    assert main(train_arguments(train_file, output)) == 2, "not unasked"
    assert main(train_arguments(train_file, output, "--overwrite")) == 0

    assert (place / "model.safetensors").is_file()
    assert not place.is_symlink()
    assert kind != "link" or (elsewhere / "kept").read_text() == "kept"
    assert [path.name for path in output.iterdir() if path.name.startswith(".")] == []


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


def test_report_is_written_from_the_newest_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from splade_bench.grid.cell import Cell
    from splade_bench.results.records import CellResult, append_result

    cell = Cell(workload="tiny", device="cpu", batch_size=8, gradient_accumulation_steps=1, memory_mode="standard")
    for name, status in (("20250101T000000Z-default", "killed"), ("20250102T000000Z-default", "timeout")):
        append_result(tmp_path / "results" / f"{name}.jsonl", CellResult.of_cell(cell, status=status))  # type: ignore[arg-type]

    assert main(["report", "--output", str(tmp_path), "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["cells"] == 1
    page = (tmp_path / "TRADEOFFS.md").read_text(encoding="utf-8")
    assert "timeout" in page
    assert "killed" not in page

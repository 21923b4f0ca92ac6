"""The command line itself: its verbs, usage errors and exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from results import make_cell_result

from splade_bench.cli import VERBS, main
from splade_bench.model import SpladeEncoder
from splade_bench.results.records import append_result


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobnicate"], "frobnicate: no such verb; choose from train, evaluate, encode, search, plan, fit, report"),
        (["train", "--device", "tpu"], "invalid choice 'tpu' for argument '--device'"),
        (["train", "--batch-size", "x"], "--batch-size"),
        (["train", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
        (["train", "--frobnicate"], "Unrecognized options: --frobnicate"),
        (["train", "--memory-mode", "fast"], "--memory-mode fast: no such mode"),
        (["train", "--memory-efficient", "--memory-mode", "article"], "--memory-efficient contradicts"),
        (["train", "--train-file", "nowhere.json"], "nowhere.json: cannot be read"),
        (["train", "--val-file", "some.json"], "--val-file needs --train-file"),
        (["train", "--no-auto-fit", "--budget", "8GiB"], "--budget has no effect with --no-auto-fit"),
        (["train", "--no-auto-fit", "--allow-inexact"], "--allow-inexact has no effect with --no-auto-fit"),
        (["train", "--activation-memory", "many"], "--activation-memory 'many' is not a size"),
        (["train", "--activation-memory", "0"], "--activation-memory 0: must be above 0"),
        (["train", "--no-gradient-caching", "--activation-memory", "all"], "--activation-memory all: with --no-"),
        (["fit", "--budget", "1GiB", "--activation-memory", "2GiB"], "--activation-memory 2GiB: more than the budget"),
        (["train", "--auto-fit", "--budget", "8GB"], "--budget '8GB' is not a size"),
        (["evaluate", "--val-file", "nowhere.json"], "nowhere.json: cannot be read"),
        (["evaluate", "--batch-size", "-2"], "--batch-size -2"),
        (["evaluate", "--model-name", "tiny"], "--model-name tiny: a preset has random weights"),
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
    made = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert {path.name for path in made} <= {".lock"}  # of the output folder, which is taken before anything is read


@pytest.mark.parametrize(
    ("model_name", "complaint"),
    [
        (None, "--model-name splade-output/final_model: there is no such folder; train a model"),
        ("./nosuch", "--model-name ./nosuch: there is no such folder; check the path"),
    ],
)
def test_evaluate_does_not_look_for_a_missing_folder_on_the_hub(
    model_name: str | None,
    complaint: str,
    train_file: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", "--val-file", str(train_file), "--device", "cpu"]

    assert main([*arguments, *(["--model-name", model_name] if model_name else [])]) == 2

    assert complaint in capsys.readouterr().err


def test_evaluate_refuses_texts_that_the_tokenizer_does_not_know(
    encoder: SpladeEncoder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    encoder.save_pretrained(tmp_path / "model")
    path = tmp_path / "val.jsonl"
    path.write_text(json.dumps({"query": "дверь", "positive_document": "окно"}) + "\n", encoding="utf-8")

    assert main(["evaluate", "--model-name", str(tmp_path / "model"), "--val-file", str(path), "--device", "cpu"]) == 2

    assert "its tokenizer does not know 100% of the tokens of the texts" in capsys.readouterr().err


class Terminal(io.TextIOWrapper):
    """Standard output that is a terminal with this encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_colours_and_boxes_of_the_parser_do_not_reach_the_user(
    encoding: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal(encoding))

    assert main(["train", "--device", "tpu"]) == 2

    complaint = capsys.readouterr().err
    assert complaint.startswith("splade-bench train: invalid choice 'tpu' for argument '--device'")
    assert complaint.endswith("(see splade-bench train --help)\n")
    assert complaint.count("\n") == 1
    assert "---" not in complaint
    assert not set(complaint) & set("\x1b│─╭╯")


def test_the_first_help_names_every_verb_and_needs_no_torch() -> None:
    script = "import sys; from splade_bench.cli import main; main(['--help']); assert 'torch' not in sys.modules"

    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert finished.returncode == 0, finished.stderr
    assert all(f"\n  {verb} " in finished.stdout for verb in VERBS)


def test_the_process_ends_with_the_exit_code_of_the_verb() -> None:
    finished = subprocess.run([sys.executable, "-m", "splade_bench", "frobnicate"], capture_output=True, text=True)

    assert finished.returncode == 2
    assert "no such verb" in finished.stderr


def test_report_is_written_from_the_newest_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, status in (("20250101T000000Z-default", "killed"), ("20250102T000000Z-default", "timeout")):
        append_result(tmp_path / "results" / f"{name}.jsonl", make_cell_result(status=status))

    assert main(["report", "--output", str(tmp_path), "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["cells"] == 1
    page = (tmp_path / "TRADEOFFS.md").read_text(encoding="utf-8")
    assert "timeout" in page
    assert "killed" not in page

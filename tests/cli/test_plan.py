"""``splade-bench plan`` on the toy model: the keys of its JSON, its verdict, and every complaint in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from architectures import make_model

from splade_bench.cli import main

TOY = ["plan", "--model-name", "toy", "--device", "cpu", "--max-length", "16", "--batch-size", "4"]
CATEGORIES = {"parameters", "gradients", "optimizer", "activations", "logits", "head", "temporaries", "inputs"}


def plan_json(capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> dict[str, Any]:
    assert main([*TOY, "--json", *more]) == code
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


def test_the_plan_says_how_much_of_what_when_and_by_whom(capsys: pytest.CaptureFixture[str]) -> None:
    made = plan_json(capsys, "--budget", "64GiB")

    assert made["fits"] is True
    assert made["first_failure"] is None
    assert made["budget_bytes"] == 64 * 2**30
    assert set(made["by_category"]) <= CATEGORIES
    assert sum(made["by_category"].values()) == made["live_peak_bytes"]
    assert made["peak_bytes"] > made["baseline_bytes"] + made["live_peak_bytes"] > made["live_peak_bytes"]
    assert made["peak_op"].startswith("aten.")
    assert {stretch["phase"] for stretch in made["timeline"]} >= {"forward", "loss", "backward", "optimizer_step"}
    assert max(stretch["peak_bytes"] for stretch in made["timeline"]) == made["peak_bytes"]
    assert (made["active_share"], made["lengths"], made["config"]["batch_size"]) == (0.01, "full", 4)


def test_a_mode_with_logits_takes_more(capsys: pytest.CaptureFixture[str]) -> None:
    wide = ("--max-length", "128", "--batch-size", "64")
    eager, streaming = (plan_json(capsys, *wide, "--memory-mode", mode) for mode in ("standard", "memory-efficient"))

    assert eager["by_category"]["logits"] > 0
    assert streaming["live_peak_bytes"] < eager["live_peak_bytes"] - eager["by_category"]["logits"] // 2


def test_what_does_not_fit_names_the_first_allocation_without_room(capsys: pytest.CaptureFixture[str]) -> None:
    # Large enough that what this process itself takes from one plan to the next does not matter.
    wide = ("--memory-mode", "standard", "--max-length", "128", "--batch-size", "64")
    roomy = plan_json(capsys, *wide)
    budget_bytes = roomy["peak_bytes"] - roomy["live_peak_bytes"] // 2

    made = plan_json(capsys, *wide, "--budget", str(budget_bytes), code=1)
    assert made["fits"] is False
    assert made["first_failure"]["size_bytes"] > 0
    assert made["first_failure"]["operator"].startswith("aten.")

    assert main([*TOY, *wide, "--budget", str(budget_bytes)]) == 1
    text = capsys.readouterr().out
    assert "does not fit in" in text
    assert "the first allocation that does not fit: " in text


def test_text_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "plan.svg"

    assert main([*TOY, "--budget", "8GiB", "--timeline", str(picture)]) == 0

    text = capsys.readouterr().out
    assert "fits in 8192 MiB" in text
    assert "parameters" in text
    assert "optimizer step" in text
    assert "1.0% of the vectors' entries are above 0" in text
    assert picture.read_text(encoding="utf-8").count("<svg") == 1


@pytest.mark.parametrize(
    ("timeline", "complaint"),
    [
        (".", "--timeline .: is not the name of an SVG file; let it end in .svg"),
        ("plan.png", "--timeline plan.png: is not the name of an SVG file"),
        (f"{__file__}/plan.svg", f"cannot be written: {__file__} is not a folder; name another place"),
    ],
)
def test_a_picture_that_cannot_be_written_is_one_line(
    timeline: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TOY, "--budget", "8GiB", "--timeline", timeline]) == 2

    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_the_training_data_may_say_how_long_texts_are(capsys: pytest.CaptureFixture[str], train_file: Path) -> None:
    # Padded to the longest text, so that the cut does not matter.
    wide = ("--max-length", "512", "--train-file", str(train_file))

    full = plan_json(capsys, *wide)
    of_data = plan_json(capsys, *wide, "--lengths", "data")

    assert of_data["live_peak_bytes"] < full["live_peak_bytes"] / 2


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_missing_can_be_planned_for(capsys: pytest.CaptureFixture[str], device: str) -> None:
    made = plan_json(capsys, "--device", device, "--budget", "8GiB")

    assert made["device"] == device
    assert made["baseline_bytes"] == 0
    assert made["calibrated"] is (device == "cuda")
    assert made["peak_bytes"] >= made["live_peak_bytes"]
    assert main([*TOY, "--device", device, "--budget", "8GiB"]) == 0
    assert ("not checked by measurements" in capsys.readouterr().out) is (device != "cuda")


def test_a_local_model_is_planned_from_its_config_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_model("modernbert").config.save_pretrained(tmp_path)

    assert main([*TOY, "--model-name", str(tmp_path), "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["by_category"]["parameters"] > 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--budget", "8GB"], "--budget '8GB' is not a size"),
        (["--budget", "much"], "--budget 'much' is not a size"),
        (["--budget", "0"], "--budget 0: must be above 0"),
        (["--budget", "1MiB"], "every batch size needs at least"),
        (["--active-share", "1.5"], "--active-share 1.5: must be between 0 and 1"),
        (["--model-name", "{folder}/nowhere"], "there is no such folder"),
        (["--model-name", "{folder}/custom"], "auto_map names custom code"),
        (["--model-name", "{folder}/unknown"], "cannot be loaded"),
        (["--model-name", "{folder}/empty"], "cannot be loaded"),
        (["--max-length", "600"], "--max-length 600: this model takes at most 512 tokens"),
        (["--max-length", "1"], "--max-length 1: must be at least 3"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_two(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, config in {"custom": {"auto_map": {}}, "unknown": {"model_type": "frob"}, "empty": {}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")

    code = main([*TOY, *(argument.format(folder=tmp_path) for argument in arguments)])

    captured = capsys.readouterr()
    assert code == 2
    assert complaint in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_budget_below_the_floor_says_what_the_floor_is_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TOY, "--budget", "1MiB"]) == 2

    complaint = capsys.readouterr().err
    assert all(part in complaint for part in ("the runtime", "parameters", "optimizer"))


@pytest.mark.slow
def test_a_plan_and_a_training_have_the_same_runtime() -> None:
    """A plan starts from the memory of its own process, so it must import the libraries that a training imports."""
    script = (
        "import importlib, sys; importlib.import_module(sys.argv[1]); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )
    planning, training = (
        subprocess.run(
            [sys.executable, "-c", script, module], check=True, capture_output=True, text=True
        ).stdout.split()
        for module in ("splade_bench.cli.plan", "splade_bench.cli.train")
    )

    assert set(training) - set(planning) == set()
    assert "torch" in training and "matplotlib" not in training

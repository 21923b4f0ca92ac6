"""Evaluation while training: the best checkpoint, early stopping, and both over a resume."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from output_folders import Arguments, assert_equal_weights, events, record, weights

from splade_bench.cli import main
from splade_bench.cli.training_run import TrainingRun
from splade_bench.training.trainer import Trainer


def test_a_stop_in_an_evaluation_repeats_it(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = ["--eval-steps", "2"]
    main(arguments(*more, output="whole"))
    check_stop, asked = Trainer.check_stop, []

    def stop_in_evaluation(trainer: Trainer) -> None:
        if trainer.state.global_step == 4 and not trainer.step_batches and not asked:
            asked.append(True)
            trainer.request_stop()
        check_stop(trainer)

    monkeypatch.setattr(Trainer, "check_stop", stop_in_evaluation)
    main(arguments(*more))
    assert record(output)["optimizer_steps"] == 4
    assert [event["step"] for event in events(output, "evaluation")] == [2]

    assert main(arguments(*more, "--resume-from-checkpoint", "latest")) == 0

    assert [event["step"] for event in events(output, "evaluation")] == [2, 4, 6, 8]
    assert_equal_weights(output / "final_model", tmp_path / "whole" / "final_model")


def test_the_best_checkpoint_is_kept_and_gone_on_from(arguments: Arguments, output: Path) -> None:
    """The metric gets worse with every step: the first evaluation is the best."""
    more = ["--eval-steps", "2", "--save-best", "--save-total-limit", "1"]
    worse = ["--metric-for-best-model", "validation_loss", "--greater-is-better", "--save-steps", "2"]
    main(arguments(*more, *worse))
    best_step = max(events(output, "evaluation"), key=lambda event: event["metrics"]["validation_loss"])["step"]
    assert sorted(path.name for path in output.glob("checkpoint-*")) == sorted(
        {f"checkpoint-{best_step}", "checkpoint-8"}
    )
    assert record(output)["best_checkpoint"] == str(output / f"checkpoint-{best_step}")

    assert main(arguments(*more, *worse, "--resume-from-checkpoint", "best")) == 0

    assert record(output)["resumed_from_step"] == best_step


def test_the_best_weights_become_the_final_model(arguments: Arguments, output: Path) -> None:
    more = ["--eval-steps", "2", "--load-best-model-at-end", "--metric-for-best-model", "validation_loss"]

    main(arguments(*more, "--greater-is-better"))

    best = Path(record(output)["best_checkpoint"])
    assert best.name != "checkpoint-8"
    assert_equal_weights(output / "final_model", best)
    step = int(best.name.removeprefix("checkpoint-"))
    at_best = next(event for event in events(output, "evaluation") if event["step"] == step)
    assert record(output)["validation_loss"] == pytest.approx(at_best["metrics"]["validation_loss"])


def test_early_stopping_ends_the_run_with_a_reason_and_exit_code_0(arguments: Arguments, output: Path) -> None:
    more = ["--eval-steps", "1", "--early-stopping-patience", "2", "--metric-for-best-model", "mrr@10"]

    assert main(arguments(*more, "--early-stopping-min-delta", "10")) == 0

    assert record(output)["optimizer_steps"] == 3
    assert record(output)["status"] == "ok"
    assert "early stopping" in record(output)["stop_reason"]
    assert "metrics" in record(output)


@pytest.mark.parametrize("metric", ["validation_loss", "candidate_mrr@10"])
def test_a_metric_that_no_evaluation_will_have_is_refused_before_training(
    metric: str, arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "who opens the parser", "positive_document": "this function opens the parser"}')
    more = ["--val-file", str(pairs), "--eval-steps", "2", "--metric-for-best-model", metric]

    assert main(arguments(*more)) == 2

    assert f"--metric-for-best-model {metric}: needs" in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_stopped_early_does_not_go_on_unless_it_may_be_more_patient(
    arguments: Arguments, output: Path
) -> None:
    stopping = ["--eval-steps", "1", "--early-stopping-min-delta", "10", "--save-steps", "1"]
    main(arguments(*stopping, "--early-stopping-patience", "2"))
    before = weights(output / "final_model")

    assert main(arguments(*stopping, "--early-stopping-patience", "2", "--resume-from-checkpoint")) == 0

    assert record(output)["optimizer_steps"] == 3
    assert "early stopping" in record(output)["stop_reason"]
    for name, weight in weights(output / "final_model").items():
        assert torch.equal(weight, before[name]), name
    assert main(arguments(*stopping, "--early-stopping-patience", "4", "--resume-from-checkpoint")) == 0
    assert record(output)["optimizer_steps"] == 5


def test_the_best_evaluation_is_not_forgotten_if_it_was_made_when_the_run_went_on(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped as the evaluation begins that is the best; stopped again before the next optimizer step."""
    more = ["--eval-steps", "2", "--save-steps", "2", "--save-best", "--save-total-limit", "1"]
    rising = itertools.count(1)
    monkeypatch.setattr("splade_bench.cli.training_run.evaluate", lambda *_, **__: {"mrr@10": next(rising)})
    figures, stop_at = TrainingRun._figures, {"evaluation": True}

    def stopping(run: TrainingRun, on_batch: Callable[[], None]) -> Any:
        if run.trainer.state.global_step == 4:
            if stop_at.pop("evaluation", None):
                run.trainer.request_stop()
                on_batch()
            found = figures(run, on_batch)
            run.trainer.request_stop()
            return found
        return figures(run, on_batch)

    monkeypatch.setattr(TrainingRun, "_figures", stopping)
    main(arguments(*more))
    main(arguments(*more, "--resume-from-checkpoint"))
    assert record(output)["best_checkpoint"] == str(output / "checkpoint-4")
    monkeypatch.setattr(TrainingRun, "_figures", figures)

    assert main(arguments(*more, "--resume-from-checkpoint", "best")) == 0

    assert record(output)["resumed_from_step"] == 4
    assert [event["step"] for event in events(output, "evaluation")] == [2, 4, 6, 8]

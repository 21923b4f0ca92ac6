"""Runs that are stopped, fail or go on: what is kept, and what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from splade_bench.cli import main
from splade_bench.cli.training_run import TrainingRun
from splade_bench.errors import ConfigError
from splade_bench.training.checkpoints import Checkpoint
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.optimizer import WindowedAdamW
from splade_bench.training.trainer import Trainer

Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(train_file: Path, tmp_path: Path) -> Arguments:
    def made(*more: str, output: str = "run") -> list[str]:
        files = ["--train-file", str(train_file), "--val-file", str(train_file), "--output-dir", str(tmp_path / output)]
        sizes = ["--model-name", "toy", "--device", "cpu", "--batch-size", "4", "--max-length", "16"]
        return ["train", *files, *sizes, "--max-steps", "8", "--epochs", "1", *more]

    return made


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"


def weights(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal_weights(one: Path, other: Path) -> None:
    mine, others = weights(one), weights(other)
    assert mine.keys() == others.keys()
    for name, weight in mine.items():
        assert torch.equal(weight, others[name]), name


def record(output: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((output / "run.json").read_text())
    return read


def events(output: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


@pytest.fixture
def stop_within(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ends the next training, once, within the optimizer step after the given one."""
    micro_step = Trainer._micro_step

    def stop_after(step: int) -> None:
        def stopping(trainer: Trainer, *rest: Any) -> Any:
            if trainer.state.global_step == step:
                monkeypatch.setattr(Trainer, "_micro_step", micro_step)
                trainer.request_stop()
            return micro_step(trainer, *rest)

        monkeypatch.setattr(Trainer, "_micro_step", stopping)

    return stop_after


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    arguments: Arguments, output: Path, stop_within: Callable[[int], None], tmp_path: Path
) -> None:
    more = ["--eval-steps", "3", "--save-steps", "0"]
    assert main(arguments(*more, output="whole")) == 0
    stop_within(5)
    main(arguments(*more))
    assert record(output)["optimizer_steps"] == 5
    assert record(output)["status"] == "interrupted"

    assert main(arguments(*more, "--resume-from-checkpoint")) == 0

    whole, resumed = record(tmp_path / "whole"), record(output)
    assert resumed["resumed_from_step"] == 5
    assert resumed["losses"] == whole["losses"]
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["best_metric"] == whole["best_metric"]
    assert_equal_weights(output / "final_model", tmp_path / "whole" / "final_model")
    for name in ("step", "evaluation"):
        steps = [event["step"] for event in events(output, name)]
        assert steps == [event["step"] for event in events(tmp_path / "whole", name)]


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


def test_latest_starts_a_new_run_and_goes_on_with_an_old_one(arguments: Arguments, output: Path) -> None:
    """One command for a scheduler that starts a job again and again."""
    command = arguments("--save-steps", "4", "--resume-from-checkpoint", "latest")

    assert main(command) == 0
    assert record(output)["resumed_from_step"] is None
    assert main(command) == 0

    assert record(output)["resumed_from_step"] == 8
    assert len(record(output)["losses"]) == 8


def test_a_finished_run_may_grow(arguments: Arguments, output: Path) -> None:
    main(arguments("--save-steps", "4"))

    assert main([*arguments("--save-steps", "4", "--resume-from-checkpoint"), "--max-steps", "10"]) == 0

    assert record(output)["optimizer_steps"] == 10
    assert record(output)["resumed_from_step"] == 8
    steps = [event["step"] for event in events(output, "step")]
    assert steps == list(range(1, 11))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "8"], "--batch-size was 4 and is 8"),
        (["--auto-fit", "--seed", "7"], "--seed was 42 and is 7"),
        (["--auto-fit", "--learning-rate", "1e-3"], "--learning-rate was 0.0005 and is 0.001"),
        (["--model-name", "bert-tiny"], "--model-name was toy and is bert-tiny"),
        (["--max-steps", "3"], "the run had 8 optimizer steps and has 3 now, but it may only grow"),
        (["--overwrite"], "--overwrite deletes the run"),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_refused_by_name(
    more: list[str], message: str, arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments("--save-steps", "4"))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    assert main([*arguments("--save-steps", "4", "--resume-from-checkpoint", "latest"), *more]) == 2

    assert message in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_other_texts_are_refused(arguments: Arguments, train_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments("--save-steps", "4"))
    train_file.write_text(train_file.read_text().replace("parser", "lexer"))

    assert main(arguments("--save-steps", "4", "--resume-from-checkpoint", "latest")) == 2

    assert "data of --train-file and --val-file was" in capsys.readouterr().err.splitlines()[-1]


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


def test_a_damaged_checkpoint_is_passed_over_by_name(
    arguments: Arguments, output: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    main(arguments("--save-steps", "3"))
    moments = output / "checkpoint-8" / "optimizer.safetensors"
    moments.write_bytes(moments.read_bytes()[:-1])

    assert main(arguments("--save-steps", "3", "--resume-from-checkpoint", "latest")) == 0

    assert str(moments) in caplog.text
    assert record(output)["resumed_from_step"] == 6
    assert main(arguments("--save-steps", "3", output="whole")) == 0
    assert_equal_weights(output / "final_model", tmp_path / "whole" / "final_model")
    Checkpoint.at(output / "checkpoint-8").verify()


def test_a_damaged_checkpoint_that_was_named_is_refused(
    arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments("--save-steps", "4"))
    state = output / "checkpoint-4" / "trainer_state.json"
    state.write_text(state.read_text().replace("toy", "toi"))

    assert main(arguments("--resume-from-checkpoint", str(output / "checkpoint-4"))) == 2

    assert str(state) in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_of_another_folder_starts_a_new_run_there(arguments: Arguments, tmp_path: Path) -> None:
    main(arguments("--save-steps", "4"))
    path = str(tmp_path / "run" / "checkpoint-4")

    assert main(arguments("--resume-from-checkpoint", path, output="other")) == 0

    assert_equal_weights(tmp_path / "run" / "final_model", tmp_path / "other" / "final_model")
    assert (tmp_path / "run" / "checkpoint-8").is_dir()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume-from-checkpoint", "nowhere"], "nowhere: is not a checkpoint"),
        (["--resume-from-checkpoint", "best"], "has no best checkpoint"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    more: list[str], message: str, arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(*more)) == 2

    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in output.iterdir()] == [".lock"]


@pytest.mark.parametrize("metric", ["validation_loss", "candidate_mrr@10"])
def test_a_metric_that_no_evaluation_will_have_is_refused_before_training(
    metric: str, arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "who opens the parser", "positive_document": "this function opens the parser"}')
    more = ["--val-file", str(pairs), "--eval-steps", "2", "--metric-for-best-model", metric]

    assert main(arguments(*more)) == 2

    assert f"--metric-for-best-model {metric}: needs" in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_that_cannot_be_saved_does_not_end_the_run(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("splade_bench.training.run_state.write_tensors", full)

    assert main(arguments("--save-steps", "4")) == 0

    assert record(output)["checkpoints_failed"] == 2
    assert "checkpoint-4 cannot be saved: [Errno 28] No space left on device" in caplog.text
    assert (output / "final_model" / "model.safetensors").is_file()
    assert not [path for path in output.iterdir() if "checkpoint" in path.name], "debris"


def test_a_model_that_cannot_be_saved_leaves_the_record_and_says_how_to_go_on(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("splade_bench.cli.output.OutputFolder.save_model", full)

    assert main(arguments("--save-steps", "4")) == 1

    complaint = capsys.readouterr().err.splitlines()[-1]
    assert "final_model: cannot be saved" in complaint
    assert f"--resume-from-checkpoint {output / 'checkpoint-8'}" in complaint
    assert record(output)["status"] == "failed"


def test_a_loss_that_is_not_finite_names_its_records_and_keeps_the_last_good_step(
    arguments: Arguments,
    output: Path,
    train_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forward, calls = SpladeLoss.__call__, []

    def poisoned(loss: SpladeLoss, queries: torch.Tensor, documents: torch.Tensor, **keywords: Any) -> Any:
        calls.append(1)
        factor = float("nan") if len(calls) == 6 else 1.0
        return forward(loss, queries * factor, documents, **keywords)

    monkeypatch.setattr(SpladeLoss, "__call__", poisoned)

    assert main(arguments("--save-steps", "0")) == 1

    complaint = capsys.readouterr().err.splitlines()[-1]
    assert "optimizer step 6: the loss is nan on" in complaint
    assert train_file.name in complaint
    assert record(output)["status"] == "failed"
    Checkpoint.at(output / "checkpoint-5").verify()
    assert not (output / "final_model").exists()


def test_an_update_that_is_not_finite_is_not_saved(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss of the last step is fine; what the optimizer makes of it is not."""
    update = WindowedAdamW.step
    steps = []

    def poisoned(optimizer: WindowedAdamW, closure: None = None) -> None:
        update(optimizer)
        steps.append(1)
        if len(steps) == 8:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][0].fill_(float("nan"))

    monkeypatch.setattr(WindowedAdamW, "step", poisoned)

    assert main(arguments("--optimizer-states", "disk", "--save-steps", "4")) == 1

    assert "not finite" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-4"]
    assert not (output / "final_model").exists()
    assert record(output)["status"] == "failed"


@pytest.mark.parametrize("mode", ["standard", "memory-efficient"])
def test_without_memory_a_run_goes_on_with_half_the_mini_batch(
    mode: str, arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A preset has no dropout: the losses are those of a run that had the memory, up to rounding."""
    from splade_bench.model.encoder import SpladeEncoder

    forward, failed = SpladeEncoder.forward, []

    def tight(encoder: SpladeEncoder, batch: Any, **keywords: Any) -> torch.Tensor:
        if encoder.training and batch.input_ids.numel() > 32 and len(failed) < 20:
            failed.append(batch.input_ids.numel())
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes")
        return forward(encoder, batch, **keywords)

    more = ["--memory-mode", mode, "--save-steps", "4"]
    assert main(arguments(*more, output="whole")) == 0
    monkeypatch.setattr(SpladeEncoder, "forward", tight)

    assert main(arguments(*more, "--on-oom", "halve")) == 0

    assert failed
    losses, wanted = record(output)["losses"], record(tmp_path / "whole")["losses"]
    assert losses == pytest.approx(wanted, rel=1e-3)
    saved = json.loads((output / "checkpoint-8" / "trainer_state.json").read_text())
    assert saved["state"]["mini_batch_tokens"] <= 32


def test_an_earlier_run_with_checkpoints_is_refused_and_can_be_replaced(
    arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments("--save-steps", "2"))

    assert main(arguments("--save-steps", "2")) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert "--resume-from-checkpoint" in complaint
    assert "--overwrite" in complaint

    assert main(arguments("--save-steps", "5", "--overwrite")) == 0
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-8"]


def test_training_needs_room_for_its_checkpoints(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 MiB are enough for the model alone (20 MiB are kept for small files), not for checkpoints too."""
    usage = type("Usage", (), {"total": 2**40, "free": 40 * 2**20, "used": 0})
    monkeypatch.setattr("splade_bench.cli.output.shutil.disk_usage", lambda path: usage)

    assert main(arguments("--save-steps", "2")) == 2
    assert "--save-total-limit 1 or --save-steps 0" in capsys.readouterr().err.splitlines()[-1]
    assert main(arguments("--save-steps", "0")) == 0


@pytest.mark.parametrize(
    "more",
    [
        ["--overwrite", "--log-dir", "curves"],
        ["--resume-from-checkpoint", "latest", "--log-dir", "curves"],
        ["--resume-from-checkpoint", "{checkpoint-4}", "--metric-for-best-model", "p@1"],
        ["--resume-from-checkpoint", "{checkpoint-4}", "--seed", "1"],
    ],
)
def test_a_refused_start_changes_nothing_of_the_earlier_run(
    more: list[str],
    arguments: Arguments,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saving = ["--save-steps", "2", "--eval-steps", "2", "--save-total-limit", "9"]
    main(arguments(*saving))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}

    def missing(*_: Any) -> None:
        raise ConfigError("--log-dir: tensorboard cannot be imported")

    monkeypatch.setattr("splade_bench.cli.training_run.TensorBoardLog", missing)
    refused = [word.replace("{checkpoint-4}", str(output / "checkpoint-4")) for word in more]

    assert main([*arguments(*saving), *refused]) == 2

    assert capsys.readouterr().err.splitlines()[-1].startswith("splade-bench train: --")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


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


def test_a_short_run_that_may_be_started_again_has_a_checkpoint(arguments: Arguments, output: Path) -> None:
    command = arguments("--resume-from-checkpoint", "latest")

    assert [main(command), main(command)] == [0, 0]

    assert record(output)["resumed_from_step"] == 8


def test_an_evaluation_without_memory_does_not_end_the_run(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def evaluated(*_: Any, **__: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return {"mrr@10": 0.5}

    monkeypatch.setattr("splade_bench.cli.training_run.evaluate", evaluated)

    assert main(arguments("--eval-steps", "4")) == 0

    assert "optimizer step 4: not evaluated: DefaultCPUAllocator" in caplog.text
    assert record(output)["best_metric"] == 0.5


def test_a_fault_is_told_even_if_what_is_complete_cannot_be_saved(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lost accelerator: nothing on it can be read any more."""
    micro_step = Trainer._micro_step

    def failing(trainer: Trainer, *rest: Any) -> Any:
        if trainer.state.global_step == 3:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return micro_step(trainer, *rest)

    def unreadable(*_: Any) -> None:
        raise RuntimeError("cannot copy")

    monkeypatch.setattr(Trainer, "_micro_step", failing)
    monkeypatch.setattr("splade_bench.training.saving.save_run", unreadable)

    assert main(arguments()) == 1

    assert "device-side assert" in capsys.readouterr().err.splitlines()[-1]
    assert "device-side assert" in record(output)["stop_reason"]


def test_a_checkpoint_without_memory_for_it_does_not_end_the_run(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("splade_bench.training.saving.save_run", without_memory)

    assert main(arguments("--save-steps", "4")) == 0

    assert record(output)["checkpoints_failed"] == 2
    assert (output / "final_model" / "model.safetensors").is_file()


def test_a_norm_without_a_limit_can_go_on(arguments: Arguments) -> None:
    more = ["--max-grad-norm", "inf", "--save-steps", "4"]
    main(arguments(*more))

    assert main(arguments(*more, "--resume-from-checkpoint")) == 0


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


def test_the_record_of_a_run_that_is_killed_says_that_it_was_running(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(arguments())
    seen: list[Any] = []

    def looked(trainer: Trainer, *_: Any) -> None:
        seen.append(record(output))
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_micro_step", looked)

    assert main(arguments("--overwrite", "--seed", "7")) == 130

    assert (seen[0]["status"], seen[0]["config"]["seed"], seen[0]["model_folder"]) == ("running", 7, None)


def test_a_link_to_a_folder_is_an_output_folder(arguments: Arguments, output: Path, tmp_path: Path) -> None:
    """As people keep large files on another disk."""
    (tmp_path / "elsewhere").mkdir()
    output.symlink_to(tmp_path / "elsewhere")

    assert main(arguments("--save-steps", "2")) == 0

    assert (tmp_path / "elsewhere" / "final_model" / "model.safetensors").is_file()
    assert main(arguments("--save-steps", "2", "--resume-from-checkpoint")) == 0


def test_a_name_that_is_not_text_is_refused_before_the_training(
    arguments: Arguments, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments("--output-dir", str(tmp_path / "o\udcff"))) == 2

    assert "--output-dir: its name is not valid UTF-8" in capsys.readouterr().err


def test_an_output_folder_that_was_deleted_is_made_again(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    micro_step = Trainer._micro_step

    def deleting(trainer: Trainer, *rest: Any) -> Any:
        if trainer.state.global_step == 5:
            shutil.rmtree(output, ignore_errors=True)
        return micro_step(trainer, *rest)

    monkeypatch.setattr(Trainer, "_micro_step", deleting)

    assert main(arguments("--save-steps", "2")) == 0

    assert (output / "final_model" / "model.safetensors").is_file()


def test_json_is_printed_of_a_run_that_failed(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: Any) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(Trainer, "_micro_step", lost)

    assert main(arguments("--json")) == 1

    assert json.loads(capsys.readouterr().out)["status"] == "failed"


def test_the_optimizers_step_that_failed_midway_is_not_saved(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = torch.optim.AdamW.step
    steps: list[int] = []

    def failing(optimizer: torch.optim.AdamW, closure: None = None) -> None:
        steps.append(1)
        update(optimizer)
        if len(steps) == 6:
            raise RuntimeError("device lost")

    monkeypatch.setattr(torch.optim.AdamW, "step", failing)

    assert main(arguments("--save-steps", "4")) == 1

    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-4"]


def test_auto_fit_goes_on_with_the_settings_that_it_chose(
    arguments: Arguments, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splade_bench.cli import train

    chosen: list[Sequence[str]] = []

    def fitted(command: Any, *_: Any, device_type: str) -> Any:
        chosen.append([])
        return command.config

    monkeypatch.setattr(train, "_fitted_config", fitted)
    main(arguments("--save-steps", "4", "--auto-fit"))

    assert main(arguments("--save-steps", "4", "--auto-fit", "--resume-from-checkpoint", "latest")) == 0

    assert len(chosen) == 1

"""Runs that fail: what is kept, what is told, and what ends nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from output_folders import Arguments, record

from splade_bench.cli import main
from splade_bench.training.checkpoints import Checkpoint
from splade_bench.training.losses import SpladeLoss
from splade_bench.training.optimizer import WindowedAdamW
from splade_bench.training.trainer import Trainer


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
    with_gradient, calls = SpladeLoss.with_gradient, []

    def poisoned(loss: SpladeLoss, reps: torch.Tensor, queries: int, **keywords: Any) -> Any:
        calls.append(1)
        factor = float("nan") if len(calls) == 6 else 1.0
        return with_gradient(loss, reps * factor, queries, **keywords)

    monkeypatch.setattr(SpladeLoss, "with_gradient", poisoned)

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


def test_training_needs_room_for_its_checkpoints(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 MiB are enough for the model alone (20 MiB are kept for small files), not for checkpoints too."""
    usage = type("Usage", (), {"total": 2**40, "free": 40 * 2**20, "used": 0})
    monkeypatch.setattr("splade_bench.cli.output.shutil.disk_usage", lambda path: usage)

    assert main(arguments("--save-steps", "2")) == 2
    assert "--save-total-limit 1 or --save-steps 0" in capsys.readouterr().err.splitlines()[-1]
    assert main(arguments("--save-steps", "0")) == 0


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

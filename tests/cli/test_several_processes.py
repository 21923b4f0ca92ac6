"""What ``splade-bench train`` says in a process that is not rank 0, without the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from output_folders import Arguments

from splade_bench.cli import main
from splade_bench.cli.several_processes import Begun
from splade_bench.cli.sources import corpus_of
from splade_bench.cli.train import TrainCommand
from splade_bench.cli.train_command import parse_train_command
from splade_bench.distributed.group import RankError
from splade_bench.distributed.launch import Launch
from splade_bench.distributed.simulated import SimulatedGroup


class Leader(SimulatedGroup):
    """Rank 0 of 2. The other ends before it has read its model."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        raise RankError("rank 1: it cannot be read")

    def __enter__(self) -> Leader:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Follower(SimulatedGroup):
    """Rank 1 of 2. Rank 0 gives all flags, and what was begun."""

    def __init__(self, begun: Begun) -> None:
        super().__init__(1, 2)
        self._begun = begun

    def gather_objects(self, value: Any) -> list[Any]:
        return [value or self._begun] * self.size

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def follower(arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Runs the verb as rank 1, and returns the exit code."""
    loggers = [logging.getLogger(), logging.getLogger("splade_bench")]
    levels = [logger.level for logger in loggers]
    command = parse_train_command(TrainCommand, arguments()[1:], verb="train")
    begun = Begun(config=command.config, checkpoint=None, corpus_sha256=corpus_of(command).sha256)
    launch = Launch(1, 2, 1, "localhost", 29500)
    monkeypatch.setattr("splade_bench.cli.several_processes.launch_of", lambda: launch)
    monkeypatch.setattr("splade_bench.distributed.joining.LaunchedGroup", lambda *_, **__: Follower(begun))
    yield lambda: main(arguments())
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize(
    ("error", "code", "begins", "ends"),
    [
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            1,
            "rank 1: out of memory during an optimizer step (batch of ",
            "; run splade-bench fit with these flags and a --budget to find settings that fit, or --optimizer-states "
            "disk or --activation-checkpointing; in a new run, a smaller --max-length or --batch-size",
        ),
        (OSError(28, "No space left on device"), 1, "rank 1: ", "No space left on device"),
        (ValueError("odd"), 70, "internal error: ValueError: rank 1: odd (", ""),
    ],
)
def test_a_failure_names_its_rank(
    error: Exception,
    code: int,
    begins: str,
    ends: str,
    follower: Callable[[], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("splade_bench.model.encoder.SpladeEncoder.forward", failing)

    assert follower() == code

    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith(f"splade-bench train: {begins}")
    assert complaint.endswith(ends)


def test_a_rank_that_cannot_begin_leaves_the_run_that_would_be_overwritten(
    arguments: Arguments, output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (output / "checkpoint-4").mkdir(parents=True)
    monkeypatch.setattr("splade_bench.cli.several_processes.launch_of", lambda: Launch(0, 2, 0, "localhost", 29500))
    monkeypatch.setattr("splade_bench.distributed.joining.LaunchedGroup", lambda *_, **__: Leader())

    assert main(arguments("--overwrite")) == 1

    assert capsys.readouterr().err.splitlines()[-1] == "splade-bench train: rank 1: it cannot be read"
    assert (output / "checkpoint-4").is_dir()


@pytest.mark.parametrize("flag", [["--processes", "2"], ["--processes=2"]])
def test_the_flag_of_plan_is_refused_with_the_launcher_to_use(
    flag: Sequence[str], arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(*flag)) == 2
    assert "torchrun --nproc-per-node N -m splade_bench train" in capsys.readouterr().err

"""A training for which nothing is named is fitted to the free memory, if that takes a small share of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from splade_bench.cli import main, memory_settings
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device.settings import SETTINGS
from splade_bench.errors import TrainingError
from splade_bench.memory_modes import MemoryConfig
from splade_bench.model.presets import build_preset
from splade_bench.planner import free_memory
from splade_bench.planner.fitting import TimeLimit
from splade_bench.planner.free_memory import optimizer_steps, why_not_to_fit
from splade_bench.planner.process import Fitted
from splade_bench.planner.rehearsal import Lengths
from splade_bench.planner.requests import PlanRequest, sized
from splade_bench.planner.trials import SearchEnded
from splade_bench.training.trainer import Trainer
from splade_bench.units import format_bytes

TRIPLE = Triple(query="how to read a file", positive="open reads a file", negatives=("sorted sorts a list",))
GIB = 2**30
CHOSEN = {"mini_batch_tokens": 48, "activation_memory": "all"}


def arguments(train_file: Path, output: Path, *more: str) -> list[str]:
    sizes = ["--model-name", "toy", "--device", "cpu", "--max-length", "16", "--batch-size", "2", "--max-steps", "2"]
    return ["train", "--train-file", str(train_file), "--output-dir", str(output), *sizes, *more]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[PlanRequest]:
    """What was planned: each training is worth a plan, and every plan chooses the same."""
    seen: list[PlanRequest] = []

    def fitted(request: PlanRequest) -> Fitted:
        seen.append(request)
        memory = replace(request.config.memory, **CHOSEN)
        return Fitted(replace(request.config, memory=memory), "what the test wants")

    monkeypatch.setattr(memory_settings, "why_not_to_fit", lambda *_: None)
    monkeypatch.setattr(memory_settings, "fitted_training", fitted)
    monkeypatch.setattr(free_memory, "fitted_training", fitted)
    return seen


def memory_of(output: Path) -> dict[str, object]:
    record = json.loads((output / "run.json").read_text(encoding="utf-8"))
    return dict(record["config"]["memory"])


def test_a_training_is_fitted_to_the_free_memory(
    train_file: Path, tmp_path: Path, requests: list[PlanRequest], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(arguments(train_file, tmp_path / "out")) == 0

    (request,) = requests
    assert request.budget_bytes is not None
    assert request.limit is not None
    assert (request.limit.share, request.limit.optimizer_steps) == (0.03, 2)
    assert not request.allow_inexact
    assert memory_of(tmp_path / "out").items() >= CHOSEN.items()
    assert "settings: what the test wants, the fastest found for the " in caplog.text
    assert "splade-bench train --no-auto-fit" in caplog.text


@pytest.mark.parametrize(
    "flags", [["--memory-mode", "memory-efficient"], ["--no-trim-heap"], ["--mini-batch-tokens=64"], ["--no-auto-fit"]]
)
def test_a_named_mode_or_memory_setting_is_left_alone(
    flags: list[str], train_file: Path, tmp_path: Path, requests: list[PlanRequest]
) -> None:
    assert main(arguments(train_file, tmp_path / "out", *flags)) == 0

    assert requests == []


@pytest.mark.parametrize("flags", [["--auto-fit"], ["--budget", "3GiB"], ["--auto-fit", "--no-trim-heap"]])
def test_who_asks_gets_a_search_without_a_time_limit(
    flags: list[str], train_file: Path, tmp_path: Path, requests: list[PlanRequest]
) -> None:
    assert main(arguments(train_file, tmp_path / "out", *flags)) == 0

    (request,) = requests
    assert request.limit is None
    if "--budget" in flags:
        assert request.budget_bytes == 3 * 2**30


@pytest.mark.parametrize("flags", [["--budget", "3GiB"], ["--allow-inexact"]])
def test_a_flag_of_a_fit_contradicts_its_absence(
    flags: list[str], train_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(train_file, tmp_path / "out", "--no-auto-fit", *flags)) == 2

    assert capsys.readouterr().err.splitlines()[-1] == (
        f"splade-bench train: {flags[0]} has no effect with --no-auto-fit; remove one of the two"
    )


def test_a_resumed_training_keeps_the_settings_that_were_found(
    train_file: Path, tmp_path: Path, requests: list[PlanRequest]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(train_file, out, "--save-steps", "1")) == 0
    again = arguments(train_file, out, "--save-steps", "1", "--resume-from-checkpoint")
    again[again.index("--max-steps") + 1] = "3"

    assert main(again) == 0

    assert len(requests) == 1, "it is not planned again"
    assert memory_of(out).items() >= CHOSEN.items()


def test_where_nothing_is_found_the_defaults_are_used(
    train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(request: PlanRequest) -> Fitted:
        raise TrainingError("there was no time for a plan")

    monkeypatch.setattr(memory_settings, "why_not_to_fit", lambda *_: None)
    monkeypatch.setattr(free_memory, "fitted_training", failing)

    assert main(arguments(train_file, tmp_path / "out")) == 0

    assert "settings: as given: no others were found: there was no time for a plan" in caplog.text
    assert memory_of(tmp_path / "out")["activation_memory"] == "none"


@pytest.mark.parametrize(("steps", "fits"), [(1, False), (10**9, True)])
def test_only_a_long_training_is_worth_a_search(steps: int, fits: bool) -> None:
    encoder = build_preset("toy", train_tokenizer((), vocab_size=512), seed=0)
    config = TrainConfig(max_length=64, max_steps=steps)

    reason = why_not_to_fit(config, [TRIPLE] * 16, encoder)

    assert (reason is None) == fits
    if reason:
        assert "too short for a search of 12 s" in reason


@pytest.mark.parametrize(
    ("free_bytes", "memory", "tokens"),
    [
        (8 * GIB, MemoryConfig(), int(0.2 * 8 * GIB) // (44 * 1536)),
        (80 * GIB, MemoryConfig(), 65536),
        (GIB // 64, MemoryConfig(), 1024),
        (8 * GIB, MemoryConfig(mini_batch_tokens=7), None),
        (8 * GIB, MemoryConfig(mini_batch_size=3), None),
        (8 * GIB, MemoryConfig(gradient_caching=False), None),
        (None, MemoryConfig(), None),
    ],
)
def test_on_an_accelerator_mini_batches_suit_the_free_memory(
    free_bytes: int | None, memory: MemoryConfig, tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SimpleNamespace(device=torch.device("cuda"), body_size=1536)
    monkeypatch.setattr(free_memory, "_available_bytes", lambda device: free_bytes)
    config = TrainConfig(memory=memory)

    fitted = free_memory.sized_for_free_memory(config, encoder)  # type: ignore[arg-type]

    if tokens is None:
        assert fitted is None
    else:
        assert fitted is not None and free_bytes is not None
        assert fitted.config == replace(config, memory=replace(memory, mini_batch_tokens=tokens))
        assert fitted.settings == f"mini-batches of {tokens} tokens for the {format_bytes(free_bytes)} that are free"


@pytest.mark.parametrize("more", [[], ["--no-attention-dropout"]])
def test_a_run_that_goes_on_on_an_accelerator_keeps_its_mini_batches(
    more: list[str],
    train_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    requests: list[PlanRequest],
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The CPU takes the part of an accelerator.
    monkeypatch.setattr(memory_settings, "_is_accelerator", lambda device_type: True)
    monkeypatch.setattr("splade_bench.device.settings.SETTINGS", {"cpu": SETTINGS["cuda"]})
    monkeypatch.setattr(free_memory, "_available_bytes", lambda device: 2**24)
    out = tmp_path / "out"
    assert main(arguments(train_file, out, "--save-steps", "1", *more)) == 0
    tokens = memory_of(out)["mini_batch_tokens"]
    assert isinstance(tokens, int) and 1024 < tokens < 65536
    assert f"settings: mini-batches of {tokens} tokens for the 16 MiB that are free" in caplog.text

    monkeypatch.setattr(free_memory, "_available_bytes", lambda device: 2**25)
    again = arguments(train_file, out, "--save-steps", "1", "--resume-from-checkpoint", *more)
    again[again.index("--max-steps") + 1] = "3"
    assert main(again) == 0

    assert memory_of(out)["mini_batch_tokens"] == tokens
    assert requests == [], "no search is made"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_plan_has_the_mini_batches_of_a_training_whose_budget_is_free(device: str) -> None:
    def planned(budget_bytes: int | None, memory: MemoryConfig) -> PlanRequest:
        config = TrainConfig(memory=memory)
        lengths = Lengths.full(config)
        request = PlanRequest(
            model_name="toy",
            config=config,
            device_type=device,
            budget_bytes=budget_bytes,
            lengths=lengths,
            active_share=0.01,
        )
        return sized(request)

    tokens = [planned(size, MemoryConfig()).config.memory.mini_batch_tokens for size in (None, GIB // 16, GIB)]
    named = MemoryConfig(mini_batch_tokens=7)

    assert tokens[0] is None
    assert 1024 <= tokens[1] < tokens[2] <= 65536
    assert planned(GIB, named).config.memory == named


def test_on_a_cpu_a_plan_has_the_default_mini_batches() -> None:
    config = TrainConfig()
    request = PlanRequest(
        model_name="toy",
        config=config,
        device_type="cpu",
        budget_bytes=GIB,
        lengths=Lengths.full(config),
        active_share=0.01,
    )

    assert sized(request) == request


def test_steps_are_counted_as_the_trainer_counts_them() -> None:
    assert optimizer_steps(TrainConfig(batch_size=2, gradient_accumulation_steps=3, epochs=2), [TRIPLE] * 16) == 6
    assert optimizer_steps(TrainConfig(max_steps=5), [TRIPLE]) == 5

    encoder = build_preset("toy", train_tokenizer((), vocab_size=512), seed=0)
    for count in (15, 16, 17):  # the last batch and the last step may be smaller
        config = TrainConfig(batch_size=4, gradient_accumulation_steps=2, max_length=16, epochs=3)
        triples = [TRIPLE] * count
        assert optimizer_steps(config, triples) == Trainer(encoder, triples, config).state.max_steps


@pytest.mark.parametrize(
    ("step_times_s", "longest_plan_s", "ends"),
    [([], 5.0, False), ([10.0], 1.0, False), ([10.0], 31.0, True), ([10.0, 0.1], 1.0, True)],
)
def test_a_search_ends_at_its_share_of_the_training(
    step_times_s: list[float], longest_plan_s: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splade_bench.planner.fitting.time.time", lambda: 1000.0)
    limit = TimeLimit(share=0.03, at_most_s=60.0, optimizer_steps=100, started_at_s=1000.0)

    if ends:
        with pytest.raises(SearchEnded):
            limit.check(step_times_s, longest_plan_s)
    else:
        limit.check(step_times_s, longest_plan_s)


def test_a_search_ends_after_its_most_seconds() -> None:
    limit = TimeLimit(share=0.03, at_most_s=60.0, optimizer_steps=10**9, started_at_s=0.0)

    with pytest.raises(SearchEnded):
        limit.check([10.0], 0.0)

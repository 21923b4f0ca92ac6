"""Real cells in real processes: small, but complete."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splade_bench.bench.calls import CallRunner
from splade_bench.bench.cells import CellRunner
from splade_bench.bench.isolate import WorkerError, result_of
from splade_bench.bench.progress import Progress
from splade_bench.bench.protocol import MEMORY_PASSES, CellRequest
from splade_bench.bench.session import MeasuringSession
from splade_bench.grid.cell import Cell
from splade_bench.memory_modes import MemoryConfig
from splade_bench.results.records import read_results


def make_cell(**changes: object) -> Cell:
    values = {"workload": "head", "device": "cpu", "batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 2}
    return Cell(**values | {"memory_mode": "memory-efficient"} | changes)  # type: ignore[arg-type]


@pytest.fixture
def runner(cache: Path) -> CellRunner:
    return CellRunner(cache=cache, timeout_s=120)


@pytest.mark.slow
def test_a_cell_has_all_figures(runner: CellRunner) -> None:
    with runner.start(make_cell(workload="tiny", batch_size=4, max_steps=3)) as run:
        run.wait_until_ready()
        run.train()
        result = run.finish()

    assert result.status == "ok", result.error
    assert result.optimizer_steps == len(result.losses or []) == 3
    assert result.queries_seen == 12
    assert result.wall_time_s and result.step_time_s
    assert result.step_time_min_s and result.step_time_max_s
    assert result.step_time_min_s <= result.step_time_s <= result.step_time_max_s < result.wall_time_s
    assert result.baseline_rss_bytes and result.peak_rss_bytes
    assert result.peak_rss_bytes > result.baseline_rss_bytes + 10 * 2**20
    assert result.memray_peak_bytes
    assert 2**20 < result.memray_peak_bytes < result.peak_rss_bytes
    assert result.validation_loss
    assert result.metrics and result.metrics_before
    for name in ("mrr@10", "p@1", "ndcg@10", "recall@100", "query_active_dims", "document_active_dims"):
        assert name in result.metrics
    assert result.metrics_before["mrr@10"] >= 0.2
    assert result.cpu_time_s and result.cpu_time_s > 0.1 * result.wall_time_s
    assert result.gemm_flops_per_s and result.gemm_flops_per_s > 1e8
    assert sys.platform != "linux" or result.others_cpu_time_s is not None
    assert result.device_peak_allocated_bytes is None
    assert result.live_peak_bytes and result.memray_top_sites
    assert result.corpus_sha256 and result.source_tree and result.machine["threads"] and result.versions["torch"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_has_a_status_of_its_own(
    runner: CellRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import splade_bench.training.losses as losses\n"
        "scores = losses.scores\n"
        "def planted(queries, documents):  # the warm-up's toy is spared\n"
        "    return scores(queries, documents) * (float('nan') if queries.shape[1] > 1000 else 1)\n"
        "losses.scores = planted\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    with runner.start(make_cell()) as run:
        run.wait_until_ready()
        with pytest.raises(WorkerError):
            run.train()
        result = run.finish()

    assert result.status == "nan"
    assert "--learning-rate" in str(result.error)
    assert result.phase == "backward"
    assert result.peak_rss_bytes
    assert result.memray_peak_bytes is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
def test_a_cell_over_its_memory_limit_is_oom_with_the_size_of_the_failed_allocation(runner: CellRunner) -> None:
    cell = make_cell(memory_mode="standard", batch_size=8, memory_limit_bytes=2**20)
    # The runtime's own memory differs between machines: leave room for the model, less than one tensor of its logits.
    limit_bytes = (runner.floor_bytes(cell) // 2**20 + 96) * 2**20
    with runner.start(replace(cell, memory_limit_bytes=limit_bytes)) as run:
        run.wait_until_ready()
        with pytest.raises(WorkerError):
            run.train()
        result = run.finish()

    assert result.status == "oom", result.error
    assert result.phase in ("forward", "loss", "backward", "optimizer_step")
    assert "allocate" in str(result.error)
    assert result.failed_allocation_bytes
    assert result.failed_allocation_bytes > 2**20
    assert result.peak_rss_bytes
    assert result.peak_rss_bytes <= 1.03 * limit_bytes
    assert result.cell_id.endswith(f"-limit{limit_bytes // 2**20}MiB")


@pytest.mark.slow
def test_each_part_of_a_cell_is_shown_while_it_runs(cache: Path) -> None:
    seen: list[Progress | None] = []
    runner = CellRunner(cache=cache, timeout_s=120, memory_passes=("live",), on_progress=seen.append)
    with runner.start(make_cell()) as run:
        run.wait_until_ready()
        run.train()
        result = run.finish()

    *shown, last = seen
    assert last is None
    parts = [progress.doing for progress in shown if progress and not progress.step]
    assert parts == ["prepares its texts", "starts", "trains", "evaluates", "live pass"]
    step = next(progress for progress in shown if progress and progress.step)
    assert result.losses and result.peak_rss_bytes
    assert (step.step, step.steps, step.loss) == (1, 2, result.losses[0])
    assert step.rss_bytes and 100 * 2**20 < step.rss_bytes <= 1.01 * result.peak_rss_bytes
    assert step.left_s


def test_the_floor_of_a_memory_limit_is_the_memory_of_a_worker_without_a_model(runner: CellRunner) -> None:
    floor_bytes = runner.floor_bytes(make_cell(memory_limit_bytes=1))

    assert 100 * 2**20 < floor_bytes < 2**30


def test_a_missing_device_is_an_error(runner: CellRunner) -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device that the test needs to be missing")
    with runner.start(make_cell(device="mps")) as run:
        with pytest.raises(WorkerError):
            run.wait_until_ready()
        result = run.finish()

    assert result.status == "error"
    assert "--device mps" in str(result.error)


@pytest.mark.slow
def test_each_memory_pass_runs_alone() -> None:
    measured: dict[str, Any] = {}
    for name in MEMORY_PASSES:
        measured |= result_of(CellRequest(cell=make_cell(), measure=name), timeout_s=120)

    assert measured["memray_peak_bytes"] > 2**20
    assert "splade_bench/" in measured["memray_top_sites"][0]["site"]
    assert measured["live_peak_bytes"] == sum(measured["live_peak_by_category"].values())
    assert measured["live_peak_by_category"]["optimizer"] == pytest.approx(
        2 * measured["live_peak_by_category"]["parameters"], rel=0.01
    )
    pinned_bytes = measured["pinned_peak_rss_bytes"] - measured["pinned_baseline_rss_bytes"]
    # The plan assumes that 1 % of the entries are active; of this model's, untrained, fewer are.
    assert measured["planned_live_peak_bytes"] == pytest.approx(measured["live_peak_bytes"], rel=0.01)
    planned_bytes = measured["planned_peak_rss_bytes"] - measured["planned_baseline_rss_bytes"]
    assert measured["live_peak_bytes"] < planned_bytes < 2 * measured["live_peak_bytes"]
    assert 0.9 * measured["live_peak_bytes"] < pinned_bytes < 2 * measured["live_peak_bytes"]


@pytest.mark.slow
def test_a_cell_with_a_budget_trains_with_what_fit_chooses_for_it(runner: CellRunner) -> None:
    cell = make_cell(workload="plan-bert-tiny-32", batch_size=2, memory_budget_bytes=2**30)
    runner = replace(runner, memory_passes=())

    with runner.start(cell) as run:
        run.wait_until_ready()
        run.train()
        result = run.finish()

    assert result.status == "ok", result.error
    assert result.memory_settings and result.planned_peak_rss_bytes and result.peak_rss_bytes
    memory = MemoryConfig(**result.memory_settings)
    assert memory != cell.train_config.memory
    assert memory.activation_memory == "all", "there is room for it"
    assert run.request.memory == result.memory_settings
    assert result.planned_peak_rss_bytes < result.memory_budget_bytes == 2**30
    assert result.peak_rss_bytes <= 2**30
    with runner.start(replace(cell, round=2)) as again:  # without another search
        assert again.request.memory == run.request.memory


@pytest.mark.slow
def test_a_cell_whose_budget_nothing_fits_has_run_out_of_memory(cache: Path, tmp_path: Path) -> None:
    session = MeasuringSession(
        results_path=tmp_path / "results.jsonl",
        cells=CellRunner(cache=cache, timeout_s=120),
        calls=CallRunner(timeout_s=120),
    )
    cell = make_cell(workload="plan-bert-tiny-32", batch_size=1, memory_budget_bytes=2**20)

    result = session.measure(cell, lambda run: run.train())

    assert (result.status, result.phase) == ("oom", "fit")
    assert str(result.error).startswith("nothing fits in 1 MiB. The smallest plan takes")
    assert result.memory_settings is None
    assert read_results([tmp_path / "results.jsonl"]) == [result]


@pytest.mark.slow
def test_a_timeline_is_recorded_on_request(cache: Path) -> None:
    runner = CellRunner(cache=cache, timeout_s=120, memory_passes=(), memory_timeline=True)
    with runner.start(make_cell(max_steps=4)) as run:
        run.wait_until_ready()
        run.train()
        result = run.finish()

    assert result.memory_timeline and result.sampled_peak_rss_bytes and result.peak_rss_bytes
    assert {sample["phase"] for sample in result.memory_timeline} >= {"forward", "backward"}
    assert max(sample["rss_bytes"] for sample in result.memory_timeline) == result.sampled_peak_rss_bytes
    # Linux counts pages on each processor and adds them up now and then, so that two readings of one moment differ: on
    # a busy machine the largest sample was 352 KiB above the mark.
    assert 0.9 * result.peak_rss_bytes < result.sampled_peak_rss_bytes <= 1.01 * result.peak_rss_bytes
    assert result.sampler_cpu_time_s and result.cpu_time_s and result.sampler_cpu_time_s < result.cpu_time_s
    assert result.memray_peak_bytes is None

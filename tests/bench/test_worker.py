"""Real cells in real processes: small, but the whole way."""

from __future__ import annotations

from pathlib import Path

import pytest

from splade_bench.bench.isolate import CellError, WorkerProcess
from splade_bench.bench.protocol import Request
from splade_bench.bench.run import CellRunner
from splade_bench.cell import Cell


def make_cell(**changes: object) -> Cell:
    values = {"workload": "head", "device": "cpu", "batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 2}
    return Cell(**values | {"memory_mode": "memory-efficient"} | changes)  # type: ignore[arg-type]


@pytest.fixture
def runner(cache: Path) -> CellRunner:
    return CellRunner(cache=cache, timeout_s=120)


def test_a_cell_is_measured_on_its_way_through_a_process(runner: CellRunner) -> None:
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
    assert result.corpus_sha256 and result.source_tree and result.machine["threads"] and result.versions["torch"]


def test_a_loss_that_is_not_finite_is_a_row_of_its_own(
    runner: CellRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import splade_bench.losses as losses\n"
        "contrastive = losses.contrastive_loss\n"
        "def planted(queries, documents):  # the warm-up's toy is spared\n"
        "    return contrastive(queries, documents) * (float('nan') if queries.shape[1] > 1000 else 1)\n"
        "losses.contrastive_loss = planted\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    with runner.start(make_cell()) as run:
        run.wait_until_ready()
        with pytest.raises(CellError):
            run.train()
        result = run.finish()

    assert result.status == "nan"
    assert "--learning-rate" in str(result.error)
    assert result.phase == "backward"
    assert result.peak_rss_bytes
    assert result.memray_peak_bytes is None


def test_a_cell_without_memory_is_oom_with_the_allocators_words(
    runner: CellRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The limit is set when training begins, as it is never safe before the imports."""
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\n"
        "from splade_bench.training import trainer\n"
        "train = trainer.Trainer.train\n"
        "def limited(self):\n"
        "    if self.encoder.vocab_size > 1000:\n"
        "        data = next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmData'))\n"
        "        limit = data * 1024 + 64 * 2**20\n"
        "        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))\n"
        "    return train(self)\n"
        "trainer.Trainer.train = limited\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    with runner.start(make_cell(memory_mode="standard", batch_size=8)) as run:
        run.wait_until_ready()
        with pytest.raises(CellError):
            run.train()
        result = run.finish()

    assert result.status == "oom", result.error
    assert result.phase in ("forward", "backward", "optimizer_step")
    assert "allocate" in str(result.error)


def test_a_device_that_is_not_here_is_an_error_row(runner: CellRunner) -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device that the test needs to be missing")
    with runner.start(make_cell(device="mps")) as run:
        with pytest.raises(CellError):
            run.wait_until_ready()
        result = run.finish()

    assert result.status == "error"
    assert "--device mps" in str(result.error)


def test_the_heap_pass_runs_alone(runner: CellRunner) -> None:
    with WorkerProcess(Request(cell=make_cell(), measure="heap", corpus_folder=None), timeout_s=120) as process:
        measured = process.wait_for("result")

    assert measured["memray_peak_bytes"] > 2**20

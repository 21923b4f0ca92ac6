"""``splade-bench train`` in several processes: as one, resumed, and with a rank that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from launched import Launched
from safetensors.torch import load_file
from tokenizers import Tokenizer

from splade_bench.cli import main
from splade_bench.data.records import Triple
from splade_bench.model.presets import build_preset
from splade_bench.training.checkpoints import Checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")]
# A rank that is silent for so long ends the others; they need some seconds more to find out who it was.
TIMEOUT_S, PATIENCE_S = 5, 40


@pytest.fixture
def make_flags(tmp_path: Path, tokenizer: Tokenizer, triples: Sequence[Triple]) -> Callable[..., list[object]]:
    """Flags of a training on a file, of a model with so much dropout."""
    data = tmp_path / "train.jsonl"
    records = (
        {"query": triple.query, "positive_document": triple.positive, "negative_documents": list(triple.negatives)}
        for triple in triples
    )
    data.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")

    def make(output: str, *more: object, dropout: float = 0.0) -> list[object]:
        model = tmp_path / f"model-{dropout}"
        if not model.exists():
            build_preset("toy", tokenizer, seed=0, dropout=dropout).save_pretrained(model)
        named = ["--model-name", model, "--train-file", data, "--output-dir", tmp_path / output, "--device", "cpu"]
        return [*named, "--max-length", 16, "--learning-rate", 1e-3, *more]

    return make


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "final_model" / "model.safetensors")


def record_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "run.json").read_text())
    return found


def test_torchrun_trains_what_one_process_trains_and_one_rank_writes(
    make_flags: Callable[..., list[object]], tmp_path: Path
) -> None:
    flags = ["--max-steps", 6, "--save-steps", 3, "--loss", "contrastive+0.1*margin"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    made = subprocess.run(
        [*launch, "-m", "splade_bench", "train", *map(str, make_flags("two", *flags))],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert main(["train", *map(str, make_flags("one", *flags))]) == 0

    assert made.returncode == 0, made.stderr
    assert made.stderr.count("on cpu: 32 queries") == made.stdout.count("trained ") == 1
    two, one = record_of(tmp_path / "two"), record_of(tmp_path / "one")
    assert (two["processes"], one["processes"]) == (2, 1)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    vectors = two["config"]["batch_size"] // 2 * 3  # of a rank: query, positive, negative
    assert two["exchanged_bytes"] == 6 * 4 * vectors * 512, "vectors and their gradients, half of each, in 6 steps"
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )
    Checkpoint.at(tmp_path / "two" / "checkpoint-6").verify()
    steps = [json.loads(line)["step"] for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_resumed_run_is_the_same_to_the_bit_with_dropout(
    make_flags: Callable[..., list[object]], tmp_path: Path
) -> None:
    flags = ["--max-steps", 6, "--save-steps", 2, "--save-total-limit", 9]
    with Launched(tmp_path, 2, make_flags("whole", *flags, dropout=0.2)) as whole:
        assert whole.wait() == [0, 0], whole.messages(0) + whole.messages(1)
    resume = ["--resume-from-checkpoint", tmp_path / "whole" / "checkpoint-2"]

    with Launched(tmp_path, 2, make_flags("resumed", *flags, *resume, dropout=0.2)) as resumed:
        assert resumed.wait() == [0, 0], resumed.messages(0) + resumed.messages(1)

    assert record_of(tmp_path / "resumed")["losses"] == record_of(tmp_path / "whole")["losses"]
    theirs = weights_of(tmp_path / "whole")
    assert all(torch.equal(weight, theirs[name]) for name, weight in weights_of(tmp_path / "resumed").items())


def test_a_checkpoint_of_two_processes_is_resumed_by_one(
    make_flags: Callable[..., list[object]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["--max-steps", 6, "--save-steps", 2, "--save-total-limit", 9]
    with Launched(tmp_path, 2, make_flags("two", *flags)) as two:
        assert two.wait() == [0, 0], two.messages(0) + two.messages(1)
    resume = ["--resume-from-checkpoint", tmp_path / "two" / "checkpoint-2"]

    assert main(["train", *map(str, make_flags("one", *flags, *resume))]) == 0

    assert "processes 2 -> 1" in caplog.text
    assert record_of(tmp_path / "one")["losses"] == pytest.approx(record_of(tmp_path / "two")["losses"], abs=1e-6)
    theirs = weights_of(tmp_path / "two")
    for name, weight in weights_of(tmp_path / "one").items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-6)


# A rank 0 that was stopped answers no question about who is there.
@pytest.mark.parametrize(("fault", "rank"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 0)])
def test_a_rank_that_dies_or_hangs_is_named_and_every_checkpoint_is_sound(
    make_flags: Callable[..., list[object]], tmp_path: Path, fault: signal.Signals, rank: int
) -> None:
    output = tmp_path / "run"
    flags = make_flags("run", "--epochs", 200, "--save-steps", 2, "--process-timeout-s", TIMEOUT_S)
    with Launched(tmp_path, 2, flags) as run:
        run.wait_for(output / "checkpoint-2")
        run.processes[rank].send_signal(fault)
        start_s = time.monotonic()
        code = run.processes[1 - rank].wait(PATIENCE_S)

        assert time.monotonic() - start_s < PATIENCE_S
        assert code == 1
        assert f"rank {rank}" in run.messages(1 - rank).splitlines()[-1]
    for path in output.glob("checkpoint-*"):
        Checkpoint.at(path).verify()


def test_torchrun_starts_a_run_again_whose_rank_was_killed(
    make_flags: Callable[..., list[object]], tmp_path: Path
) -> None:
    output, log = tmp_path / "run", tmp_path / "log"
    flags = make_flags("run", "--max-steps", 40, "--save-steps", 2, "--resume-from-checkpoint", "latest")
    launch = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m", "splade_bench", "train"]
    command = [sys.executable, "-m", "torch.distributed.run", *launch, *map(str, flags)]
    with log.open("w") as file:
        torchrun = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=file, stderr=file)
    try:
        while not (output / "checkpoint-2").exists():
            assert torchrun.poll() is None, log.read_text()
            time.sleep(0.02)
        ranks = psutil.Process(torchrun.pid).children(recursive=True)
        next(process for process in ranks if process.environ().get("RANK") == "1").kill()
        code = torchrun.wait(3 * PATIENCE_S)
    finally:
        torchrun.terminate()  # it ends the ranks too

    assert code == 0, log.read_text()
    record = record_of(output)
    assert record["resumed_from_step"] < record["optimizer_steps"] == 40


def test_a_signal_stops_all_ranks_and_the_run_goes_on_where_it_was(
    make_flags: Callable[..., list[object]], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    flags = make_flags("run", "--epochs", 200, "--save-steps", 2, "--resume-from-checkpoint", "latest")
    with Launched(tmp_path, 2, flags) as run:
        run.wait_for(output / "checkpoint-2")
        run.processes[1].terminate()  # it asks the other one
        assert run.wait() == [0, 128 + signal.SIGTERM], run.messages(0) + run.messages(1)
    first = record_of(output)
    assert first["status"] == "interrupted"
    step = first["optimizer_steps"]
    Checkpoint.at(output / f"checkpoint-{step}").verify()

    with Launched(tmp_path, 2, flags) as resumed:
        resumed.wait_for(output / f"checkpoint-{step + 2 - step % 2}")
        for process in resumed.processes:
            process.terminate()
        assert resumed.wait() == [128 + signal.SIGTERM] * 2, resumed.messages(0) + resumed.messages(1)
    assert record_of(output)["resumed_from_step"] == step


def test_sharded_moments_are_saved_at_a_signal_and_lost_with_a_rank(
    make_flags: Callable[..., list[object]], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    sharded = ["--optimizer-states", "sharded", "--resume-from-checkpoint", "latest"]
    flags = make_flags("run", *sharded, "--epochs", 200, "--save-steps", 5, "--process-timeout-s", TIMEOUT_S)
    with Launched(tmp_path, 2, flags) as run:
        run.wait_for(output / "checkpoint-5")
        run.processes[1].terminate()
        assert run.wait() == [0, 128 + signal.SIGTERM], run.messages(0) + run.messages(1)
    stopped = record_of(output)["optimizer_steps"]
    Checkpoint.at(output / f"checkpoint-{stopped}").verify()

    with Launched(tmp_path, 2, flags) as run:
        run.wait_for(output / f"checkpoint-{stopped + 5 - stopped % 5}")
        run.processes[1].kill()
        assert run.processes[0].wait(PATIENCE_S) == 1
        assert "rank 1 died or does not run" in run.messages(0).splitlines()[-1]

    record = record_of(output)
    assert (record["resumed_from_step"], record["status"]) == (stopped, "failed")
    assert not [path for path in output.iterdir() if path.name.startswith(".checkpoint")]
    steps = [int(path.name.rpartition("-")[2]) for path in output.glob("checkpoint-*")]
    assert all(step in (stopped, step - step % 5) for step in steps), "none was saved when the rank died"
    for step in steps:
        Checkpoint.at(output / f"checkpoint-{step}").verify()


def test_srun_starts_a_training_and_ranks_with_other_flags_or_data_are_refused(
    make_flags: Callable[..., list[object]], tmp_path: Path
) -> None:
    with Launched(tmp_path, 2, make_flags("run", "--max-steps", 2), slurm=True) as srun:
        assert srun.wait() == [0, 0], srun.messages(0) + srun.messages(1)

    with Launched(tmp_path, 2, make_flags("flags"), more_flags={1: ["--weight-decay", 0.5]}) as differing:
        assert differing.wait() == [2, 2]
    assert "--weight-decay is 0.01 on rank 0 and 0.5 on rank 1" in differing.messages(0)
    assert not (tmp_path / "flags").exists()

    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "train.jsonl").write_text((tmp_path / "train.jsonl").read_text().replace("who", "what"))
    flags = [*make_flags("data"), "--train-file", "train.jsonl"]
    with Launched(tmp_path, 2, flags, working_folders={1: other}) as differing:
        assert differing.wait() == [1, 2]
    assert "rank 1: the files of --train-file and --val-file are not those of rank 0" in differing.messages(0)

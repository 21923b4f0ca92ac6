"""Workers that misbehave in every way the launcher promises to survive, as small real processes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from splade_bench.bench.isolate import CellError, WorkerProcess
from splade_bench.bench.protocol import Request
from splade_bench.cell import Cell

CELL = Cell(workload="head", device="cpu", batch_size=1, gradient_accumulation_steps=1, memory_mode="standard")
REQUEST = Request(cell=CELL, measure="time", corpus_folder=None)

GOOD = """
import sys, json
request = json.loads(sys.stdin.readline())
def send(name, **values):
    print(json.dumps({"name": name, "values": values}), flush=True)
send("ready")
assert sys.stdin.readline() == "go\\n"
send("done", wall_time_s=1.0)
send("result", batch_size=request["cell"]["batch_size"])
"""


def worker(script: str, *, timeout_s: float = 20.0) -> WorkerProcess:
    return WorkerProcess(REQUEST, timeout_s=timeout_s, command=(sys.executable, "-c", script))


def failure_of(script: str, *, timeout_s: float = 20.0) -> dict[str, object]:
    with worker(script, timeout_s=timeout_s) as process, pytest.raises(CellError) as caught:
        process.wait_for("ready")
    return caught.value.values


def test_a_worker_is_waited_for_in_order() -> None:
    with worker(GOOD) as process:
        assert process.wait_for("ready") == {}
        assert process.go() == {"wall_time_s": 1.0}
        assert process.wait_for("result") == {"batch_size": 1}


@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        ("import sys; sys.exit(0)", "error", "ended with exit code 0 and no result"),
        ("raise RuntimeError('boom')", "error", "ended with exit code 1 and no result: RuntimeError: boom"),
        ("import os; os.abort()", "killed", "ended by signal SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed", "ended by signal SIGKILL"),
        ("print('hello')", "error", "no message"),
        ("print('[1]')", "error", "no message"),
        ("import time; time.sleep(60)", "timeout", "took longer than 1 s"),
        ("import sys; sys.stderr.write('x' * 50_000_000); sys.exit(3)", "error", "ended with exit code 3"),
    ],
    ids=["no result", "exception", "abort", "kills itself", "chatter", "no object", "hangs", "fifty megabytes"],
)
def test_a_worker_that_ends_badly_has_the_right_status(script: str, status: str, error: str) -> None:
    values = failure_of(script, timeout_s=1.0 if status == "timeout" else 20.0)

    assert values["status"] == status
    assert error in str(values["error"])


def test_a_worker_that_says_why_it_failed_is_believed() -> None:
    values = failure_of(
        'import json; print(json.dumps({"name": "failed", "values": {"status": "oom", "error": "no memory"}}))'
    )

    assert values == {"status": "oom", "error": "no memory"}


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process in /proc")
def test_leaving_the_block_ends_the_worker_and_its_children() -> None:
    script = """
import subprocess, sys, json, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(json.dumps({"name": "ready", "values": {"child": child.pid}}), flush=True)
time.sleep(60)
"""
    with worker(script) as process:
        child = process.wait_for("ready")["child"]

    for _ in range(50):
        if not Path(f"/proc/{child}").exists() or _is_zombie(child):
            return
        time.sleep(0.1)
    pytest.fail("the worker's child is still running")


def test_the_parent_waits_without_spinning() -> None:
    script = GOOD.replace('send("ready")', 'import time; time.sleep(1.0); send("ready")', 1)
    with worker(script) as process:
        before = time.process_time()
        process.wait_for("ready")
        spent_s = time.process_time() - before

    assert spent_s < 0.05


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

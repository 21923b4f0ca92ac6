"""Workers that end badly, in every way that the launcher survives, as small real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splade_bench.bench.calls import call_request
from splade_bench.bench.isolate import WorkerError, WorkerProcess, figures_of_passes
from splade_bench.bench.known_blocks import touch_block
from splade_bench.bench.protocol import CallRequest, CellRequest
from splade_bench.grid.cell import Cell

CELL = Cell(workload="head", device="cpu", batch_size=1, gradient_accumulation_steps=1, memory_mode="standard")
REQUEST = CellRequest(cell=CELL, measure="time")

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


PRINTS_A_GIGABYTE = """
import sys
for _ in range(1024):
    sys.stderr.write('x' * 2**20)
sys.exit(3)
"""
TOUCHES_100_MIB = """
import os, signal
block = bytearray(100 * 2**20)
block[::4096] = b"x" * len(block[::4096])
os.kill(os.getpid(), signal.SIGKILL)
"""
# Pages of a mapped file are resident memory that RLIMIT_DATA does not count.
MAPS_A_FILE = """
import mmap, tempfile, time
with tempfile.TemporaryFile() as file:
    file.truncate(256 * 2**20)
    with mmap.mmap(file.fileno(), 0) as pages:
        for start in range(0, len(pages), 4096):
            pages[start] = 1
        time.sleep(60)
"""


def worker(script: str, *, timeout_s: float = 20.0) -> WorkerProcess:
    return WorkerProcess(REQUEST, timeout_s=timeout_s, command=(sys.executable, "-c", script))


def failure_of(script: str, *, timeout_s: float = 20.0) -> dict[str, Any]:
    with worker(script, timeout_s=timeout_s) as process, pytest.raises(WorkerError) as caught:
        process.wait_for("ready")
    return caught.value.values


def test_a_worker_is_waited_for_in_order() -> None:
    with worker(GOOD) as process:
        assert process.wait_for("ready") == {}
        assert process.go() == {"wall_time_s": 1.0}
        assert process.wait_for("result") == {"batch_size": 1}


def test_progress_of_a_worker_is_passed_on_while_another_event_is_waited_for() -> None:
    seen: list[dict[str, Any]] = []
    script = GOOD.replace('send("done"', 'send("progress", step=1); send("progress", step=2); send("done"')
    command = (sys.executable, "-c", script)
    with WorkerProcess(REQUEST, timeout_s=20, command=command, on_progress=seen.append) as process:
        process.wait_for("ready")
        assert seen == []
        assert process.go() == {"wall_time_s": 1.0}

    assert seen == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        ("import sys; sys.exit(0)", "error", "ended with exit code 0 and no result"),
        ("raise RuntimeError('boom')", "error", "ended with exit code 1 and no result: RuntimeError: boom"),
        ("import os; os.abort()", "killed", "ended by signal SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed", "ended by signal SIGKILL"),
        ("print('hello')", "error", "unexpected output"),
        ("print('[1]')", "error", "unexpected output"),
        ("import time; time.sleep(60)", "timeout", "took longer than 1 s"),
        (PRINTS_A_GIGABYTE, "error", "ended with exit code 3"),
        ('import os; os.write(1, b\'{"name": "rea\'); os.abort()', "killed", "ended by signal SIGABRT"),
        pytest.param("import os; os.write(1, b'x' * 20_000_000)", "error", "unexpected output", marks=pytest.mark.slow),
    ],
    ids=[
        *["no result", "exception", "abort", "kills itself", "chatter", "no object", "hangs", "a gigabyte"],
        *["dies in a message", "endless line"],
    ],
)
def test_a_worker_that_ends_badly_has_the_right_status(script: str, status: str, error: str) -> None:
    values = failure_of(script, timeout_s=1.0 if status == "timeout" else 20.0)

    assert values["status"] == status
    assert error in str(values["error"])


def test_a_worker_that_reports_its_failure_has_the_reported_status() -> None:
    values = failure_of(
        'import json; print(json.dumps({"name": "failed", "values": {"status": "oom", "error": "no memory"}}))'
    )

    assert values == {"status": "oom", "error": "no memory"}


def test_a_call_has_no_plan() -> None:
    request = call_request(touch_block, 1)

    assert CallRequest.from_line(request.to_line()) == request
    with pytest.raises(ValueError, match="plan"):
        CallRequest.from_line(replace(request, measure="plan").to_line())


def test_a_request_survives_its_line_whatever_it_holds() -> None:
    request = replace(call_request(touch_block, "ü\udcff", float("inf")), path=["/a\nb"])

    assert request.to_line().isascii()
    assert request.to_line().count("\n") == 1
    assert CallRequest.from_line(request.to_line()) == request
    assert CellRequest.from_line(REQUEST.to_line()) == REQUEST


def test_a_memory_pass_that_fails_has_a_reason_and_does_not_stop_the_others() -> None:
    passes = [replace(REQUEST, measure="heap"), replace(REQUEST, measure="live")]
    shown: list[str] = []

    measured = figures_of_passes(passes, timeout_s=0.2, on_pass=shown.append)

    assert shown == ["heap", "live"]
    assert measured == {"pass_errors": dict.fromkeys(["heap", "live"], "timeout: took longer than 0.2 s")}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the figure is not that of a fresh process")
def test_a_killed_worker_has_a_peak_and_it_is_its_own() -> None:
    ballast = bytearray(300 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])

    values = failure_of(TOUCHES_100_MIB)

    assert values["status"] == "killed"
    assert (values["exit_code"], values["exit_signal"]) == (None, 9)
    assert 100 * 2**20 <= values["peak_rss_bytes"] < 130 * 2**20
    assert values["peak_rss_source"] == "ru_maxrss of the process's whole life"
    assert len(ballast) == 300 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="writes to a file of this system's kind")
def test_resident_memory_over_the_limit_is_oom_whatever_it_is_made_of() -> None:
    request = replace(REQUEST, cell=replace(CELL, memory_limit_bytes=128 * 2**20))
    command = (sys.executable, "-c", MAPS_A_FILE)
    with WorkerProcess(request, timeout_s=30, command=command) as process, pytest.raises(WorkerError) as caught:
        process.wait_for("ready")

    assert caught.value.values["status"] == "oom"
    assert "over the limit of 128 MiB" in caught.value.values["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts what processes share as Linux tells it")
@pytest.mark.parametrize(("processes", "ends"), [(1, False), (2, True)])
def test_a_limit_counts_all_processes_of_a_cell(processes: int, ends: bool) -> None:
    block = "block = bytearray(96 * 2**20)\nimport time\ntime.sleep(3)\n"
    script = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {block!r}])\n"
        f'{block}child.kill()\nprint(\'{{"name": "ready", "values": {{}}}}\', flush=True)\n'
    )
    request = replace(REQUEST, cell=replace(CELL, memory_limit_bytes=160 * 2**20, processes=processes))

    with WorkerProcess(request, timeout_s=60, command=(sys.executable, "-c", script)) as process:
        if not ends:
            assert process.wait_for("ready") == {}
            return
        with pytest.raises(WorkerError) as caught:
            process.wait_for("ready")

    assert caught.value.values["status"] == "oom"
    assert "the resident memory of all ranks went over the limit of 160 MiB" in caught.value.values["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the process in /proc")
def test_a_worker_ends_when_the_process_that_waits_for_it_is_killed() -> None:
    script = """
import sys
from splade_bench.bench.isolate import WorkerProcess
from splade_bench.bench.protocol import CellRequest
from splade_bench.grid.cell import Cell
cell = Cell(workload="head", device="cpu", batch_size=1, gradient_accumulation_steps=1, memory_mode="standard")
hangs = "import os, json, time; print(json.dumps({'name': 'ready', 'values': {'pid': os.getpid()}}), flush=True); "
hangs += "time.sleep(60)"
request = CellRequest(cell=cell, measure="time")
with WorkerProcess(request, timeout_s=60, command=(sys.executable, "-c", hangs)) as process:
    print(process.wait_for("ready")["pid"], flush=True)
    process.wait_for("done")
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    assert _ends(pid)


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

    assert _ends(child)


def test_the_parent_waits_without_spinning() -> None:
    script = GOOD.replace('send("ready")', 'import time; time.sleep(1.0); send("ready")', 1)
    with worker(script) as process:
        before = time.process_time()
        process.wait_for("ready")
        spent_s = time.process_time() - before

    assert spent_s < 0.05


def _ends(pid: int) -> bool:
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or _is_zombie(pid):
            return True
        time.sleep(0.1)
    return False


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

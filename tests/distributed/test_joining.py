"""A process that joins the group of a training, and what it leaves to the others when it ends."""

from __future__ import annotations

import pytest

from splade_bench.distributed.joining import LaunchedGroup
from splade_bench.distributed.launch import LOCAL_HOST, Launch, free_port
from splade_bench.distributed.roll_call import RollCall
from splade_bench.errors import TrainingError


@pytest.mark.parametrize(
    ("error", "line"),
    [(SystemExit(143), "ended with exit code 143"), (TrainingError("no\nmemory"), "no memory")],
)
def test_the_others_learn_why_a_process_ends(error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(RollCall, "leave_fault", lambda self, line: lines.append(line))
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # joining sets them

    with (
        pytest.raises(type(error)),
        LaunchedGroup(Launch(0, 1, 0, LOCAL_HOST, free_port()), "cpu", timeout_s=60),
    ):
        raise error

    assert lines == [line]

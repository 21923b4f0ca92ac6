"""The memory of a process and its children: each page counts once, and a child that is not yet itself does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from splade_bench.measure import process_tree
from splade_bench.measure.process_tree import ProcessTree

MIB = 2**20
ME, CHILD, GRANDCHILD = 1, 2, 3
HOLD = "import sys; block = bytearray(b'x') * {size}; print('ready', flush=True); sys.stdin.read()"


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the next readings find: parents, resident memory, and how much of it is in excess by sharing."""

    def show(parents: Mapping[int, int], resident: Mapping[int, int], excess: Mapping[int, int] | None = None) -> None:
        monkeypatch.setattr(process_tree, "_descendants", lambda pid: dict(parents))
        monkeypatch.setattr(process_tree, "_sizes", lambda pid: (1000 * resident[pid], resident[pid]))
        monkeypatch.setattr(process_tree, "_excess_bytes", lambda pid: (excess or {}).get(pid, 0))

    return show


def test_children_and_theirs_count_from_their_second_reading_on(system: Callable[..., None]) -> None:
    tree = ProcessTree(ME)
    system({}, {ME: 100})
    assert tree.read() == 100
    assert (tree.children, tree.peak_with_children_bytes) == (set(), 0)

    system({CHILD: ME, GRANDCHILD: CHILD}, {ME: 100, CHILD: 30, GRANDCHILD: 7})
    assert tree.read() == 100
    assert tree.read() == 137
    system({GRANDCHILD: ME}, {ME: 100, GRANDCHILD: 8})
    assert tree.read() == 108

    assert (tree.children, tree.peak_with_children_bytes) == ({CHILD, GRANDCHILD}, 137)


def test_a_child_between_vfork_and_exec_is_not_its_parents_memory_again(system: Callable[..., None]) -> None:
    tree = ProcessTree(ME)
    system({CHILD: ME}, {ME: 500, CHILD: 500})

    assert [tree.read(), tree.read()] == [500, 500]
    assert tree.children == {CHILD}

    system({CHILD: ME}, {ME: 500, CHILD: 20})
    assert tree.read() == 520


def test_a_page_that_a_fork_shares_counts_once(system: Callable[..., None]) -> None:
    system({}, {ME: 500}, {ME: 20})  # 20 are shared with a process outside the tree
    tree = ProcessTree(ME)
    system({CHILD: ME}, {ME: 500, CHILD: 480}, {ME: 260, CHILD: 240})
    tree.read()

    assert tree.read() == 500


def test_a_child_that_ends_within_a_reading_changes_nothing(
    system: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    system({}, {ME: 500})
    tree = ProcessTree(ME)
    system({CHILD: ME, GRANDCHILD: ME}, {ME: 500, CHILD: 480, GRANDCHILD: 470})
    tree.read()

    resident = {ME: 500, CHILD: 480, GRANDCHILD: 470}
    monkeypatch.setattr(process_tree, "_sizes", lambda pid: (1000, resident[pid]))

    def end(pid: int) -> int:  # the sharing is gone as well
        resident.update({CHILD: 0, GRANDCHILD: 0})
        return 0

    monkeypatch.setattr(process_tree, "_excess_bytes", end)

    assert (tree.read(), tree.peak_with_children_bytes) == (500, 0)

    system({CHILD: ME, GRANDCHILD: ME}, {ME: 500, CHILD: 480, GRANDCHILD: 0}, {ME: 240, CHILD: 240})
    assert (tree.read(), tree.peak_with_children_bytes, tree.counted) == (500, 500, {CHILD})


def test_a_process_that_has_ended_has_no_memory() -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], check=True, capture_output=True)

    assert ProcessTree(int(ended.stdout)).read() == 0


@pytest.mark.parametrize("system", ["as it is", "does not list the children of a process", "has no /proc"])
def test_real_children_are_found_with_their_memory(
    system: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if system == "does not list the children of a process":
        monkeypatch.setattr(process_tree, "_lists_children", lambda: False)
    if system == "has no /proc":  # macOS
        monkeypatch.setattr(process_tree.sys, "platform", "darwin")
        monkeypatch.setattr(process_tree, "_PROC", tmp_path)
    tree = ProcessTree(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.format(size=64 * MIB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        tree.read()
        alone_bytes = process_tree._resident_bytes(process_tree._sizes(os.getpid()))

        assert child.pid in tree.children
        assert 64 * MIB <= tree.read() - alone_bytes < 90 * MIB
        child.communicate()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs the kernel's proportional sizes")
def test_what_a_real_fork_shares_counts_once() -> None:
    script = HOLD.format(size=64 * MIB).replace("print", "import os; os.fork(); print")
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        for _ in range(2):
            parent.stdout.readline()
        tree = ProcessTree(parent.pid)
        tree.read()

        assert 64 * MIB <= tree.read() < 100 * MIB
        assert len(tree.children) == 1
        assert parent.stdin is not None
        parent.stdin.close()  # both end
        _wait_until_gone(tree.children)


def _wait_until_gone(pids: set[int]) -> None:
    end_s = time.monotonic() + 20
    while any(process_tree._sizes(pid) for pid in pids) and time.monotonic() < end_s:
        time.sleep(0.01)

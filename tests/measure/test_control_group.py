"""A control group is made where it may be, limited, read and removed; on the real files where they are writable."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from splade_bench.measure.control_group import (
    ControlGroup,
    container_free_bytes,
    container_limit_bytes,
    oom_kills,
    visible_oom_kills,
)

MIB = 2**20
FIRST = "9:name=systemd:/\n4:memory:/jobs/7\n0::/\n"
SECOND = "0::/user.slice/terminal.scope\n"
# Takes the limit it is told, then memory that RLIMIT_DATA does not count.
SHARES_MEMORY = """
import mmap, sys
from splade_bench.measure.limits import limit_rss
from splade_bench.measure.rss import current_rss_bytes

sys.stdin.readline()
limit_rss(current_rss_bytes() + 64 * 2**20)
block = mmap.mmap(-1, 256 * 2**20)
for page in range(0, len(block), 4096):
    block[page] = 1
"""


@pytest.fixture
def proc(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of /proc whose process is in such groups, below mounts of either version."""

    def write(memberships: str) -> Path:
        folder = tmp_path / "proc"
        (folder / "self").mkdir(parents=True)
        (folder / "self/cgroup").write_text(memberships)
        (folder / "self/mountinfo").write_text(
            f"20 1 0:1 / /proc rw - proc proc rw\n"
            f"30 1 0:2 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu\n"
            f"31 1 0:3 /jobs {tmp_path}/first rw - cgroup cgroup rw,memory\n"
            f"32 1 0:4 / {tmp_path}/second rw,nosuid - cgroup2 cgroup2 rw\n"
        )
        return folder

    return write


@pytest.fixture
def kernel_fills(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """As the kernel does, let a new folder below ``parent`` have these files."""
    mkdir = Path.mkdir

    def arrange(parent: Path, *names: str) -> None:
        def mkdir_and_fill(folder: Path) -> None:
            mkdir(folder)
            if folder.parent == parent:
                for name in names:
                    (folder / name).write_text("")

        monkeypatch.setattr(Path, "mkdir", mkdir_and_fill)

    return arrange


def test_the_first_version_limits_memory_and_swap_together(
    proc: Callable[[str], Path], tmp_path: Path, kernel_fills: Callable[..., None]
) -> None:
    folder = proc(FIRST)
    (tmp_path / "first/7").mkdir(parents=True)  # the mount shows /jobs
    kernel_fills(tmp_path / "first/7", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control")

    group = ControlGroup.create(1234, folder)
    assert group is not None
    group.limit(512 * MIB)
    (group.folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")

    assert group.folder == tmp_path / f"first/7/splade-bench-{os.getpid()}"
    assert (group.folder / "cgroup.procs").read_text() == "1234"
    assert (group.folder / "memory.limit_in_bytes").read_text() == str(512 * MIB)
    assert (group.folder / "memory.memsw.limit_in_bytes").read_text() == str(512 * MIB)
    assert group.oom_kills() == 2


@pytest.mark.parametrize("own_limit", ["max", "8589934592"])
def test_the_second_version_makes_a_group_next_to_its_own_if_that_escapes_no_limit(
    own_limit: str, proc: Callable[[str], Path], tmp_path: Path, kernel_fills: Callable[..., None]
) -> None:
    folder = proc(SECOND)
    own = tmp_path / "second/user.slice/terminal.scope"
    own.mkdir(parents=True)
    (own / "memory.max").write_text(own_limit + "\n")
    kernel_fills(own.parent, "memory.max", "memory.swap.max", "memory.events")

    group = ControlGroup.create(1234, folder)

    assert not list(own.glob("splade-bench-*")), "a group without a memory controller is removed"
    if own_limit != "max":
        assert group is None
        return
    assert group is not None
    group.limit(512 * MIB)
    assert group.folder.parent == own.parent
    assert (group.folder / "memory.max").read_text() == str(512 * MIB)
    assert (group.folder / "memory.swap.max").read_text() == "0"


def test_names_of_folders_need_not_be_text(proc: Callable[[str], Path], tmp_path: Path) -> None:
    folder = proc("4:memory:/jobs/7/splade-bench-99\n")
    mounts = folder / "self/mountinfo"
    mounts.write_bytes(b"19 1 0:1 / /media/Zubeh\xf6r rw - ext4 /dev/sda1 rw\n" + mounts.read_bytes())

    group = ControlGroup.own(folder)

    assert group is not None
    assert group.folder == tmp_path / "first/7/splade-bench-99"


def test_a_process_finds_the_group_that_was_made_for_it(proc: Callable[[str], Path], tmp_path: Path) -> None:
    folder = proc("4:memory:/jobs/7/splade-bench-99\n0::/\n")

    group = ControlGroup.own(folder)

    assert group is not None
    assert group.folder == tmp_path / "first/7/splade-bench-99"


@pytest.mark.parametrize("memberships", [FIRST, SECOND, "4:memory:/elsewhere\n", ""])
def test_without_a_writable_group_none_is_made(memberships: str, proc: Callable[[str], Path], tmp_path: Path) -> None:
    assert ControlGroup.create(1234, proc(memberships)) is None  # no folder of a group exists
    assert ControlGroup.own(tmp_path / "proc") is None
    assert ControlGroup.create(1234, tmp_path / "nowhere") is None


def test_groups_of_launchers_that_were_killed_are_removed(proc: Callable[[str], Path], tmp_path: Path) -> None:
    folder = proc(FIRST)
    own = tmp_path / "first/7"
    for pid in (70, 80):
        (own / f"splade-bench-{pid}").mkdir(parents=True)
    (folder / "80").mkdir()  # this one lives

    ControlGroup.create(1234, folder)

    assert [path.name for path in own.glob("splade-bench-?0")] == ["splade-bench-80"]


def test_the_smallest_limit_of_the_groups_of_a_process_counts(proc: Callable[[str], Path], tmp_path: Path) -> None:
    folder = proc(SECOND)
    own = tmp_path / "second/user.slice/terminal.scope"
    own.mkdir(parents=True)
    assert container_limit_bytes(folder) is None, "no group says anything"

    (own / "memory.max").write_text("max\n")
    assert container_limit_bytes(folder) is None

    (own.parent / "memory.max").write_text(f"{512 * MIB}\n")
    assert container_limit_bytes(folder) == 512 * MIB

    (own / "memory.max").write_text(f"{256 * MIB}\n")
    assert container_limit_bytes(folder) == 256 * MIB


def test_the_first_version_writes_a_large_number_for_no_limit(proc: Callable[[str], Path], tmp_path: Path) -> None:
    folder = proc(FIRST)
    limit = tmp_path / "first/7/memory.limit_in_bytes"
    limit.parent.mkdir(parents=True)

    limit.write_text("9223372036854771712\n")
    assert container_limit_bytes(folder) is None

    limit.write_text(f"{512 * MIB}\n")
    assert container_limit_bytes(folder) == 512 * MIB
    assert container_limit_bytes(tmp_path / "nowhere") is None


def test_kills_are_those_of_the_own_group_if_it_counts_them(proc: Callable[[str], Path], tmp_path: Path) -> None:
    folder = proc(FIRST)
    assert visible_oom_kills(folder) == 0, "nobody counts"

    (folder / "vmstat").write_text("pgfault 7\noom_kill 5\n")
    assert visible_oom_kills(folder) == 5

    (tmp_path / "first/7").mkdir(parents=True)
    (tmp_path / "first/7/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert visible_oom_kills(folder) == 2


def test_a_file_without_the_counter_has_no_count(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\n")

    assert oom_kills(tmp_path / "memory.events") is None
    assert oom_kills(tmp_path / "vmstat") is None


def test_the_kernel_kills_a_process_above_the_limit_of_its_group() -> None:
    worker = subprocess.Popen([sys.executable, "-c", SHARES_MEMORY], stdin=subprocess.PIPE, text=True)
    group = ControlGroup.create(worker.pid)
    try:
        if group is None:
            worker.kill()
            pytest.skip("no control group can be made here")
        worker.communicate("go\n", timeout=60)
        assert worker.returncode == -9
        assert group.oom_kills() == 1
    finally:
        worker.wait()
        if group:
            group.remove()

    assert not group.folder.exists()


@pytest.mark.parametrize(
    ("memberships", "folder", "files"),
    [
        (FIRST, "first/7", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
        (SECOND, "second/user.slice", ("memory.max", "memory.current", "inactive_file")),
    ],
)
def test_what_a_container_can_still_take_is_its_limit_without_what_is_used_and_not_reclaimable(
    memberships: str, folder: str, files: tuple[str, str, str], proc: Callable[[str], Path], tmp_path: Path
) -> None:
    fake = proc(memberships)
    assert container_free_bytes(fake) is None
    group = tmp_path / folder
    group.mkdir(parents=True)
    limit, usage, reclaimable = files
    (group / limit).write_text(f"{1024 * MIB}\n")
    (group / usage).write_text(f"{700 * MIB}\n")
    assert container_free_bytes(fake) == 324 * MIB

    (group / "memory.stat").write_text(f"anon 5\n{reclaimable} {200 * MIB}\n")
    assert container_free_bytes(fake) == 524 * MIB
    (group / usage).write_text(f"{2048 * MIB}\n")
    assert container_free_bytes(fake) == 0

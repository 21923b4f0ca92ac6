"""Files are whole or absent; several processes append to one file and no line is lost or torn."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from faults import ERRORS, failing_call

from splade_bench import files
from splade_bench.files import append_line, large_files_folder, not_written, read_lines, sync_folder, write_whole_file

WRITERS = 3
LINES = 40
# More than a write's buffer, so that a line is on its way for a while.
SIZE = 300_000
APPEND = f"""
import json, sys
from pathlib import Path
from splade_bench.files import append_line
for number in range({LINES}):
    append_line(Path(sys.argv[1]), json.dumps({{"writer": sys.argv[2], "number": number, "text": "x" * {SIZE}}}))
"""
HALF_A_LINE = """
import fcntl, sys
with open(sys.argv[1], "a+b") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(b'{"writer": "slow", ')
    file.flush()
    print("half", flush=True)
    sys.stdin.readline()
    file.write(b'"number": 0}\\n')
"""


def test_lines_of_several_processes_are_all_there_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", APPEND, str(path), str(number)]) for number in range(WRITERS)]

    assert [writer.wait(120) for writer in writers] == [0] * WRITERS
    found = [(line["writer"], line["number"]) for _, line in read_lines(path)]
    assert sorted(found) == sorted((str(writer), number) for writer in range(WRITERS) for number in range(LINES))
    for writer in range(WRITERS):
        assert [number for name, number in found if name == str(writer)] == list(range(LINES))


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is measured there, so nothing is locked")
def test_a_line_that_another_process_is_writing_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    slow = subprocess.Popen(
        [sys.executable, "-c", HALF_A_LINE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with slow:
        assert slow.stdin and slow.stdout and slow.stdout.readline() == "half\n"
        script = "import sys; from pathlib import Path; from splade_bench.files import append_line; print('up')\n"
        script += 'append_line(Path(sys.argv[1]), \'{"writer": "other", "number": 0}\')'
        other = subprocess.Popen([sys.executable, "-uc", script, str(path)], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        with other.stdout as said:
            assert said.readline() == "up\n"
        with pytest.raises(subprocess.TimeoutExpired):  # it waits, for as long as it takes
            other.wait(1.0)
        assert list(read_lines(path)) == []  # a reader does not wait
        slow.stdin.write("go on\n")
        slow.stdin.flush()
        assert other.wait(60) == 0

    assert [line["writer"] for _, line in read_lines(path)] == ["slow", "other"]


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is measured there, so nothing is locked")
def test_the_lock_of_a_killed_writer_is_gone_and_its_torn_line_too(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, json.dumps({"number": 0}))
    slow = subprocess.Popen(
        [sys.executable, "-c", HALF_A_LINE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with slow:
        assert slow.stdout and slow.stdout.readline() == "half\n"
        slow.kill()
        slow.wait()

    append_line(path, json.dumps({"number": 1}))  # does not wait for ever

    assert [line["number"] for _, line in read_lines(path)] == [0, 1]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_whole_file(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_whole_file(path, "\ud800")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_whatever_call_fails_a_file_is_the_old_one_or_the_new_one(error: int, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    for number in itertools.count(1):
        write_whole_file(path, "old")
        failed = False
        with failing_call(number, error) as seen:
            try:
                write_whole_file(path, "new")
            except OSError:
                failed = True
        assert path.read_text() in (("old", "new") if failed else ("new",))
        assert list(tmp_path.iterdir()) == [path]
        if number > len(seen):
            break

    assert seen == ["open", "fsync", "replace", "open", "fsync"]  # the file, its name


def test_a_link_in_the_place_of_a_file_is_replaced_itself(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "record.json").symlink_to(tmp_path / "target")

    write_whole_file(tmp_path / "record.json", "new")

    assert (tmp_path / "target").read_text() == "kept"
    assert not (tmp_path / "record.json").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="it has no pipes with a name")
def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # so that no writer waits
    try:
        write_whole_file(path, "a run\n")

        assert path.is_fifo()
        assert os.read(reader, 100) == b"a run\n"
    finally:
        os.close(reader)
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors have names in /proc there")
def test_the_second_name_of_an_open_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w") as file, pytest.raises(OSError, match="it is another name of an open file"):
        write_whole_file(Path(f"/proc/self/fd/{file.fileno()}"), "a run\n")


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    replace = os.replace

    def after_another(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        write_whole_file(path, "of the other")
        replace(source, target)

    monkeypatch.setattr(os, "replace", after_another)

    write_whole_file(path, "of the last")

    assert path.read_text() == "of the last"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "is_raised"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True), (errno.ENOSPC, True)]
)
def test_a_file_system_that_cannot_sync_is_not_a_disk_that_fails(
    error: int, is_raised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: int) -> NoReturn:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", failing)

    try:
        sync_folder(tmp_path)
    except OSError:
        assert is_raised
    else:
        assert not is_raised


@pytest.mark.parametrize("is_supported", [True, False])
def test_on_macos_the_cache_of_the_disk_is_flushed_too(
    is_supported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def control(_: int, command: int) -> None:
        done.append(f"control {command}")
        if not is_supported:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(files, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(files, "fcntl", SimpleNamespace(fcntl=control, F_FULLFSYNC=51))
    monkeypatch.setattr(os, "fsync", lambda _: done.append("sync"))

    sync_folder(tmp_path)

    assert done == (["control 51"] if is_supported else ["control 51", "sync"])


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("file/new", FileExistsError(errno.EEXIST, "File exists"), "{0}/file is not a folder"),
        ("file/new/er", NotADirectoryError(errno.ENOTDIR, "Not a directory"), "{0}/file is not a folder"),
        ("file", FileExistsError(errno.EEXIST, "File exists"), "{0}/file is not a folder"),
        ("no/new", FileNotFoundError(errno.ENOENT, "No such file"), "there is no folder {0}/no"),
        ("new", PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        ("folder", IsADirectoryError(errno.EISDIR, "Is a directory"), "Is a directory"),
    ],
)
def test_why_a_file_is_not_written_says_what_to_change(name: str, error: OSError, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()

    expected = f"cannot be written: {reason.format(tmp_path)}; name another place"
    assert not_written(tmp_path / name, error) == expected


@pytest.mark.parametrize("is_set", [True, False])
def test_large_temporary_files_are_where_the_user_wants_them_or_on_the_disk(
    is_set: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, disk = tmp_path / "chosen", tmp_path / "disk"
    for folder in (chosen, disk):
        folder.mkdir()
    monkeypatch.setattr(files, "_DISK_FOLDER", disk)
    monkeypatch.setattr(files.tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(chosen) if is_set else "")

    assert large_files_folder() == str(chosen if is_set else disk)

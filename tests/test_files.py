"""Files are whole or absent; several processes append to one file and no line is lost or torn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from splade_bench.files import append_line, read_lines, whole_folder, write_whole_file

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


def test_a_folder_comes_with_all_that_the_block_puts_there(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "cache" / "weights") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "cache" / "weights").exists()

    assert (tmp_path / "cache" / "weights" / "a").read_text() == "1"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["weights"]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with whole_folder(tmp_path / "weights") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_a_folders_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")

    with pytest.raises(OSError, match="weights"), whole_folder(tmp_path / "weights"):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_who_was_faster_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "weights") as slow:
        (slow / "a").write_text("slow")
        with whole_folder(tmp_path / "weights") as fast:
            (fast / "a").write_text("fast")

    assert (tmp_path / "weights" / "a").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]

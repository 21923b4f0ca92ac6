"""Each pass of a measurement finds a folder as it was, and the test finds what the first call left there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from splade_bench.bench.fresh_folder import FreshFolder
from splade_bench.errors import DataError


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def call(folder: Path, name: str) -> None:
    """Fails if an earlier call's folder is there."""
    (folder / "made").mkdir()
    (folder / "made" / name).write_text("new")
    (folder / "input").write_text(f"changed by {name}")


def test_each_pass_begins_anew_and_the_first_calls_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "input").write_text("given")

    with FreshFolder(folder) as fresh:
        call(folder, "timed")
        for name in ("heap", "live"):
            fresh.renew()
            assert contents(folder) == {"input": "given"}
            call(folder, name)

    assert contents(folder) == {"input": "changed by timed", "made/timed": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_without_passes_the_folder_stays_as_the_call_left_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    with FreshFolder(folder):
        call(folder, "timed")

    assert sorted(contents(folder)) == ["input", "made/timed"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_working_folder_stays_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)

    with FreshFolder(folder) as fresh:
        call(Path(), "timed")
        fresh.renew()
        assert contents(Path()) == {}
        call(Path(), "heap")

    assert sorted(contents(Path())) == ["input", "made/timed"]


def test_a_folder_that_the_call_deletes_is_there_again(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "input").write_text("given")

    with FreshFolder(folder) as fresh:
        call(folder, "timed")
        fresh.renew()
        shutil.rmtree(folder)
        fresh.renew()
        assert contents(folder) == {"input": "given"}

    assert sorted(contents(folder)) == ["input", "made/timed"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_a_file_that_cannot_be_copied_is_named_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "pipe")

    with pytest.raises(
        DataError, match=r"^tmp_path: its files cannot be copied for the memory passes: .*pipe.*named pipe"
    ):
        FreshFolder(folder).__enter__()

    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_there_may_be_no_folder() -> None:
    with FreshFolder(None) as fresh:
        fresh.renew()

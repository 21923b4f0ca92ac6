"""Whatever happens, a verb ends in one line and an exit code that is not that of a result."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from splade_bench.cli import main
from splade_bench.cli.arguments import show

Fail = Callable[[str, BaseException], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Make a verb raise an error."""

    def make_fail(verb: str, error: BaseException) -> None:
        module = types.ModuleType(f"splade_bench.cli.{verb}")

        def run(arguments: list[str]) -> int:
            raise error

        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return make_fail


@pytest.mark.parametrize("verb", ["train", "check"])
@pytest.mark.parametrize(
    "error", [KeyError("x"), AttributeError("no such"), ValueError("two\nlines"), IndexError("out"), AssertionError()]
)
def test_an_error_that_nobody_thought_of_is_one_line_and_exit_code_70(
    verb: str, error: Exception, fail: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(verb, error)

    assert main([verb]) == 70

    line = capsys.readouterr().err
    assert line.startswith(f"splade-bench {verb}: internal error: {type(error).__name__}: ")
    assert "splade_bench/cli/__init__.py:" in line
    assert "SPLADE_BENCH_TRACEBACK=1" in line
    assert line.count("\n") == 1


def test_the_traceback_is_shown_to_who_asks_for_it(
    fail: Fail, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLADE_BENCH_TRACEBACK", "1")
    fail("train", KeyError("x"))

    assert main(["train"]) == 70

    assert capsys.readouterr().err.startswith("Traceback (most recent call last):")


@pytest.mark.parametrize(("verb", "code"), [("train", 1), ("evaluate", 1), ("check", 70), ("plan", 70), ("doctor", 70)])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError(), RuntimeError("lost")]
)
def test_a_failure_does_not_look_like_a_result(
    verb: str, code: int, error: Exception, fail: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 is a regression for check, and a training that does not fit for plan."""
    fail(verb, error)

    assert main([verb]) == code

    assert capsys.readouterr().err.startswith(f"splade-bench {verb}: failed: ")


def test_ctrl_c_is_exit_code_130(fail: Fail) -> None:
    fail("check", KeyboardInterrupt())

    assert main(["check"]) == 130


def test_a_verb_that_cannot_be_imported_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "splade_bench.cli.check", None)

    assert main(["check"]) == 70

    assert capsys.readouterr().err.startswith("splade-bench check: internal error: ModuleNotFoundError: ")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of Unix")
@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"]])
def test_a_reader_that_leaves_gets_no_traceback(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "splade_bench", *arguments]

    finished = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)

    assert finished.stderr == ""
    assert finished.returncode == 141


class Console(io.TextIOWrapper):
    """Standard output with this encoding."""

    def __init__(self, encoding: str) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding)

    def shown(self) -> str:
        self.flush()
        return self.bytes.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
def test_a_console_of_any_encoding_gets_the_text_and_the_exit_code(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(encoding)
    monkeypatch.setattr(sys, "stdout", console)
    module = types.ModuleType("splade_bench.cli.check")

    def run(arguments: list[str]) -> int:
        show({}, "100 MiB → 120 MiB, \udcff", as_json=False)
        return 3

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)

    assert main(["check"]) == 3
    assert console.shown().replace("\\u2192", "→") == "100 MiB → 120 MiB, \\udcff\n"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_json_is_json_on_every_console(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(encoding)
    monkeypatch.setattr(sys, "stdout", console)
    record = {"name": "é → 😀", "value": 1e-7, "nothing": None}

    show(record | {"not a number": float("nan")}, "", as_json=True)

    assert json.loads(console.shown()) == record | {"not a number": None}


def test_a_terminal_that_is_gone_does_not_change_the_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gone(number: int) -> Callable[..., None]:
        def fail_to_print(*arguments: object, **keywords: object) -> None:
            raise OSError(number, os.strerror(number))

        return fail_to_print

    monkeypatch.setattr("builtins.print", gone(errno.EIO))
    show({}, "text", as_json=False)

    monkeypatch.setattr("builtins.print", gone(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        show({}, "text", as_json=False)

import warnings
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", [1, 2, 3])
def test_squares(number):
    assert number * number == sum([number] * number)


@pytest.mark.large
def test_a_fixture_of_the_same_name(measure_memory):
    assert measure_memory("abc") == 3


def test_a_file_is_left_behind(tmp_path):
    Path("here.txt").write_text("x")
    Path(__file__).with_name("left.txt").write_text("x")
    assert list(tmp_path.iterdir())


def test_benchmark(benchmark):
    assert benchmark.pedantic(sum, args=([1, 2],), rounds=2) == 3


def test_prints_and_warns(capsys):
    print("text")
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().out == "text\n"


def test_fails():
    assert {"a": 1} == {"a": 2}


@pytest.fixture
def broken():
    raise OSError("not there")


def test_errs(broken):
    pass


@pytest.mark.xfail(strict=True)
def test_passes_unexpectedly():
    pass


@pytest.mark.xfail
def test_fails_as_expected():
    raise ValueError


@pytest.mark.skip(reason="not here")
def test_is_skipped():
    pass

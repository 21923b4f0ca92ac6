"""Messages on one line of a terminal."""

from __future__ import annotations

import pytest

from splade_bench.errors import ConfigError, error_line, one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain  text", "plain  text"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[31mred\x1b[0m", " red "),
        ("a\x07b\x9bc", "a b c"),
    ],
)
def test_a_line_has_nothing_that_a_terminal_acts_on(text: str, line: str) -> None:
    assert one_line(text) == line


def test_an_error_is_a_line_even_without_a_message() -> None:
    assert error_line(ConfigError("--x 1:\n    too  small\x1b[0m")) == "--x 1: too small"
    assert error_line(MemoryError()) == "MemoryError"

"""Records as JSON: what UTF-8 does not have, and what JSON does not have."""

from __future__ import annotations

import json
import math

import pytest

from splade_bench.json_records import encode_line, json_text

RECORD = {"name": "half a pair: \ud83d", "word": "Zürich", "loss": math.nan, "more": [math.inf, 1.5]}


@pytest.mark.parametrize("written", [json_text, encode_line])
def test_a_lone_surrogate_is_written_as_its_escape_and_read_back(written: object) -> None:
    text = written(RECORD)  # type: ignore[operator]

    assert "Zürich" in text.encode("utf-8").decode("utf-8")
    assert json.loads(text) == RECORD | {"loss": None, "more": [None, 1.5]}


def test_text_for_people_is_indented_and_a_line_is_one_line() -> None:
    assert json_text({"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}'
    assert encode_line({"a": [1]}) == '{"a": [1]}'

"""Vectors as lines that search engines read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from splade_bench.evaluation.encoding import Window
from splade_bench.evaluation.vector_lines import LINE_FORMATS, write_vector_lines
from splade_bench.evaluation.vectors import SparseReps

NAMES = ["[PAD]", "cat", ".", "é", "__", "a.b"]
DENSE = torch.tensor([[0, 0.1, 0.004, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1.234567, 2.5, 0.25, 3, 1]])


def lines(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    reps = SparseReps.from_dense([DENSE])
    windows = [Window(["x", "y"], reps.take([0, 1]), 0), Window(["z"], reps.take([2]), 0)]
    write_vector_lines(tmp_path / "out", windows, LINE_FORMATS[name], NAMES)
    return [json.loads(line) for line in (tmp_path / "out" / "vectors.jsonl").read_text(encoding="utf-8").splitlines()]


def test_features_have_no_dot_in_their_names_and_keep_the_larger_weight(tmp_path: Path) -> None:
    assert lines(tmp_path, "features") == [
        {"id": "x", "vector": {"cat": 0.1, "__": 0.004}},
        {"id": "y", "vector": {}},
        {"id": "z", "vector": {"cat": 1.234567, "__": 3.0, "é": 0.25, "a__b": 1.0}},
    ]


def test_points_have_a_number_as_their_id_and_the_texts_id_in_their_payload(tmp_path: Path) -> None:
    first, empty, last = lines(tmp_path, "qdrant")

    assert first == {
        "id": 0,
        "vector": {"splade": {"indices": [1, 2], "values": [0.1, 0.004]}},
        "payload": {"id": "x"},
    }
    assert empty["vector"] == {"splade": {"indices": [], "values": []}}
    assert (last["id"], last["payload"]) == (2, {"id": "z"})


def test_impacts_are_whole_numbers_above_zero(tmp_path: Path) -> None:
    assert lines(tmp_path, "anserini") == [
        {"id": "x", "content": "", "vector": {"cat": 10}},
        {"id": "y", "content": "", "vector": {}},
        {"id": "z", "content": "", "vector": {"cat": 123, ".": 250, "é": 25, "__": 300, "a.b": 100}},
    ]


@pytest.mark.parametrize("name", LINE_FORMATS)
def test_a_line_has_the_weights_of_its_vector(tmp_path: Path, name: str) -> None:
    """Read back, the lines give the vectors again, as exactly as the format has them."""
    read = torch.zeros(DENSE.shape)
    for row, line in enumerate(lines(tmp_path, name)):
        vector = line["vector"].get("splade", line["vector"])
        if "indices" in vector:
            read[row, vector["indices"]] = torch.tensor(vector["values"])
            continue
        for token, weight in vector.items():
            names = [one.replace(".", "__") for one in NAMES] if name == "features" else NAMES
            read[row, names.index(token)] = weight / (100 if name == "anserini" else 1)
    written = DENSE.clone()
    if name == "features":  # one name of two entries
        written[:, 2] = written[:, [2, 4]].amax(1)
        written[:, 4] = 0

    torch.testing.assert_close(read, written, rtol=0, atol=0.005 if name == "anserini" else 0)

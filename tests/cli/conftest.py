"""A file of training data, which the verbs' tests share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from splade_bench.data.records import Triple


@pytest.fixture
def train_file(tmp_path: Path, triples: Sequence[Triple]) -> Path:
    """The article's format, with both spellings of a negative. The name needs quotes on a command line."""
    path = tmp_path / "train data.json"
    records = [
        {
            "query": triple.query,
            "positive_document": triple.positive,
            "negative_documents": [triple.negatives[0], {"document": triple.negatives[1]}],
        }
        for triple in triples
    ]
    path.write_text(json.dumps(records), encoding="utf-8")
    return path

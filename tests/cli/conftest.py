"""A file of training data, and a count of parses, for the tests of several verbs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tyro

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


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The command lines that were parsed since."""
    parsed: list[Sequence[str]] = []
    cli: Callable[..., Any] = tyro.cli

    def counted_cli(*arguments: Any, args: Sequence[str], **keywords: Any) -> Any:
        parsed.append(args)
        return cli(*arguments, args=args, **keywords)

    monkeypatch.setattr(tyro, "cli", counted_cli)
    return parsed

"""The README.md of a trained model, as the Hugging Face Hub shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from splade_bench.units import format_bytes, format_seconds

CARD_NAME = "README.md"

_HEADER = """\
---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags:
- sentence-transformers
- sparse-encoder
- sparse
- splade
---

# SPLADE model

It turns a text into a sparse vector over its vocabulary. Two texts match by the similarity of their vectors.

```python
from sentence_transformers import SparseEncoder

model = SparseEncoder("FOLDER")  # this folder, or its name on the Hub
queries = model.encode_query(["who opens the file"])
documents = model.encode_document(["This function opens a file."])
print(model.similarity(queries, documents))
```

## Training

Trained with splade_bench.
"""


def model_card(record: Mapping[str, Any]) -> str:
    """The card of a run, from the record of it; what the record does not have is left out."""
    lines = [_HEADER, "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in _facts(record))]
    metrics, bm25 = record.get("metrics") or {}, record.get("bm25") or {}
    if metrics:
        lines += ["", "## Quality on the held-out queries", "", "| metric | model | BM25 |", "| --- | --- | --- |"]
        lines += [f"| {name} | {_number(value)} | {_number(bm25.get(name))} |" for name, value in metrics.items()]
    lines += ["", "## Settings", "", "```json", json.dumps(record.get("config"), indent=2), "```", ""]
    return "\n".join(lines)


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of the first table."""
    if name := record.get("model_name"):
        yield "started from", f"`{Path(name).name if Path(name).exists() else name}`"
    if data := record.get("corpus_sha256"):
        yield "training data, sha256", f"`{data}`"
    for name, key in (("optimizer steps", "optimizer_steps"), ("queries seen", "queries_seen")):
        if record.get(key) is not None:
            yield name, str(record[key])
    if record.get("final_loss") is not None:
        yield "final loss", _number(record["final_loss"])
    if record.get("device"):
        yield "device", str(record["device"])
    if record.get("wall_time_s"):
        yield "time", format_seconds(record["wall_time_s"])
    peak_bytes, runtime_bytes = record.get("peak_rss_bytes"), record.get("baseline_rss_bytes")
    if peak_bytes and runtime_bytes:
        added_bytes = peak_bytes - runtime_bytes
        yield "peak memory", f"{format_bytes(peak_bytes)}, of which {format_bytes(added_bytes)} for the training"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"

"""Vectors as JSON Lines that search engines read, one line for each text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from splade_bench.evaluation.encoding import Window
from splade_bench.files import replaced_folder

VECTOR_LINES = "vectors.jsonl"
# Anserini's impacts are whole numbers. Everybody multiplies SPLADE's weights by 100.
_IMPACT_SCALE = 100

LineMaker = Callable[[int, str, Sequence[int], Sequence[float], Sequence[str]], dict[str, Any]]
"""A row's number and id, its entries, their values and their tokens -> the record of its line."""


def _features(
    row: int, text_id: str, entries: Sequence[int], values: Sequence[float], tokens: Sequence[str]
) -> dict[str, Any]:
    features: dict[str, float] = {}
    for token, value in zip(tokens, values, strict=True):
        # Elasticsearch's rank_features refuses a name with a dot.
        name = token.replace(".", "__")
        features[name] = max(value, features.get(name, 0.0))
    return {"id": text_id, "vector": features}


def _point(
    row: int, text_id: str, entries: Sequence[int], values: Sequence[float], tokens: Sequence[str]
) -> dict[str, Any]:
    # A point's id is a whole number or a UUID.
    return {"id": row, "vector": {"splade": {"indices": entries, "values": values}}, "payload": {"id": text_id}}


def _impacts(
    row: int, text_id: str, entries: Sequence[int], values: Sequence[float], tokens: Sequence[str]
) -> dict[str, Any]:
    impacts = {token: round(value * _IMPACT_SCALE) for token, value in zip(tokens, values, strict=True)}
    return {"id": text_id, "content": "", "vector": {token: impact for token, impact in impacts.items() if impact}}


LINE_FORMATS: Mapping[str, LineMaker] = {
    # OpenSearch and Elasticsearch: a field of type rank_features or sparse_vector.
    "features": _features,
    # Qdrant: a point with a sparse vector named splade.
    "qdrant": _point,
    # Anserini and Pyserini: JsonVectorCollection, with -impact -pretokenized.
    "anserini": _impacts,
}


def write_vector_lines(folder: Path, windows: Iterable[Window], make_line: LineMaker, names: Sequence[str]) -> None:
    """Write a new folder with ``vectors.jsonl``. ``names`` are those of the vocabulary's entries.

    Memory: a window.

    Raises:
        OSError: it cannot be written; nothing is left of it then.
    """
    rows = 0
    with replaced_folder(folder) as unfinished, (unfinished / VECTOR_LINES).open("w", encoding="utf-8") as file:
        for window in windows:
            for text_id, entries, values in _rows(window):
                record = make_line(rows, text_id, entries, values, [names[entry] for entry in entries])
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                rows += 1


def _rows(window: Window) -> Iterator[tuple[str, list[int], list[float]]]:
    starts = window.reps.row_starts.tolist()
    for text_id, start, end in zip(window.ids, starts, starts[1:], strict=False):
        # The shortest decimal number that is the same float32, not its 17 digits as float64.
        values = [float(str(value)) for value in window.reps.values[start:end].numpy()]
        yield text_id, window.reps.entries[start:end].tolist(), values

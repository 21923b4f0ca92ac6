"""Files of judgements, those of BEIR and those of TREC: which documents answer a query, and how well."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from splade_bench.data.compressed import lines_of
from splade_bench.errors import DataError


@dataclass(frozen=True, slots=True)
class Judgement:
    """A line of such a file."""

    line: int
    query_id: str
    document_id: str
    relevance: float
    """Above 0 means relevant, and a larger number more relevant."""


def read_judgements(path: Path) -> Iterator[Judgement]:
    """The judgements of a file: a query's id, a document's id and a number in each line, between tabs or spaces.

    A first line that does not end in a number is a header. Four columns are those of TREC: the second has no meaning.

    Raises:
        DataError: the file cannot be read, or a line is not a judgement.
    """
    is_first = True
    for line, text in lines_of(path):
        cells = [cell.strip() for cell in text.split("\t")] if "\t" in text else text.split()
        relevance = _number(cells[-1])
        if relevance is not None and len(cells) in (3, 4) and all(cells):
            yield Judgement(line, cells[0], cells[-2], relevance)
        elif relevance is not None or not is_first:
            raise DataError(f"{path}:{line}: is not a judgement; write a query's id, a document's id and a number")
        is_first = False


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

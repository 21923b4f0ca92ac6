"""Training records from the titles of documents: a title is a query, and the text below it answers it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from splade_bench.data.placed import PlacedRecord
from splade_bench.data.texts_by_id import objects_of
from splade_bench.errors import DataError


def title_records(folder: Path, documents: Path) -> Iterator[PlacedRecord]:
    """A record for each document of a BEIR folder that has a title and a text.

    Raises:
        DataError: the file cannot be read, or none of its documents has both.
    """
    place, found = f"/{documents.relative_to(folder).as_posix()}", False
    for number, document in objects_of(documents):
        title, text = document.get("title") or "", document.get("text") or ""
        if not isinstance(title, str) or not isinstance(text, str):
            found = True  # what is wrong with it is said where it is read
            yield PlacedRecord(f"{place}:{number}", fault="has a title or a text that is not a string")
        elif title.strip() and text.strip():
            found = True
            yield PlacedRecord(f"{place}:{number}", {"query": title.strip(), "positive_document": text.strip()})
    if not found:
        raise DataError(f"{documents}: has no document with a title and a text; leave --train-format titles out")

"""Training files in, triples out. Every error names the file and the line or record.

A file is a JSON list of records, as the article's files are, or JSON Lines. A record is ``{"query": str,
"positive_document": str, "negative_documents": [str | {"document": str}, ...]}``. Training with in-batch negatives
alone needs no ``negative_documents``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splade_bench.data.foreign_files import complaint_about
from splade_bench.data.raw_records import RawRecord, RawRecords, open_data, record_name
from splade_bench.data.records import RetrievalDataset, Triple
from splade_bench.errors import DataError, error_line
from splade_bench.files import parse_record

_BROKEN_ESCAPE = "has a broken \\u escape (half a pair); write the character itself"


@dataclass(frozen=True, slots=True)
class _Document:
    document: str


@dataclass(frozen=True, slots=True)
class _Record:
    query: str
    positive_document: str
    negative_documents: Sequence[str | _Document] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Demands:
    """What a record of a training file must have."""

    need_negatives: bool = False
    skip_bad_records: bool = False
    """A negative with an empty or broken text is left out, and the others stay. Other faults leave the record out."""


def read_triples(path: Path, *, need_negatives: bool = False) -> Iterator[Triple]:
    """The records of a JSON or JSON Lines file, one by one.

    Raises:
        DataError: the file is missing, not UTF-8, not JSON, or empty, or a record has no query, no positive document
            or, if ``need_negatives``, no negative documents.
    """
    file, _ = open_data(path)
    with file:
        records = RawRecords(path, file)
        empty = True
        for raw in records:
            triple, _ = parse_triple(path, raw, Demands(need_negatives=need_negatives), is_list=records.is_list)
            yield triple
            empty = False
    if empty:
        raise DataError(f"{path}: holds no records")


def parse_triple(path: Path, raw: RawRecord, demands: Demands, *, is_list: bool) -> tuple[Triple, list[str]]:
    """The triple of a record, and why negatives were left out of it, one line for each.

    Raises:
        DataError: the record cannot be used.
    """
    where = record_name(path, raw.number, is_list=is_list)
    record = _parse_json(path, raw)
    try:
        parsed = parse_record(record, _Record)
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: a key {_BROKEN_ESCAPE}") from error
    except ValueError as error:
        raise DataError(f"{where}: {complaint_about(record, error)}") from error
    for name, text in (("query", parsed.query), ("positive_document", parsed.positive_document)):
        if fault := _fault(text):
            raise DataError(f"{where}: {name} {fault}")
    negatives, left_out = [], []
    for number, item in enumerate(parsed.negative_documents or ()):
        text = item if isinstance(item, str) else item.document
        fault = _fault(text)
        if not fault:
            negatives.append(text)
        elif demands.skip_bad_records:
            left_out.append(f"{where}: negative_documents[{number}] {fault}")
        else:
            raise DataError(f"{where}: negative_documents[{number}] {fault}")
    if demands.need_negatives and not negatives:
        raise DataError(f"{where}: has no negative_documents; add at least one, or give --negatives-per-query 0")
    return Triple(query=parsed.query, positive=parsed.positive_document, negatives=tuple(negatives)), left_out


def retrieval_dataset(triples: Iterable[Triple]) -> RetrievalDataset:
    """The unique queries of ``triples``, each to be ranked against all their documents.

    A query's candidates are its own positives and negatives (the article's protocol). A query without negatives has
    none. Triples with the same query add to its judgements.
    """
    query_ids: dict[str, str] = {}
    document_ids: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = defaultdict(dict)
    candidates: dict[str, dict[str, None]] = defaultdict(dict)  # the inner one is an ordered set
    with_negatives: set[str] = set()
    for triple in triples:
        query_id = query_ids.setdefault(triple.query, f"q{len(query_ids)}")
        for text in (triple.positive, *triple.negatives):
            candidates[query_id][document_ids.setdefault(text, f"d{len(document_ids)}")] = None
        qrels[query_id][document_ids[triple.positive]] = 1
        if triple.negatives:
            with_negatives.add(query_id)
    return RetrievalDataset(
        queries={query_id: text for text, query_id in query_ids.items()},
        corpus={document_id: text for text, document_id in document_ids.items()},
        qrels=dict(qrels),
        candidates={query_id: list(names) for query_id, names in candidates.items() if query_id in with_negatives},
    )


def _parse_json(path: Path, raw: RawRecord) -> Any:
    try:
        return json.loads(raw.text.decode())
    except UnicodeDecodeError as error:
        line = raw.line + raw.text.count(b"\n", 0, error.start)
        raise DataError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{raw.line + error.lineno - 1}: is not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number with too many digits, too many brackets
        raise DataError(f"{path}:{raw.line}: is not JSON: {error_line(error)}") from error


def _fault(text: str) -> str | None:
    """Why a text cannot be used."""
    if not text or text.isspace():
        return "is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return _BROKEN_ESCAPE
    return None

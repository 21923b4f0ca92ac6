"""Training files in, triples out. Every error names the file and the line or record.

A file is a JSON list of records, as the article's files are, or JSON Lines. A record is ``{"query": str,
"positive_document": str, "negative_documents": [str | {"document": str}, ...]}``. Training with in-batch negatives
alone needs no ``negative_documents``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from splade_bench.data.records import Corpus, RetrievalDataset, Triple, held_out_triples, sha256_of_texts
from splade_bench.errors import DataError, error_line
from splade_bench.files import parse_record


@dataclass(frozen=True, slots=True)
class _Document:
    document: str


@dataclass(frozen=True, slots=True)
class _Record:
    query: str
    positive_document: str
    negative_documents: Sequence[str | _Document] | None = None


def read_triples(path: Path, *, need_negatives: bool = False) -> list[Triple]:
    """The records of a JSON or JSON Lines file.

    Raises:
        DataError: the file is missing, not UTF-8, not JSON, or empty, or a record has no query, no positive document
            or, if ``need_negatives``, no negative documents.
    """
    triples = []
    for where, record in _records(path, _read_text(path)):
        triple = _triple(where, record)
        if need_negatives and not triple.negatives:
            raise DataError(f"{where}: has no negative_documents; add at least one, or give --negatives-per-query 0")
        triples.append(triple)
    if not triples:
        raise DataError(f"{path}: holds no records")
    return triples


def retrieval_dataset(triples: list[Triple]) -> RetrievalDataset:
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


def file_corpus(train_file: Path, val_file: Path | None, *, need_negatives: bool = False) -> Corpus:
    """Training triples from one file, evaluated on another if it is given."""
    triples = read_triples(train_file, need_negatives=need_negatives)
    test = retrieval_dataset(read_triples(val_file)) if val_file else None
    return Corpus(
        triples=triples,
        test=test,
        test_triples=held_out_triples(test) if test else (),
        sha256=sha256_of_texts(
            [[triple.query, triple.positive, triple.negatives] for triple in triples], test and asdict(test)
        ),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _records(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Where each record is, and its JSON."""
    if text.lstrip()[:1] == "[":
        for number, record in enumerate(_parse_json(path, 1, text), 1):
            yield f"{path}: record {number}", record
        return
    # Not splitlines(): it also breaks at characters that JSON strings may have.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", _parse_json(path, number, line)


def _parse_json(path: Path, first_line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{first_line + error.lineno - 1}: is not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number with too many digits, too many brackets
        raise DataError(f"{path}:{first_line}: is not JSON: {error_line(error)}") from error


def _triple(where: str, record: Any) -> Triple:
    try:
        parsed = parse_record(record, _Record)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    negatives = [item if isinstance(item, str) else item.document for item in parsed.negative_documents or ()]
    named = {"query": parsed.query, "positive_document": parsed.positive_document}
    named |= {f"negative_documents[{number}]": text for number, text in enumerate(negatives)}
    for name, text in named.items():
        if not text.strip():
            raise DataError(f"{where}: {name} is empty")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(f"{where}: {name} has a broken \\u escape (half a pair); write the character itself")
    return Triple(query=parsed.query, positive=parsed.positive_document, negatives=tuple(negatives))

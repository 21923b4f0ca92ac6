"""Training files in, records out; every complaint names the file and the line or record.

Two spellings of one record are read: a JSON list of them (the article's files) and JSON Lines. A record is
``{"query": str, "positive_document": str, "negative_documents": [str | {"document": str}, ...]}``. A training with
in-batch negatives alone needs no ``negative_documents``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from splade_bench.data.records import Corpus, RetrievalDataset, Triple, held_out_triples, sha256_of_texts
from splade_bench.errors import DataError


def read_triples(path: Path, *, need_negatives: bool = False) -> list[Triple]:
    """The records of a JSON or JSON Lines file.

    Raises:
        DataError: the file is missing, not UTF-8, not JSON, empty, or has a record without a query, a positive
            document or, where they are needed, negative documents.
    """
    text = _read_text(path)
    records = _records_of_list(path, text) if text.lstrip()[:1] == "[" else _records_of_lines(path, text)
    triples = []
    for where, record in records:
        triple = _triple(where, record)
        if need_negatives and not triple.negatives:
            raise DataError(
                f"{where}: negative_documents must be a list with at least one document, or --negatives-per-query 0"
            )
        triples.append(triple)
    if not triples:
        raise DataError(f"{path}: holds no records")
    return triples


def retrieval_dataset(triples: list[Triple]) -> RetrievalDataset:
    """Each different query of ``triples``, ranked against all their documents.

    A query's candidates are its own positives and negatives (the article's protocol); one without negatives has none.
    Records that repeat a query add to its judgements.
    """
    ids: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    candidates: dict[str, dict[str, None]] = {}  # a dict, for order without repetition
    query_ids: dict[str, str] = {}
    with_negatives: set[str] = set()
    for triple in triples:
        query_id = query_ids.setdefault(triple.query, f"q{len(query_ids)}")
        queries[query_id] = triple.query
        if triple.negatives:
            with_negatives.add(query_id)
        for relevance, texts in ((1, (triple.positive,)), (0, triple.negatives)):
            for text in texts:
                document_id = ids.setdefault(text, f"d{len(ids)}")
                candidates.setdefault(query_id, {})[document_id] = None
                if relevance:
                    qrels.setdefault(query_id, {})[document_id] = relevance
    return RetrievalDataset(
        queries=queries,
        corpus={document_id: text for text, document_id in ids.items()},
        qrels=qrels,
        candidates={query_id: list(names) for query_id, names in candidates.items() if query_id in with_negatives},
    )


def file_corpus(train_file: Path, val_file: Path | None, *, need_negatives: bool = False) -> Corpus:
    """Training triples from one file, judged on another where there is one."""
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


def _records_of_list(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DataError(f"{path}:{line}: is not JSON: {_reason(error)}") from error
    for number, record in enumerate(records, 1):
        yield f"{path}: record {number}", record


def _records_of_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): it also breaks at characters that JSON strings may hold.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: is not JSON: {_reason(error)}") from error
            yield f"{path}:{number}", record


def _triple(where: str, record: Any) -> Triple:
    if not isinstance(record, dict):
        raise DataError(f"{where}: is {type(record).__name__}, not an object with query and positive_document")
    negatives = record.get("negative_documents")
    if negatives is None:
        negatives = []
    if not isinstance(negatives, list):
        raise DataError(f"{where}: negative_documents must be a list of documents")
    return Triple(
        query=_text(where, "query", record.get("query")),
        positive=_text(where, "positive_document", record.get("positive_document")),
        negatives=tuple(
            _text(where, f"negative_documents[{number}]", item.get("document") if isinstance(item, dict) else item)
            for number, item in enumerate(negatives)
        ),
    )


def _text(where: str, name: str, value: Any) -> str:
    if value is None:
        raise DataError(f"{where}: {name} is missing")
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} must be text")
    if not value.strip():
        raise DataError(f"{where}: {name} is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{where}: {name} holds half a character (a lone surrogate); write the whole one")
    return value


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else " ".join(str(error).split())

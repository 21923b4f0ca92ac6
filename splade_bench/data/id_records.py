"""The training records of a folder of ids, with their texts, and with a teacher's scores if there are some."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splade_bench.data.compressed import lines_of
from splade_bench.data.id_folders import FoundFiles
from splade_bench.data.judgements import read_judgements
from splade_bench.data.placed import PlacedRecord
from splade_bench.data.texts_by_id import TextsById, id_of, objects_of, read_texts
from splade_bench.errors import DataError, error_line

# Of the negatives that a file names for a query, so many are kept: each of them is written out as a text.
MAX_NEGATIVES = 32

_NO_IDS = 'has no ids, or other things than ids; write each line as {"qid": 1, "pos_doc_id": 2, "neg_doc_id": 3}'


@dataclass(slots=True)
class _Example:
    query: str
    positives: list[str]
    negatives: list[str] = field(default_factory=list)
    """Empty: those that have scores are taken."""
    scores: list[float] = field(default_factory=list)


def id_folder_records(found: FoundFiles) -> Iterator[PlacedRecord]:
    """The training records of a folder of ids, with their texts.

    Memory: that of :class:`TextsById`, for each file of texts.

    Raises:
        DataError: a file cannot be read, or an id repeats in a file of texts.
    """
    place = f"/{found.examples.relative_to(found.path).as_posix()}"
    try:
        with ExitStack() as opened:
            queries = opened.enter_context(closing(read_texts(found.queries)))
            documents = opened.enter_context(closing(read_texts(found.documents)))
            scores = opened.enter_context(closing(_read_scores(found.scores))) if found.scores else None
            for line, example in _examples(found):
                where = f"{place}:{line}"
                try:
                    if isinstance(example, str):
                        raise ValueError(example)
                    _require_distinct(example)
                    if scores:
                        _add_scores(example, scores)
                    yield PlacedRecord(where, _record(example, queries, documents, found))
                except ValueError as error:
                    yield PlacedRecord(where, fault=str(error))
    except sqlite3.Error as error:
        raise DataError(
            f"{found.path}: its texts cannot be kept in a temporary file ({error_line(error)}); set TMPDIR to a folder "
            "with room for a copy of them"
        ) from error


def _examples(found: FoundFiles) -> Iterator[tuple[int, _Example | str]]:
    """Line and ids of each example, or what is wrong with it."""
    path = found.examples
    if path.name.removesuffix(".gz") != Path(found.kind.judgements).name:
        read = _table_ids if ".tsv" in path.suffixes else _json_ids
        for line, text in lines_of(path):
            try:
                yield line, read(text)
            except (ValueError, RecursionError) as error:
                yield line, error_line(error)
        return
    with closing(TextsById()) as judged:
        for line, query, document, relevance in _judgements(path):
            judged.add(query, line, f"{relevance} {document}")
        for query, line, texts in judged.groups():
            pairs = [text.split(" ", 1) for text in texts]
            ranked = sorted(pairs, key=lambda pair: -float(pair[0]))  # stable: in the order of the file
            positives = [document for relevance, document in ranked if float(relevance) > 0]
            negatives = [document for relevance, document in ranked if float(relevance) <= 0]
            example = _Example(query, positives, negatives)
            yield line, example if positives else f"query {query} has no relevant document"


def _judgements(path: Path) -> Iterator[tuple[int, str, str, float]]:
    """Line, query, document and relevance of each judgement."""
    if ".tsv" not in path.suffixes:
        for line, record in objects_of(path):
            query, documents = id_of(record.get("qid")), record.get("positive_doc_ids")
            if query is None or not isinstance(documents, list) or None in (ids := list(map(id_of, documents))):
                raise DataError(f'{path}:{line}: has not the form {{"qid": 1, "positive_doc_ids": [2]}}')
            yield from ((line, query, str(document), 1.0) for document in ids)
        return
    yield from ((one.line, one.query_id, one.document_id, one.relevance) for one in read_judgements(path))


def _table_ids(text: str) -> _Example:
    cells = text.split()
    if len(cells) < 2:
        raise ValueError("has one column; write the ids of a query, a positive and negatives")
    return _Example(cells[0], cells[1:2], cells[2:])


def _json_ids(text: str) -> _Example:
    record = json.loads(text)
    if isinstance(record, list):
        record = {"qid": record[0], "pos": record[1:2], "neg": record[2:]} if len(record) > 1 else {}
    if not isinstance(record, dict):
        raise ValueError(_NO_IDS)
    positives, negatives = record.get("pos", record.get("pos_doc_id")), record.get("neg", record.get("neg_doc_id"))
    query, positive_ids = id_of(record.get("qid")), _ids(positives)
    if isinstance(negatives, dict):  # those of several retrieval systems
        found = dict.fromkeys(one for system in negatives.values() for one in _ids(system))
        negative_ids = [one for one in found if one not in positive_ids]
    else:
        negative_ids = _ids(negatives)
    if query is None or not positive_ids:
        raise ValueError(_NO_IDS)
    return _Example(query, positive_ids, _spread(negative_ids))


def _ids(value: Any) -> list[str]:
    """An id, or a list of ids."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    ids = [text_id for one in values if (text_id := id_of(one))]
    if len(ids) < len(values):
        raise ValueError(_NO_IDS)
    return ids


def _spread(ranked: Sequence[str]) -> list[str]:
    """At most :data:`MAX_NEGATIVES` of them, from all parts of the ranking alike."""
    taken = min(len(ranked), MAX_NEGATIVES)
    return [ranked[number * len(ranked) // taken] for number in range(taken)]


def _read_scores(path: Path) -> TextsById:
    """Query id -> its documents' scores as JSON: of lines with "qid" and "scores", or of an object of such objects."""
    kept = TextsById()
    for line, record in objects_of(path):
        all_scores = [(record.get("qid"), record["scores"])] if "scores" in record else list(record.items())
        for query, scores in all_scores:
            query_id = id_of(query)
            if query_id is None or not isinstance(scores, dict):
                raise DataError(f'{path}:{line}: has not the form {{"qid": 1, "scores": {{"2": 0.5}}}}')
            kept.add(query_id, line, json.dumps(scores))
    if repeated := kept.index():
        query_id, first, second = repeated
        raise DataError(f"{path}:{second}: query {query_id} has scores in line {first} too; leave one of them")
    return kept


def _require_distinct(example: _Example) -> None:
    """Drop repeated judgements; one that contradicts another is refused."""
    if not example.scores:  # they belong to the places of the documents
        example.positives[:] = dict.fromkeys(example.positives)
        example.negatives[:] = dict.fromkeys(example.negatives)
    seen: set[str] = set()
    for document in (*example.positives, *example.negatives):
        if document in seen:
            raise ValueError(f"query {example.query} has document {document} twice; leave one of them")
        seen.add(document)


def _add_scores(example: _Example, scores: TextsById) -> None:
    """Give an example its documents' scores; and the documents that have some as negatives, if it has none."""
    found = scores.get(example.query)
    if found is None:
        raise ValueError(f"query {example.query} is not in the file of scores")
    scored: dict[str, Any] = json.loads(found)
    if not example.negatives:
        others = [document for document in scored if document not in example.positives]
        others.sort(key=lambda document: -scored[document] if isinstance(scored[document], int | float) else 0.0)
        example.negatives = _spread(others)
    for document in (*example.positives, *example.negatives):
        if document not in scored:
            raise ValueError(f"document {document} has no score for query {example.query} in the file of scores")
        example.scores.append(scored[document])


def _record(example: _Example, queries: TextsById, documents: TextsById, found: FoundFiles) -> dict[str, Any]:
    def text_of(kind: str, texts: TextsById, text_id: str, path: Path) -> str:
        text = texts.get(text_id)
        if text is None:
            raise ValueError(f"{kind} {text_id} is not in {path.name}; add it there, or leave the record out")
        return text

    positive, *others = [text_of("document", documents, one, found.documents) for one in example.positives]
    return {
        "query": text_of("query", queries, example.query, found.queries),
        "positive_document": positive,
        "other_positive_documents": others,
        "negative_documents": [text_of("document", documents, one, found.documents) for one in example.negatives],
        "teacher_scores": example.scores or None,
    }

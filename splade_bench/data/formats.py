"""Records in, triples out. Every error names the file and the line or record.

A file is a JSON list of records, as the article's files are, or JSON Lines. Its columns are those of
:mod:`splade_bench.data.columns`. Files in other formats are written as JSON Lines first
(:mod:`splade_bench.data.training_source`). Training with in-batch negatives alone needs no negatives.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from splade_bench.data.columns import BROKEN_ESCAPE, Draft, draft_of
from splade_bench.data.raw_records import RawRecord, RawRecords, record_name
from splade_bench.data.records import RetrievalDataset, Triple
from splade_bench.data.streamed_texts import SpooledTexts
from splade_bench.data.training_source import open_source
from splade_bench.errors import DataError, error_line


@dataclass(frozen=True, kw_only=True, slots=True)
class Demands:
    """What a record of a training file must have."""

    need_negatives: bool = False
    need_teacher: bool = False
    skip_bad_records: bool = False
    """A negative with an empty or broken text is left out, and the others stay. Other faults leave the record out."""
    columns: str | None = None
    """The name of its columns (:data:`splade_bench.data.columns.COLUMNS`). None: they are recognized."""


def read_triples(path: Path, *, need_negatives: bool = False) -> Iterator[Triple]:
    """The records of a file in any format that ``--train-file`` takes, one by one.

    Raises:
        DataError: the file is missing, not UTF-8, not JSON, or empty, or a record has no query, no positive document
            or, if ``need_negatives``, no negative documents.
    """
    source = open_source(path)
    with source.file:
        records = RawRecords(path, source.file, has_places=source.has_places)
        empty = True
        for raw in records:
            demands = Demands(need_negatives=need_negatives)
            yield parse_triple(path, raw, demands, is_list=records.is_list, has_places=source.has_places)[0]
            empty = False
    if empty:
        raise DataError(f"{path}: holds no records")


def parse_triple(
    path: Path, raw: RawRecord, demands: Demands, *, is_list: bool, has_places: bool = False
) -> tuple[Triple, list[str]]:
    """The triple of a record, and why negatives were left out of it, one line for each.

    Args:
        path: the file, as errors name it.
        raw: the record.
        demands: what it must have.
        is_list: whether the file is a JSON list.
        has_places: whether each record says where it is from, as those of a converted file do.

    Raises:
        DataError: the record cannot be used.
    """
    where, record = record_and_place(path, raw, is_list=is_list, has_places=has_places)
    try:
        draft = draft_of(record, demands.columns)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    for name, text in (draft.query, *draft.positives):
        if fault := _fault(text):
            raise DataError(f"{where}: {name} {fault}")
    faults = [_fault(text) for _, text in draft.negatives]
    left_out = [f"{where}: {name} {fault}" for (name, _), fault in zip(draft.negatives, faults, strict=True) if fault]
    if left_out and not demands.skip_bad_records:
        raise DataError(left_out[0])
    if demands.need_negatives and all(faults):
        advice = "add at least one, or give --negatives-per-query 0"
        raise DataError(f"{where}: has no {draft.negatives_name}; {advice}")
    if demands.need_teacher and not draft.teacher_scores:
        raise DataError(f"{where}: has no teacher scores, which --loss needs; add them, or take --loss contrastive")
    return _triple(draft, [not fault for fault in faults]), left_out


def record_and_place(path: Path, raw: RawRecord, *, is_list: bool, has_places: bool) -> tuple[str, Any]:
    """A record as a user finds it, and its parsed JSON.

    Raises:
        DataError: it is not JSON; or there is none, because what it was made from has a fault.
    """
    record = _parse_json(path, raw)
    if not has_places:
        return record_name(path, raw.number, is_list=is_list), record
    where = f"{path}{record['place']}"
    if fault := record.get("fault"):
        raise DataError(f"{where}: {fault}")
    return where, record["record"]


def _triple(draft: Draft, are_kept: Sequence[bool]) -> Triple:
    """The triple of a checked draft, with those of its negatives that are kept, and their scores."""
    positive, *others = (text for _, text in draft.positives)
    all_kept = [*(True for _ in draft.positives), *are_kept]
    return Triple(
        query=draft.query[1] or "",
        positive=positive,
        negatives=tuple(text for (_, text), kept in zip(draft.negatives, are_kept, strict=True) if kept),
        other_positives=tuple(others),
        teacher_scores=tuple(compress(draft.teacher_scores, all_kept)),
    )


def retrieval_dataset(triples: Iterable[Triple], *, spooled: SpooledTexts | None = None) -> RetrievalDataset:
    """The unique queries of ``triples``, each to be ranked against all their documents.

    A query's candidates are its own positives and negatives (the article's protocol). A query without negatives has
    none. Triples with the same query add to its judgements.

    Memory: the queries, and all documents, unless they are to be ``spooled``.
    """
    query_ids: dict[str, str] = {}
    document_ids: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = defaultdict(dict)
    candidates: dict[str, dict[str, None]] = defaultdict(dict)  # the inner one is an ordered set
    with_negatives: set[str] = set()

    def id_of(text: str) -> str:
        return spooled.id_of(text) if spooled else document_ids.setdefault(text, f"d{len(document_ids)}")

    for triple in triples:
        query_id = query_ids.setdefault(triple.query, f"q{len(query_ids)}")
        for text in (*triple.positives, *triple.negatives):
            candidates[query_id][id_of(text)] = None
        qrels[query_id] |= {id_of(text): 1 for text in triple.positives}
        if triple.negatives:
            with_negatives.add(query_id)
    return RetrievalDataset(
        queries={query_id: text for text, query_id in query_ids.items()},
        corpus=spooled.texts() if spooled else {document_id: text for text, document_id in document_ids.items()},
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


def _fault(text: str | None) -> str | None:
    """Why a text cannot be used."""
    if not text or text.isspace():
        return "is empty"
    try:
        text.encode()
    except UnicodeEncodeError:
        return BROKEN_ESCAPE
    return None

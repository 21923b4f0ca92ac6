"""Collections in BEIR's format in, texts and judgements out. Every error names the file and the line.

A folder has ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``) and, for each split,
``qrels/SPLIT.tsv``: a header, then a query's id, a document's id and a whole number in each line, separated by tabs; or
the four columns of TREC. A number above 0 means relevant. Each file may be compressed with gzip (``.gz``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from splade_bench.data.compressed import DAMAGED, damaged, opened
from splade_bench.data.judgements import Judgement, read_judgements
from splade_bench.data.raw_records import RawRecords, record_name
from splade_bench.data.records import RetrievalDataset
from splade_bench.data.streamed_texts import StreamedTexts
from splade_bench.errors import DataError, one_line

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"
_TEXT_FORM = '{"_id": "...", "title": "...", "text": "..."}'


class _Text(msgspec.Struct, frozen=True):
    """A line of a corpus or of queries; other keys are ignored."""

    text: str
    id: str | int = msgspec.field(name="_id")
    title: str | None = None


def is_beir_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with a corpus and queries in BEIR's format."""
    return all(_find(path / name) is not None for name in (CORPUS, QUERIES))


def read_beir(folder: Path, split: str = "test") -> RetrievalDataset:
    """The queries that a split judges, their judgements, and all documents of a collection.

    A document's text is its title, a space, and its text. Documents are checked, and then read again each time.

    Memory: the queries, the judgements, and, while it checks, the ids of all documents.

    Raises:
        DataError: a file is missing or has another format; the folder has no such split; an id repeats; or a query or
            a document that is judged is missing.
    """
    qrels_path = _qrels_file(folder, split)
    judgements = _checked_judgements(qrels_path)
    judged_queries = {judgement.query_id for judgement in judgements}
    queries = {}
    for query_id, text in read_texts(find_file(folder / QUERIES)):
        if query_id in judged_queries:
            if not text:
                raise DataError(f"{folder / QUERIES}: the query {_shown(query_id)} is empty")
            queries[query_id] = text
    corpus_path = find_file(folder / CORPUS)
    judged_documents = {judgement.document_id for judgement in judgements}
    documents, found = 0, set()
    for document_id, _ in read_texts(corpus_path):
        documents += 1
        if document_id in judged_documents:
            found.add(document_id)
    qrels: dict[str, dict[str, int]] = {query_id: {} for query_id in queries}
    for judgement in judgements:
        for kind, text_id, known, name in (
            ("query", judgement.query_id, queries, QUERIES),
            ("document", judgement.document_id, found, CORPUS),
        ):
            if text_id not in known:
                where = f"{qrels_path}:{judgement.line}"
                advice = "add it there, or leave the judgement out"
                raise DataError(f"{where}: judges the {kind} {_shown(text_id)}, which is not in {name}; {advice}")
        qrels[judgement.query_id][judgement.document_id] = int(judgement.relevance)
    corpus = StreamedTexts(lambda: read_texts(corpus_path, are_checked=True), documents)
    return RetrievalDataset(queries=queries, corpus=corpus, qrels=qrels)


def read_texts(path: Path, *, are_checked: bool = False) -> Iterator[tuple[str, str]]:
    """Id and text of each line of a corpus or of queries, one by one; a title comes before its text.

    Memory: the ids, unless ``are_checked`` says that none repeats.

    Raises:
        DataError: the file cannot be read, holds nothing, a line has another format, or an id repeats.
    """
    seen: set[str] = set()
    with opened(path) as file:
        try:
            records = RawRecords(path, file)
            for raw in records:
                where = record_name(path, raw.number, is_list=records.is_list)
                text_id, text = _parse_text(where, raw.text)
                if text_id in seen:
                    raise DataError(f"{where}: the _id {_shown(text_id)} repeats; give each line its own")
                if not are_checked:
                    seen.add(text_id)
                yield text_id, text
        except DAMAGED as error:
            raise damaged(path, error) from error
    if not are_checked and not seen:
        raise DataError(f"{path}: holds no records")


def _parse_text(where: str, line: bytes) -> tuple[str, str]:
    try:
        record = msgspec.json.decode(line, type=_Text)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8; save the file as UTF-8") from error
    except msgspec.ValidationError as error:
        complaint = str(error).replace("`", "").replace(" - at $.", " in ")
        raise DataError(f"{where}: {complaint}; write each line as {_TEXT_FORM}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON: {error}") from error
    return str(record.id), f"{record.title or ''} {record.text}".strip()


def _checked_judgements(path: Path) -> list[Judgement]:
    """The judgements of a split, each pair of ids once; scores are whole numbers, as graded measures need them."""
    judgements = []
    first_lines: dict[tuple[str, str], Judgement] = {}
    for judgement in read_judgements(path):
        where = f"{path}:{judgement.line}"
        if not judgement.relevance.is_integer():
            raise DataError(f"{where}: the score {judgement.relevance} is not a whole number")
        first = first_lines.setdefault((judgement.query_id, judgement.document_id), judgement)
        if first.relevance != judgement.relevance:
            raise DataError(f"{where}: contradicts line {first.line}, which judges the same two ids")
        if first is judgement:
            judgements.append(judgement)
    if not judgements:
        raise DataError(f"{path}: holds no judgements")
    if all(judgement.relevance <= 0 for judgement in judgements):
        raise DataError(f"{path}: judges no document relevant: every score is 0 or less; above 0 means relevant")
    return judgements


def _qrels_file(folder: Path, split: str) -> Path:
    path = _find(folder / QRELS / f"{split}.tsv")
    if path is None:
        find_file(folder / CORPUS)  # a folder that is none of a collection says so first
        splits = {file.name.partition(".tsv")[0] for file in (folder / QRELS).glob("*.tsv*")}
        known = f"it has {', '.join(sorted(splits))}" if splits else f"put judgements into {QRELS}/{split}.tsv"
        raise DataError(f"{folder}: has no split {_shown(split)}; {known}")
    return path


def find_file(path: Path) -> Path:
    """A file of a collection, or else the same file compressed.

    Raises:
        DataError: there is none.
    """
    found = _find(path)
    if found is None:
        raise DataError(
            f"{path.parent}: has no {path.name}; a BEIR folder has {CORPUS}, {QUERIES} and {QRELS}/SPLIT.tsv"
        )
    return found


def _find(path: Path) -> Path | None:
    """The file, or else the same file compressed."""
    compressed = path.with_name(f"{path.name}.gz")
    return next((file for file in (path, compressed) if file.is_file()), None)


def _shown(text: str) -> str:
    return f"'{one_line(text)[:40]}'"

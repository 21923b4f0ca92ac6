"""What the columns of a record are called: which of them are the query, its documents and a teacher's scores."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from splade_bench.data.teacher_scores import json_type, scores_of_columns, scores_of_label
from splade_bench.errors import one_line

BROKEN_ESCAPE = "has a broken \\u escape (half a pair); write the character itself"
RECORD_FORM = '{"query": "...", "positive_document": "...", "negative_documents": ["..."]}'

_NUMBERED = re.compile(r"negative_(\d{1,4})")
_ID_COLUMNS = frozenset(
    ("qid", "query_id", "pos_doc_id", "neg_doc_id", "positive_id", "negative_id", "pid", "doc_id", "positive_doc_ids")
)
_MOST_KEYS = 8
_LONGEST_KEY = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """One way to name the columns of a record. Of several names for the same column, a record has one."""

    name: str
    """Value of ``--train-format``."""
    query: tuple[str, ...]
    positive: tuple[str, ...]
    other_positives: tuple[str, ...] = ()
    negatives: tuple[str, ...]
    has_numbered_negatives: bool = False
    """Whether negative_1, negative_2 and so on are negatives too."""
    scores: tuple[str, ...] = ()
    """One number for each document; the names of several columns are put together."""
    labels: tuple[str, ...] = ()
    """Scores, or margins: the positive's score minus a negative's."""
    form: str

    def used(self, keys: Collection[str]) -> list[str]:
        """The columns of a record that are read."""
        names = (*self.query, *self.positive, *self.other_positives, *self.negatives)
        numbered = sorted(filter(_NUMBERED.fullmatch, keys), key=lambda key: int(key[len("negative_") :]))
        all_names = (*names, *(numbered if self.has_numbered_negatives else ()), *self.scores, *self.labels)
        return [name for name in all_names if name in keys]

    def negative_columns(self, keys: Collection[str]) -> list[str]:
        return [key for key in self.used(keys) if key in self.negatives or _NUMBERED.fullmatch(key)]

    def fits(self, keys: Collection[str]) -> bool:
        return any(name in keys for name in self.query) and any(name in keys for name in self.positive)


OURS = Columns(
    name="splade-bench",
    query=("query",),
    positive=("positive_document",),
    other_positives=("other_positive_documents",),
    negatives=("negative_documents",),
    scores=("teacher_scores",),
    form=RECORD_FORM,
)
COLUMNS = (
    OURS,
    Columns(
        name="sentence-transformers",
        query=("anchor", "query", "question", "sentence1"),
        positive=("positive", "answer", "sentence2"),
        negatives=("negative", "negatives"),
        has_numbered_negatives=True,
        labels=("label", "labels", "score", "scores"),
        form='{"anchor": "...", "positive": "...", "negative": "..."}',
    ),
    Columns(
        name="pos-neg",
        query=("query",),
        positive=("pos",),
        negatives=("neg",),
        scores=("pos_scores", "neg_scores"),
        form='{"query": "...", "pos": ["..."], "neg": ["..."]}',
    ),
)
# A text in these is a list if it is JSON: a cell of a table can hold nothing else, and some tools write Parquet so.
_LIST_COLUMNS = frozenset(
    {
        *("negative_documents", "other_positive_documents", "teacher_scores"),
        *("negatives", "label", "labels", "score", "scores"),
        *("pos", "neg", "pos_scores", "neg_scores"),
    }
)
_PRINTED_LIST = re.compile(r"""\[\s*['"].*['"]\s*\]""", re.DOTALL)
LISTS = "lists"
LIST_FORM = '["query", "positive", "negative", ...]'


@dataclass(slots=True)
class Draft:
    """A record whose columns are known. Texts are not checked yet; each has the name of the column it is from."""

    query: tuple[str, str | None]
    positives: list[tuple[str, str]]
    negatives: list[tuple[str, str]] = field(default_factory=list)
    negatives_name: str = "negatives"
    teacher_scores: tuple[float, ...] = ()
    """One for each of the positives and the negatives, or none at all."""


def draft_of(record: Any, wanted: str | None = None) -> Draft:
    """The query, the documents and the scores of a record, by the names of its columns.

    Args:
        record: parsed JSON, or a row of a table.
        wanted: the name of the columns, or "lists"; None: they are recognized.

    Raises:
        ValueError: they cannot be told; the message is one line that says what to change.
    """
    if isinstance(record, list) and wanted in (None, LISTS) and len(record) > 1:
        for number, text in enumerate(record):
            if not isinstance(text, str):
                raise ValueError(f"[{number}]: Expected str, got {json_type(text)}; write each record as {LIST_FORM}")
        documents = [(f"[{number}]", text) for number, text in enumerate(record[1:], 1)]
        return Draft(("[0]", record[0]), documents[:1], documents[1:])
    if not isinstance(record, dict) or wanted == LISTS:
        form = LIST_FORM if wanted == LISTS else f"{RECORD_FORM} or {LIST_FORM}"
        expected = "array" if wanted == LISTS else "object"
        raise ValueError(f"Expected {expected}, got {json_type(record)}; write each record as {form}")
    names = _names(tuple(record), wanted)
    return _draft(record | {name: _list_in(name, record[name]) for name in _LIST_COLUMNS & record.keys()}, *names)


def columns_of(keys: tuple[str, ...], wanted: str | None = None) -> Columns:
    """The columns that a record with these keys has.

    Raises:
        ValueError: none fit, or those of two formats do.
    """
    fitting = [columns for columns in COLUMNS if columns.fits(keys) and wanted in (None, columns.name)]
    if not fitting:
        raise ValueError(_why_none_fit(keys, wanted))
    if len(fitting) > 1:
        shown = " and of ".join(f"{one.name} ({', '.join(map(_shown, one.used(keys)))})" for one in fitting)
        raise ValueError(
            f"has the columns of {shown}; take those of one out, or name one with --train-format if this is the "
            "--train-file"
        )
    (columns,) = fitting
    for role, names in (("query", columns.query), ("positive", columns.positive), ("teacher's scores", columns.labels)):
        if len(found := [name for name in names if name in keys]) > 1:
            raise ValueError(f"two columns may be the {role}: {', '.join(found)}; leave one of them out")
    return columns


def describe(record: Any, wanted: str | None = None) -> str:
    """Which columns of a record are read, for people."""
    if isinstance(record, list):
        return f"lists of a query, a positive and negatives ({LISTS})"
    columns = columns_of(tuple(record), wanted)
    return f"columns {', '.join(columns.used(record))} ({columns.name})"


def is_column(name: str) -> bool:
    """Whether a format has a column of this name."""
    return any(columns.used((name,)) for columns in COLUMNS)


def has_ids(keys: Collection[str]) -> bool:
    """Whether keys are those of records that name texts by their ids."""
    return not _ID_COLUMNS.isdisjoint(keys)


def shown_keys(keys: Sequence[str]) -> str:
    """The first few keys of a record, for a message."""
    return ", ".join(map(_shown, keys[:_MOST_KEYS])) + (", ..." if len(keys) > _MOST_KEYS else "") or "none"


def _shown(key: str) -> str:
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a key {BROKEN_ESCAPE}") from error
    return one_line(key)[:_LONGEST_KEY]


def _why_none_fit(keys: tuple[str, ...], wanted: str | None) -> str:
    its_keys = f"its keys are: {shown_keys(keys)}"
    if wanted is not None:
        form = next(columns.form for columns in COLUMNS if columns.name == wanted)
        return f"has not the columns of --train-format {wanted}; {its_keys}; write it as {form}"
    if has_ids(keys) or (keys and all(key.isdecimal() for key in keys)):
        return f"has ids, not texts; {its_keys}; give --train-file the folder that also has the files of texts"
    missing = "query" if "query" not in keys else "positive_document"
    others = " or ".join(columns.form for columns in COLUMNS[1:])
    return f"Object missing required field {missing}; {its_keys}; write it as {RECORD_FORM} or {others}"


@lru_cache(maxsize=64)
def _names(keys: tuple[str, ...], wanted: str | None) -> tuple[Columns, str, str, list[str]]:
    """The columns of records with these keys; and their names of the query, the positive and the negatives."""
    columns = columns_of(keys, wanted)
    (query,) = (name for name in columns.query if name in keys)
    (positive,) = (name for name in columns.positive if name in keys)
    return columns, query, positive, columns.negative_columns(keys)


def _list_in(name: str, value: Any) -> Any:
    """The list that a text holds as JSON; any other value as it is."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        if _PRINTED_LIST.fullmatch(value):
            raise ValueError(f"{name} is a list as Python prints it; write it as JSON, with json.dumps") from None
        return value  # a text that begins with a bracket


def _draft(
    record: dict[str, Any], columns: Columns, query: str, positive: str, negative_columns: Sequence[str]
) -> Draft:
    if not isinstance(record[query], str) and record[query] is not None:
        raise ValueError(_expected(query, "str", record[query]))
    is_ours = columns is OURS
    positives = list(_texts(positive, record[positive], "str" if is_ours else "str or array"))
    for name in columns.other_positives:
        positives += _texts(name, record.get(name), "array")
    if not positives:
        raise ValueError(f"{positive} is empty; give at least one document that answers the query")
    negatives: list[tuple[str, str]] = []
    for name in negative_columns:
        negatives += _texts(name, record[name], "array" if is_ours else "str or array")
    counts = (len(positives), len(negatives))
    scores = [name for name in columns.scores if record.get(name) is not None]
    labels = [name for name in columns.labels if record.get(name) is not None]
    if labels:
        teacher_scores = scores_of_label(labels[0], record[labels[0]], counts)
    else:
        teacher_scores = scores_of_columns(columns.scores, record, counts) if scores else ()
    negatives_name = [*negative_columns, *columns.negatives][0]
    return Draft((query, record[query]), positives, negatives, negatives_name, teacher_scores)


def _texts(name: str, value: Any, expected: str) -> Iterator[tuple[str, str]]:
    """Each text of a column with its name; a text may be in an object, as those of the article's files are."""
    if value is None and expected != "str":
        return
    if isinstance(value, str) and expected != "array":
        yield name, value
    elif isinstance(value, list) and expected != "str":
        for number, item in enumerate(value):
            place = f"{name}[{number}]"
            if isinstance(item, dict) and "document" not in item:
                raise ValueError(f"{place}: Object missing required field document")
            text = item["document"] if isinstance(item, dict) else item
            if not isinstance(text, str):
                raise ValueError(_expected(place, "str", text))
            yield place, text
    else:
        raise ValueError(_expected(name, "array or null" if expected == "array" else expected, value))


def _expected(name: str, kind: str, value: Any) -> str:
    advice = "; write the text itself, not an id" if type(value) is int else ""
    return f"{name}: Expected {kind}, got {json_type(value)}{advice}"

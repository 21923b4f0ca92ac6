"""Folders of ids: files of texts, and a file that says by ids which documents answer a query. BEIR's are such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splade_bench.data.foreign_files import PICKLE_ADVICE
from splade_bench.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class IdFolder:
    """What the files of such a folder are called. Each may be compressed with gzip, as NAME.gz."""

    name: str
    """Value of ``--train-format``."""
    what: str
    queries: tuple[str, ...]
    documents: str
    judgements: str
    """A query's relevant documents: a table with a score in its last column, or JSON Lines."""


_BEIR = IdFolder(
    name="beir",
    what="a BEIR folder",
    queries=("queries.jsonl",),
    documents="corpus.jsonl",
    judgements="qrels/train.tsv",
)
ID_FOLDERS = (
    _BEIR,
    IdFolder(
        name="light-splade",
        what="a folder of light-splade",
        queries=("query_master.ndjson",),
        documents="doc_master.ndjson",
        judgements="positive_lists.ndjson",
    ),
    IdFolder(
        name="ms-marco",
        what="a folder of MS MARCO",
        queries=("queries.train.tsv", "queries.tsv"),
        documents="collection.tsv",
        judgements="qrels.train.tsv",
    ),
)
# Any of the folders may have these: triples of ids, lists of hard negatives, a teacher's scores.
_TRIPLES = ("triplets.ndjson", "triples.jsonl", "triples.json", "triples.tsv", "qidpidtriples*.tsv")
_HARD_NEGATIVES = ("*hard-negatives.jsonl",)
_SCORES = ("*scores.ndjson", "*scores.jsonl", "*scores.json")
_PICKLES = ("*.pkl", "*.pickle")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFiles:
    """The files of a folder of ids."""

    kind: IdFolder
    path: Path
    """The folder that the user named."""
    queries: Path
    documents: Path
    examples: Path
    """Triples, hard negatives or judgements."""
    scores: Path | None

    @property
    def sources(self) -> list[Path]:
        return [path for path in (self.queries, self.documents, self.examples, self.scores) if path]


def find_id_folder(path: Path, wanted: str | None = None) -> FoundFiles | None:
    """The files of a folder of ids; None if it has no files of texts.

    Raises:
        DataError: it has texts, but nothing that says which of them belong together; or two files for one purpose.
    """
    for kind in ID_FOLDERS:
        if wanted not in (None, kind.name):
            continue
        for folder in (path, path / "train"):
            queries = next((found for name in kind.queries if (found := _only(folder, (name,)))), None)
            documents = _only(folder, (kind.documents,))
            if queries and documents:
                patterns = (_TRIPLES, _HARD_NEGATIVES, (kind.judgements,))
                examples = next((found for names in patterns if (found := _only(folder, names))), None)
                # light-splade has one file of scores for all splits, above them.
                scores = _only(folder, _SCORES) or _only(folder.parent if folder != path else folder, _SCORES)
                if not examples:
                    raise DataError(_without_examples(folder, kind))
                if not scores and (pickle := _only(folder, _PICKLES)):
                    raise DataError(f"{pickle}: {PICKLE_ADVICE}")
                return FoundFiles(
                    kind=kind, path=path, queries=queries, documents=documents, examples=examples, scores=scores
                )
    return None


def find_titles(folder: Path) -> tuple[Path, FoundFiles | None]:
    """The documents of a BEIR folder, and its files if it also has judgements to train on.

    Raises:
        DataError: it has no documents.
    """
    documents = _only(folder, (_BEIR.documents,))
    if documents is None:
        raise DataError(
            f"{folder}: has no {_BEIR.documents}, whose titles --train-format titles reads; name a BEIR folder"
        )
    return documents, find_id_folder(folder, _BEIR.name) if _only(folder, (_BEIR.judgements,)) else None


def _only(folder: Path, patterns: Sequence[str]) -> Path | None:
    """The one file of a folder whose name fits."""
    names = [name for pattern in patterns for name in (pattern, f"{pattern}.gz")]
    found = sorted({path for name in names for path in folder.glob(name) if path.is_file()})
    if len(found) > 1:
        raise DataError(f"{found[0]}: does what {found[1].name} does; leave one of them in the folder")
    return found[0] if found else None


def _without_examples(folder: Path, kind: IdFolder) -> str:
    others = ", ".join(_TRIPLES[:-1])
    or_titles = "; or, to train on titles, give --train-format titles" if kind is _BEIR else ""
    return (
        f"{folder}: is {kind.what}, without {kind.judgements}, which says which documents answer a query; or add "
        f"triples of ids ({others}){or_titles}"
    )

"""The embedded corpus: docstrings of the running interpreter's standard library, read with ``ast``.

A docstring's first sentence is the query and the rest of it the document that answers it, so a model can be
trained and judged without a download. Nothing that is read is imported. The texts differ between Python
versions: results carry the corpus hash, and only equal hashes may be compared.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splade_bench.data.bm25 import BM25
from splade_bench.data.records import RetrievalDataset, Triple
from splade_bench.errors import DataError

Split = Literal["train", "development", "test"]

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "lib-dynload"}
_WORD = re.compile(r"[A-Za-z]{2,}")
_FIRST_SENTENCE = re.compile(r"(.+?[.!?])(?:\s+(?=[A-Z`'\"])|$)")
_CONSOLE_LINE = re.compile(r"^\s*(?:>>>|\.\.\.).*$", flags=re.MULTILINE)
_RULER = re.compile(r"[=\-~^*_]{3,}")

QUERY_WORDS = range(4, 31)
MIN_DOCUMENT_WORDS = 12
TEST_SHARE = 0.15
DEVELOPMENT_SHARE = 0.10
NEGATIVES_PER_QUERY = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class DocstringPair:
    """A docstring cut in two; ``name`` is its qualified name and decides its split."""

    name: str
    query: str
    document: str

    @property
    def split(self) -> Split:
        """Split by a hash of the name alone, so that a pair keeps it whatever else is harvested."""
        share = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big") / 2**64
        if share < TEST_SHARE:
            return "test"
        return "development" if share < TEST_SHARE + DEVELOPMENT_SHARE else "train"


def harvest(root: Path | None = None) -> list[DocstringPair]:
    """Every usable docstring below ``root`` (default: this interpreter's standard library), in file order.

    Raises:
        DataError: the folder holds no usable docstring, as in an interpreter shipped without sources.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    pairs: list[DocstringPair] = []
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS.isdisjoint(relative.parts[:-1]):
            for name, docstring in _docstrings_of(path, ".".join(relative.with_suffix("").parts)):
                pair = _split_docstring(name, docstring)
                # Overloads and wrappers repeat a docstring; one that is in both splits would leak.
                if pair is None or not seen.isdisjoint(keys := _duplicate_keys(pair)):
                    continue
                seen.update(keys)
                pairs.append(pair)
    if not pairs:
        raise DataError(f"{root}: no docstrings found; pass --train-file with your own data instead")
    return pairs


def train_triples(pairs: Sequence[DocstringPair]) -> list[Triple]:
    """A triple for each pair, with its best-ranked wrong documents by BM25 as hard negatives.

    Negatives come from ``pairs`` alone, so that a held-out document is never trained on.
    """
    documents = {pair.name: pair.document for pair in pairs}
    index = BM25(documents)
    triples = []
    for pair in pairs:
        ranked = index.search(pair.query, top_k=NEGATIVES_PER_QUERY + 1)
        wrong = [documents[name] for name in ranked if name != pair.name]
        if wrong:
            negatives = tuple(wrong[:NEGATIVES_PER_QUERY])
            triples.append(Triple(query=pair.query, positive=pair.document, negatives=negatives))
    return triples


def retrieval_dataset(pairs: Sequence[DocstringPair], split: Split) -> RetrievalDataset:
    """The queries of ``split``, each ranked against the documents of all ``pairs``."""
    corpus = {pair.name: pair.document for pair in pairs}
    index = BM25(corpus)
    queries = {pair.name: pair.query for pair in pairs if pair.split == split}
    candidates = {}
    for name, query in queries.items():
        ranked = index.search(query, top_k=NEGATIVES_PER_QUERY + 1)
        wrong = [other for other in ranked if other != name][:NEGATIVES_PER_QUERY]
        candidates[name] = [name, *wrong]
    return RetrievalDataset(
        queries=queries,
        corpus=corpus,
        qrels={name: {name: 1} for name in queries},
        candidates=candidates,
    )


def _docstrings_of(path: Path, module: str) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return  # templates and broken samples: a corpus needs no file in particular
    module = module.removesuffix(".__init__")
    pending: list[tuple[ast.AST, str]] = [(tree, module)]
    for node, name in pending:  # grows while it is walked: breadth first, in the order of the source
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield name, docstring
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                pending.append((child, f"{name}.{child.name}"))
            elif isinstance(child, ast.If | ast.Try | ast.With):
                pending.append((child, name))


def _split_docstring(name: str, docstring: str) -> DocstringPair | None:
    head, _, rest = inspect.cleandoc(docstring).partition("\n\n")
    first_paragraph = " ".join(head.split())
    match = _FIRST_SENTENCE.match(first_paragraph)
    query = first_paragraph
    if match and len(_WORD.findall(match[1])) >= 3:
        query, rest = match[1], f"{first_paragraph[match.end() :]}\n\n{rest}"
    query, document = _clean(query), _clean(rest)
    query_words, document_words = _WORD.findall(query), _WORD.findall(document)
    if len(query_words) not in QUERY_WORDS or len(document_words) < MIN_DOCUMENT_WORDS:
        return None
    return DocstringPair(name=name, query=query, document=document)


def _clean(text: str) -> str:
    return " ".join(_RULER.sub(" ", _CONSOLE_LINE.sub(" ", text)).split())


def _duplicate_keys(pair: DocstringPair) -> set[str]:
    return {f"name {pair.name}", f"query {pair.query.lower()}", f"document {pair.document.lower()[:200]}"}

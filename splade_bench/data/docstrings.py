"""The embedded corpus: docstrings of the running interpreter's standard library, read with ``ast``.

A docstring's first sentence is the query, the rest is the document that answers it. So a model can be trained and
evaluated without a download. No module is imported. The texts differ between Python versions: results have the corpus
hash, and only results with equal hashes may be compared.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
    """A docstring cut in two. Its qualified name decides its split."""

    name: str
    query: str
    document: str

    @property
    def split(self) -> Split:
        """By a hash of the name alone, so that it does not depend on other pairs."""
        share = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "big") / 2**64
        if share < TEST_SHARE:
            return "test"
        return "development" if share < TEST_SHARE + DEVELOPMENT_SHARE else "train"


def harvest(root: Path | None = None) -> list[DocstringPair]:
    """Every usable docstring below ``root`` (default: this interpreter's standard library), in file order.

    Raises:
        DataError: there is no usable docstring, as in an interpreter without its sources.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    pairs: list[DocstringPair] = []
    seen: set[tuple[str, str]] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _SKIPPED_FOLDERS.isdisjoint(relative.parts[:-1]):
            continue
        for name, docstring in _docstrings_of(path, ".".join(relative.with_suffix("").parts)):
            pair = _split_docstring(name, docstring)
            if pair is None:
                continue
            keys = {("name", name), ("query", pair.query.lower()), ("document", pair.document.lower()[:200])}
            # Overloads and wrappers repeat a docstring. One that is in two splits would leak.
            if seen.isdisjoint(keys):
                seen |= keys
                pairs.append(pair)
    if not pairs:
        raise DataError(f"{root}: no docstrings found; pass --train-file with your own data instead")
    return pairs


def train_triples(pairs: Sequence[DocstringPair]) -> list[Triple]:
    """A triple for each pair, with its best-ranked wrong documents by BM25 as hard negatives.

    Negatives come from ``pairs`` alone, so a held-out document is never trained on.
    """
    documents = {pair.name: pair.document for pair in pairs}
    negatives = _hard_negatives(documents, pairs)
    return [
        Triple(query=pair.query, positive=pair.document, negatives=tuple(documents[name] for name in names))
        for pair, names in zip(pairs, negatives, strict=True)
        if names
    ]


def retrieval_dataset(pairs: Sequence[DocstringPair], split: Split) -> RetrievalDataset:
    """The queries of ``split``, each ranked against the documents of all ``pairs``."""
    corpus = {pair.name: pair.document for pair in pairs}
    chosen = [pair for pair in pairs if pair.split == split]
    negatives = _hard_negatives(corpus, chosen)
    return RetrievalDataset(
        queries={pair.name: pair.query for pair in chosen},
        corpus=corpus,
        qrels={pair.name: {pair.name: 1} for pair in chosen},
        candidates={pair.name: [pair.name, *names] for pair, names in zip(chosen, negatives, strict=True)},
    )


def _hard_negatives(corpus: Mapping[str, str], pairs: Sequence[DocstringPair]) -> list[list[str]]:
    """The names of the wrong documents that BM25 ranks best, for each pair's query."""
    index = BM25(corpus)
    rankings = [(pair.name, index.search(pair.query, top_k=NEGATIVES_PER_QUERY + 1)) for pair in pairs]
    return [[other for other in ranked if other != name][:NEGATIVES_PER_QUERY] for name, ranked in rankings]


def _docstrings_of(path: Path, module: str) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return  # templates and broken samples
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

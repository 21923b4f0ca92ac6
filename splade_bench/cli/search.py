"""``splade-bench search``: the best documents among encoded ones, by an exact search."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from splade_bench.cli.arguments import parse
from splade_bench.cli.flags import Placement
from splade_bench.cli.signals import removed_at_the_end
from splade_bench.cli.sources import from_anywhere, placed_encoder
from splade_bench.config import MIN_MAX_LENGTH
from splade_bench.data.text_files import read_text_file, text_file
from splade_bench.errors import ConfigError, DataError
from splade_bench.evaluation.encoding import encode_windows
from splade_bench.evaluation.metrics import Ranking
from splade_bench.evaluation.run_file import require_run_ids, run_file, run_lines
from splade_bench.evaluation.search import larger_ids_first, top_documents
from splade_bench.evaluation.vector_folder import VectorFolder, read_vectors
from splade_bench.fields import require_range
from splade_bench.model.encoder import SpladeEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchCommand:
    """Find the best documents for queries among documents that splade-bench encode wrote, and print a TREC run.

    Every document is compared, so the results are exact. Of documents with equal scores, the one with the larger id
    comes first, as in trec_eval. A document that has no entry in common with a query is not returned.

    Exit codes:
      0  done
      1  the search failed, such as for vectors that are not finite
      2  usage error or bad file
      128 + n  ended by signal n, such as 143 for SIGTERM; a run file that is not complete is removed
    """

    index: Path
    """The folder of encode's --output-dir."""
    model_name: str | None = None
    """The model of the queries: a local folder, or a Hugging Face Hub id. None: the one that encoded the documents."""
    queries: Path | None = None
    """A BEIR folder; a file of JSON Lines with _id and text; or a file with a query on each line."""
    query: str | None = None
    """One query. Its id is 1."""
    top_k: int = 10
    """Documents that a query returns, at most."""
    run_file: Path | None = None
    """Write the TREC run to this file. None: print it."""
    batch_size: int | None = None
    """Queries to encode at once. None: 32, or fewer if --max-length is above 128."""
    max_length: int | None = None
    """Cut queries after this many tokens. None: as in the model's training."""
    placement: Placement = field(default_factory=Placement)
    """Where to encode. --memory-mode and --memory-efficient have no effect here: they change training only."""


def run(arguments: Sequence[str]) -> int:
    """Search, and print or write a run; the exit code."""
    command = parse(SearchCommand, arguments, verb="search")
    require_range(command, "top_k", "batch_size", at_least=1)
    require_range(command, "max_length", at_least=MIN_MAX_LENGTH)
    texts = _queries(command)
    index = read_vectors(command.index)
    if index.manifest.kind != "documents":
        raise DataError(
            f"{command.index}: has vectors of {index.manifest.kind}; encode the documents, and search those"
        )
    for ids in ((query_id for query_id, _ in texts), index.ids):
        require_run_ids(ids)
    model_name = from_anywhere(command.model_name or index.manifest.model_name)
    if model_name != index.manifest.model_name:
        logger.warning(
            "%s: its documents were encoded by %s; the queries are encoded by %s, which must be the same model",
            command.index,
            index.manifest.model_name,
            model_name,
        )
    encoder, max_length = placed_encoder(model_name, command.placement, command.max_length)
    if encoder.vocab_size != index.manifest.vocab_size:
        raise ConfigError(
            f"--model-name {model_name}: has a vocabulary of {encoder.vocab_size} entries, and the documents of "
            f"{command.index} one of {index.manifest.vocab_size}; name the model that encoded them"
        )
    opened_run = run_file(command.run_file) if command.run_file else nullcontext(_print)
    with removed_at_the_end(), opened_run as write:
        for ranking in _rankings(command, encoder, max_length, texts, index):
            write(ranking)
    return 0


def _queries(command: SearchCommand) -> Iterable[tuple[str, str]]:
    """Ids and texts of the queries."""
    if (command.query is None) == (command.queries is None):
        raise ConfigError("give either --query with a text, or --queries with a file")
    if command.query is not None:
        if not command.query.strip():
            raise ConfigError("--query: is empty")
        return [("1", command.query)]
    assert command.queries is not None
    path = text_file(command.queries, queries=True)
    texts = list(read_text_file(path))
    for query_id, text in texts:
        if not text:
            raise DataError(f"{path}: the query '{query_id}' is empty")
    return texts


def _rankings(
    command: SearchCommand,
    encoder: SpladeEncoder,
    max_length: int,
    texts: Iterable[tuple[str, str]],
    index: VectorFolder,
) -> Iterator[Ranking]:
    places = larger_ids_first(index.ids)
    for window in encode_windows(encoder, texts, "queries", max_length=max_length, batch_size=command.batch_size):
        best = top_documents(window.reps, index.reps, top_k=command.top_k, places=places)
        for query_id, (scores, rows) in zip(window.ids, best, strict=True):
            yield query_id, {index.ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)}


def _print(ranking: Ranking) -> None:
    sys.stdout.writelines(run_lines(ranking))

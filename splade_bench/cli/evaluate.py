"""``splade-bench evaluate``: the retrieval metrics of a trained model."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from splade_bench.cli.arguments import parse, show
from splade_bench.cli.flags import Placement
from splade_bench.cli.places import require_place
from splade_bench.cli.progress import memory_line
from splade_bench.cli.signals import removed_at_the_end
from splade_bench.cli.sources import from_anywhere, load_corpus, placed_encoder
from splade_bench.config import MIN_MAX_LENGTH
from splade_bench.data.beir import read_beir
from splade_bench.data.formats import read_triples, retrieval_dataset
from splade_bench.data.records import RetrievalDataset
from splade_bench.data.streamed_texts import SpooledTexts
from splade_bench.errors import ConfigError
from splade_bench.evaluation.evaluator import Retrieval, VectorStore, evaluate, evaluate_bm25
from splade_bench.evaluation.metrics import RUN_DEPTH, Ranking, RetrievalMetric, parse_measures
from splade_bench.evaluation.own_texts import own_documents
from splade_bench.evaluation.run_file import require_run_ids, run_file
from splade_bench.fields import require_range
from splade_bench.files import large_files_folder
from splade_bench.measure.rss import PeakRss, known_rss_bytes
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.known_words import require_known_words
from splade_bench.report.formatting import MISSING

logger = logging.getLogger(__name__)

_DEFAULT_MODEL = "splade-output/final_model"
_DEFAULT_SPLIT = "test"


def _ignore(_: Ranking) -> None:
    """Where no run is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateCommand:
    """Evaluate a trained model on held-out queries.

    Each query is ranked against all documents and, if --val-file has triples, also as in the article, against its own
    positives and negatives.

    Exit codes:
      0  done
      1  the evaluation failed, such as for vectors that are not finite
      2  usage error or bad file
      128 + n  ended by signal n, such as 143 for SIGTERM; files that are not complete are removed
    """

    model_name: str = _DEFAULT_MODEL
    """A local model folder, or a Hugging Face Hub id."""
    val_file: Path | None = None
    """A BEIR folder, or validation data in the format of train's --train-file. None: the test queries of the embedded
    corpus."""
    split: str | None = None
    """The queries of a BEIR folder that are judged in qrels/SPLIT.tsv. None: test."""
    measures: tuple[str, ...] = ()
    """Further metrics by their names in ir_measures: nDCG, RR and AP, alone or with a cutoff such as nDCG@20, and P@K,
    R@K and Success@K."""
    top_k: int = 1000
    """Documents that a query returns, at most."""
    exclude_own_text: bool = False
    """Leave a query's own text out of its ranking, where the query is a document too, as in ArguAna and Quora."""
    run_file: Path | None = None
    """Write the rankings as a TREC run."""
    vectors: Path | None = None
    """Keep the documents' vectors in this new folder, as encode writes them. None: in a temporary folder, while they
    are searched."""
    batch_size: int | None = None
    """Texts to encode at once. None: 32, or fewer if --max-length is above 128."""
    max_length: int | None = None
    """Cut texts after this many tokens. None: as in the model's training."""
    memory_tracking: bool = False
    """Log current and peak memory."""
    json: bool = False
    """Print one JSON object to standard output. Messages go to standard error."""
    placement: Placement = field(default_factory=Placement)
    """Where to compute. --memory-mode and --memory-efficient have no effect here: they change training only."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate and print; the exit code."""
    command = parse(EvaluateCommand, arguments, verb="evaluate")
    measures = _checked(command)
    opened_run = run_file(command.run_file) if command.run_file else nullcontext(_ignore)
    with removed_at_the_end(), opened_run as write_ranking:
        dataset, corpus_name = _dataset(command)
        if command.run_file:
            for texts in (dataset.queries, dataset.corpus):
                require_run_ids(texts)
        own = _own_documents(command, dataset)
        encoder, max_length = _encoder(command, dataset)
        model_rss_bytes = known_rss_bytes()
        peak_rss = PeakRss()
        peak_rss.start()
        left_out = own if command.exclude_own_text else None
        how = Retrieval(top_k=command.top_k, left_out=left_out, measures=measures, on_ranking=write_ranking)
        with _vector_store(command) as store:
            metrics = evaluate(
                encoder, dataset, max_length=max_length, batch_size=command.batch_size, retrieval=how, store=store
            )
    bm25 = evaluate_bm25(dataset, retrieval=replace(how, on_ranking=_ignore))
    peak = peak_rss.read()
    record: dict[str, Any] = {
        "model_name": command.model_name,
        "corpus": corpus_name,
        "queries": len(dataset.queries),
        "documents": len(dataset.corpus),
        "queries_that_are_documents": len(own),
        "exclude_own_text": command.exclude_own_text,
        "device": encoder.device.type,
        "max_length": max_length,
        "model_rss_bytes": model_rss_bytes,
        "peak_rss_bytes": peak.peak_bytes,
        "peak_rss_source": peak.source,
        "metrics": metrics,
        "bm25": bm25,
    }
    if command.memory_tracking:
        logger.info("%s", memory_line(peak_rss))
    show(record, _text(record), as_json=command.json)
    return 0


def _text(record: Mapping[str, Any]) -> str:
    bm25 = record["bm25"] or {}
    rows = [[name, value, bm25.get(name)] for name, value in record["metrics"].items()]
    table = tabulate(rows, headers=["metric", "model", "BM25"], floatfmt=".3f", missingval=MISSING)
    return f"{record['corpus']}: {record['queries']} queries, {record['documents']} documents\n{table}"


def _checked(command: EvaluateCommand) -> Mapping[str, RetrievalMetric]:
    """The measures of a command whose flags can be used together."""
    require_range(command, "batch_size", at_least=1)
    require_range(command, "max_length", at_least=MIN_MAX_LENGTH)
    require_range(command, "top_k", at_least=RUN_DEPTH)
    if command.vectors is not None:
        _require_new_folder(command.vectors)
    if command.split is not None and not (command.val_file and command.val_file.is_dir()):
        raise ConfigError(f"--split {command.split}: only a BEIR folder has splits; give its folder as --val-file")
    return parse_measures(command.measures)


def _require_new_folder(folder: Path) -> None:
    """Find out before the model is loaded that the vectors cannot be kept there."""
    if os.path.lexists(folder):
        raise ConfigError(f"--vectors {folder}: exists already; name a new folder")
    require_place("--vectors", folder)


@contextmanager
def _vector_store(command: EvaluateCommand) -> Iterator[VectorStore]:
    """A folder for the documents' vectors: the one that is named, or a temporary one."""
    model_name = from_anywhere(command.model_name)
    if command.vectors:
        yield VectorStore(folder=command.vectors, model_name=model_name)
        return
    # Windows cannot delete what is still mapped.
    with tempfile.TemporaryDirectory(
        prefix="splade-bench-", dir=large_files_folder(), ignore_cleanup_errors=True
    ) as temporary:
        yield VectorStore(folder=Path(temporary) / "documents", model_name=model_name)


def _dataset(command: EvaluateCommand) -> tuple[RetrievalDataset, str]:
    if command.val_file is None:
        test = load_corpus(None, None, need_negatives=False).test
        assert test is not None  # the embedded corpus always has a test split
        return test, "embedded docstrings, test split"
    if command.val_file.is_dir():
        split = command.split or _DEFAULT_SPLIT
        return read_beir(command.val_file, split), f"{command.val_file}, {split} split"
    return retrieval_dataset(read_triples(command.val_file), spooled=SpooledTexts()), str(command.val_file)


def _own_documents(command: EvaluateCommand, dataset: RetrievalDataset) -> Mapping[str, Sequence[str]]:
    own = own_documents(dataset)
    if own and not command.exclude_own_text:
        logger.info(
            "%d of %d queries are documents too, and each may find itself first; --exclude-own-text leaves it out, as "
            "published figures for such collections do",
            len(own),
            len(dataset.queries),
        )
    return own


def _encoder(command: EvaluateCommand, dataset: RetrievalDataset) -> tuple[SpladeEncoder, int]:
    """The model on its device, and the tokens after which it cuts a text."""
    if command.model_name == _DEFAULT_MODEL and not Path(_DEFAULT_MODEL).is_dir():  # it is not an id of the Hub
        raise ConfigError(f"--model-name {_DEFAULT_MODEL}: there is no such folder; train a model, or name another one")
    encoder, max_length = placed_encoder(command.model_name, command.placement, command.max_length)
    for texts in (dataset.queries, dataset.corpus):
        require_known_words(encoder.tokenizer, texts.values(), model_name=command.model_name)
    return encoder, max_length

"""``splade-bench evaluate``: the retrieval metrics of a trained model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from splade_bench.cli.arguments import parse, show
from splade_bench.cli.flags import Placement
from splade_bench.cli.progress import memory_line
from splade_bench.cli.sources import load_corpus, load_encoder
from splade_bench.config import MIN_MAX_LENGTH
from splade_bench.data.formats import read_triples, retrieval_dataset
from splade_bench.data.records import RetrievalDataset
from splade_bench.errors import ConfigError
from splade_bench.evaluation.evaluator import evaluate, evaluate_bm25
from splade_bench.fields import require_range
from splade_bench.measure.rss import PeakRss
from splade_bench.model.known_words import require_known_words
from splade_bench.report.formatting import MISSING

logger = logging.getLogger(__name__)

_DEFAULT_MODEL = "splade-output/final_model"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateCommand:
    """Evaluate a trained model on held-out queries.

    Each query is ranked twice: against all documents and, as in the article, against its own positives and negatives.

    Exit codes:
      0  done
      1  the evaluation failed, such as for vectors that are not finite
      2  usage error or bad file
    """

    model_name: str = _DEFAULT_MODEL
    """A local model folder, or a Hugging Face Hub id."""
    val_file: Path | None = None
    """Validation data in the format of train's --train-file. None: the test queries of the embedded corpus."""
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
    require_range(command, "batch_size", at_least=1)
    require_range(command, "max_length", at_least=MIN_MAX_LENGTH)
    dataset, corpus_name = _dataset(command.val_file)
    if command.model_name == _DEFAULT_MODEL and not Path(_DEFAULT_MODEL).is_dir():  # it is not an id of the Hub
        raise ConfigError(f"--model-name {_DEFAULT_MODEL}: there is no such folder; train a model, or name another one")
    device = command.placement.resolve()
    encoder = load_encoder(command.model_name, None, seed=0).to(device)
    for texts in (dataset.queries, dataset.corpus):
        require_known_words(encoder.tokenizer, texts.values(), model_name=command.model_name)
    encoder.configure(command.placement.memory)
    max_length = command.max_length or encoder.max_length
    encoder.require_positions(max_length)
    peak_rss = PeakRss()
    peak_rss.start()
    metrics = evaluate(encoder, dataset, max_length=max_length, batch_size=command.batch_size)
    peak = peak_rss.read()
    record: dict[str, Any] = {
        "model_name": command.model_name,
        "corpus": corpus_name,
        "queries": len(dataset.queries),
        "documents": len(dataset.corpus),
        "device": device.type,
        "max_length": max_length,
        "peak_rss_bytes": peak.peak_bytes,
        "peak_rss_source": peak.source,
        "metrics": metrics,
        "bm25": evaluate_bm25(dataset),
    }
    if command.memory_tracking:
        logger.info("%s", memory_line(peak_rss))
    rows = [[name, value, record["bm25"].get(name)] for name, value in metrics.items()]
    table = tabulate(rows, headers=["metric", "model", "BM25"], floatfmt=".3f", missingval=MISSING)
    text = f"{corpus_name}: {len(dataset.queries)} queries, {len(dataset.corpus)} documents\n{table}"
    show(record, text, as_json=command.json)
    return 0


def _dataset(val_file: Path | None) -> tuple[RetrievalDataset, str]:
    if val_file is not None:
        return retrieval_dataset(read_triples(val_file)), str(val_file)
    test = load_corpus(None, None, need_negatives=False).test
    assert test is not None  # the embedded corpus always has a test split
    return test, "embedded docstrings, test split"

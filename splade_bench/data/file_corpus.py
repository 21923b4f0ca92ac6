"""The corpus of a training file and a validation file."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

from splade_bench.data.formats import Demands, read_triples, retrieval_dataset
from splade_bench.data.records import Corpus, held_out_triples
from splade_bench.data.triple_file import TripleFile

logger = logging.getLogger(__name__)

_REASONS_SHOWN = 3


def file_corpus(
    train_file: Path,
    val_file: Path | None,
    *,
    need_negatives: bool = False,
    skip_bad_records: bool = False,
    cache: Path | None = None,
) -> Corpus:
    """Training triples from one file, evaluated on another if it is given, whose texts are in memory.

    What is skipped is logged as a warning. ``cache`` is the folder that keeps what a check of a training file found.

    Raises:
        DataError: a file cannot be used; or a record of ``train_file``, unless ``skip_bad_records``.
    """
    test = retrieval_dataset(read_triples(val_file)) if val_file else None
    hashed_after = test and {one.name: getattr(test, one.name) for one in fields(test)}
    demands = Demands(need_negatives=need_negatives, skip_bad_records=skip_bad_records)
    triples = TripleFile.open(train_file, demands, hashed_after=hashed_after, cache=cache)
    facts = triples.facts
    if facts.skipped_reasons:
        shown = "; ".join(facts.skipped_reasons[:_REASONS_SHOWN])
        more = "; ..." if facts.skipped_records + facts.skipped_negatives > _REASONS_SHOWN else ""
        left_out = f"{facts.skipped_records} records and {facts.skipped_negatives} negatives of other records"
        logger.warning("%s: %s are left out: %s%s", train_file, left_out, shown, more)
    return Corpus(
        triples=triples,
        test=test,
        test_triples=held_out_triples(test) if test else (),
        sha256=facts.sha256,
        skipped_records=facts.skipped_records,
        skipped_negatives=facts.skipped_negatives,
        skipped_reasons=tuple(facts.skipped_reasons),
    )

"""The corpus of a training file and a validation file."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path

from splade_bench.data.beir import QRELS, is_beir_folder, read_beir
from splade_bench.data.formats import Demands, read_triples, retrieval_dataset
from splade_bench.data.records import Corpus, RetrievalDataset, held_out_triples
from splade_bench.data.training_formats import COLUMN_FORMATS, TrainFormat
from splade_bench.data.triple_file import TripleFile

logger = logging.getLogger(__name__)

_REASONS_SHOWN = 3
# What the split of a BEIR folder is called that settings are tuned on. If there is none, it is the test split.
_TUNING_SPLITS = ("dev", "validation", "val")


def file_corpus(
    train_file: Path,
    val_file: Path | None,
    *,
    need_negatives: bool = False,
    need_teacher: bool = False,
    skip_bad_records: bool = False,
    train_format: TrainFormat = "auto",
    cache: Path | None = None,
) -> Corpus:
    """Training triples from one file, evaluated on another if it is given, whose texts are in memory.

    What is skipped is logged as a warning, and the format of the training file as a message. ``cache`` is the folder
    that keeps what a check of a training file found, and its conversion.

    Raises:
        DataError: a file cannot be used; or a record of ``train_file``, unless ``skip_bad_records``.
    """
    test = _held_out(val_file) if val_file else None
    hashed_after = test and {one.name: getattr(test, one.name) for one in fields(test)}
    columns = train_format if train_format in COLUMN_FORMATS else None
    demands = Demands(
        need_negatives=need_negatives,
        need_teacher=need_teacher,
        skip_bad_records=skip_bad_records,
        columns=columns,
    )
    triples = TripleFile.open(train_file, demands, wanted=train_format, hashed_after=hashed_after, cache=cache)
    logger.info("%s: %d training examples; %s", train_file, len(triples), triples.what)
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


def _held_out(val_file: Path) -> RetrievalDataset:
    """The validation data, in memory: of a BEIR folder, the judgements of one split and all documents."""
    if not is_beir_folder(val_file):
        return retrieval_dataset(read_triples(val_file))
    tuning = (name for name in _TUNING_SPLITS if any((val_file / QRELS).glob(f"{name}.tsv*")))
    split = next(tuning, "test")
    logger.info("%s: its split %s is evaluated", val_file, split)
    dataset = read_beir(val_file, split)
    return replace(dataset, corpus=dict(dataset.corpus.items()))

"""Measures the path of a training's data by itself, in a process of its own: from a file to batches of token ids.

A file of triples is made with a seed. Its check, the order of an epoch and batches are timed, and the memory that they
add to the process is read.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from splade_bench.batching.sources import TripleBatches, order_bytes
from splade_bench.cli.sources import load_tokenizer
from splade_bench.config import TrainConfig
from splade_bench.data.file_corpus import file_corpus
from splade_bench.measure.machine import machine_info
from splade_bench.measure.rss import PeakRss, current_rss_bytes

Result = TypeVar("Result")

BATCHES = 100
_SYLLABLES = ("ka", "lo", "mi", "nu", "pe", "ri", "so", "ta", "vu", "we")
_WORDS = [first + second + third for first in _SYLLABLES for second in _SYLLABLES for third in _SYLLABLES]
_RARE = "\N{BICYCLE}"


def write_triples(
    path: Path, *, records: int, words: int = 20, negatives: int = 2, rare_character: bool = False
) -> None:
    """Write JSON Lines, the same for the same arguments.

    Args:
        path: the file.
        records: how many lines it has.
        words: of each document; a query has five.
        negatives: documents of each query that do not answer it.
        rare_character: whether one text has a character of 4 bytes.
    """
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(records):
            query, *documents = (" ".join(rng.choices(_WORDS, k=count)) for count in (5, *[words] * (1 + negatives)))
            if rare_character and number == records // 2:
                query += _RARE
            record = {"query": query, "positive_document": documents[0], "negative_documents": documents[1:]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def measure_data_path(path: Path, cache: Path, *, batch_size: int = 32, max_length: int = 64) -> dict[str, Any]:
    """Figures of one pass. The second one with the same ``cache`` finds that the file was checked.

    ``check``: until the corpus is there. ``vocabulary``: a preset's tokenizer, made from a sample. ``first_batch``:
    with the order of the epoch. ``batches``: all of :data:`BATCHES` more. Of each, ``_time_s``, and ``_added_bytes``:
    the peak of resident memory above what the process had before all of them, None where it cannot be read.
    """
    before_bytes = current_rss_bytes()
    figures: dict[str, Any] = {}

    def timed(name: str, call: Callable[[], Result]) -> Result:
        peak_rss = PeakRss()
        peak_rss.start()
        start_s = time.perf_counter()
        result = call()
        figures[f"{name}_time_s"] = time.perf_counter() - start_s
        peak_bytes = peak_rss.read().peak_bytes
        figures[f"{name}_added_bytes"] = None if peak_bytes is None else peak_bytes - before_bytes
        return result

    corpus = timed("check", lambda: file_corpus(path, None, need_negatives=True, cache=cache))
    tokenizer = timed("vocabulary", lambda: load_tokenizer("tiny", corpus))
    config = TrainConfig(batch_size=batch_size, max_length=max_length)
    batches = TripleBatches.for_config(corpus.triples, tokenizer, config, torch.device("cpu")).batches(epoch=0)
    timed("first_batch", lambda: next(batches))
    read = timed("batches", lambda: sum(1 for _ in islice(batches, BATCHES)))
    return figures | {
        "batch_time_s": figures["batches_time_s"] / max(1, read),
        "records": len(corpus.triples),
        "file_bytes": path.stat().st_size,
        "order_bytes": order_bytes(corpus.triples),
        "machine": machine_info() | {"threads": torch.get_num_threads(), "device": "cpu"},
    }

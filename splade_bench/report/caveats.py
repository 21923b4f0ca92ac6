"""Caveats for the reader of a table of cells, each with the condition under which it applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from splade_bench.report.readers import group_by
from splade_bench.results.records import CellResult

_Applies = Callable[[Sequence[CellResult]], bool]

_CAVEATS: Mapping[str, _Applies] = {
    "Gradient accumulation never merges in-batch negatives: with an in-batch loss, batch 2 × accumulation 4 is not "
    "batch 8.": lambda results: any(result.gradient_accumulation_steps > 1 for result in results),
    "RSS is the memory that a user of the mode needs, with the mode's allocator setting (`mmap_threshold_bytes`). It "
    "varies a little between runs. `pinned_peak_rss_bytes` varies less.": lambda results: any(
        result.peak_rss_bytes is not None and result.pinned_peak_rss_bytes is None for result in results
    ),
    "Another seed changes MRR@10 by about 0.01, so smaller differences mean nothing.": lambda results: any(
        result.metrics for result in results
    ),
    "Some cells ran with one seed only, so their variation between seeds is unknown.": lambda results: any(
        len({run.seed for run in runs}) == 1 for runs in group_by(results, lambda result: result.cell_id).values()
    ),
    "The system swapped out memory of some runs: their times are not reliable, and their peak RSS is too small.": (
        lambda results: any(result.swapped_bytes for result in results)
    ),
    "The rows come from several versions of this package (source trees). Only rows of the same version are compared.": (
        lambda results: len({result.source_tree for result in results}) > 1
    ),
    "Learning rates grow with the square root of the effective batch, so cells differ in it.": lambda results: (
        len({result.batch_size * result.gradient_accumulation_steps for result in results}) > 1
    ),
    "`base` and workloads without a corpus are not ranked: they have no MRR.": lambda results: any(
        result.status == "ok" and not result.metrics for result in results
    ),
}


def caveats(results: Sequence[CellResult]) -> list[str]:
    """The caveats that apply to ``results``."""
    return [text for text, applies in _CAVEATS.items() if applies(results)]

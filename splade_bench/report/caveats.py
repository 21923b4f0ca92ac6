"""What a reader of these rows has to know: each caveat with the rows to which it applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from splade_bench.results.records import CellResult

_Applies = Callable[[Sequence[CellResult]], bool]

_CAVEATS: Mapping[str, _Applies] = {
    "Gradient accumulation never merges in-batch negatives: batch 2 × accumulation 4 is not batch 8 for an in-batch "
    "loss.": lambda results: any(result.gradient_accumulation_steps > 1 for result in results),
    "RSS is what a user of that mode gets, its allocator setting included (`mmap_threshold_bytes`); it varies a little "
    "between runs. `pinned_peak_rss_bytes` is the figure that does not.": lambda results: any(
        result.peak_rss_bytes is not None and result.pinned_peak_rss_bytes is None for result in results
    ),
    "Differences in MRR@10 of a hundredth or so are within what another seed does.": lambda results: any(
        result.metrics for result in results
    ),
    "Some cells were run with one seed only: nothing here says how much another would change them.": lambda results: (
        min(_seeds_by_cell(results).values(), default=2) == 1
    ),
    "Some runs had memory swapped out: their times say little, and their peak RSS is too small.": lambda results: any(
        result.swapped_bytes for result in results
    ),
    "The rows come from several versions of this package (source tree): only rows of the same one are compared.": (
        lambda results: len({result.source_tree for result in results}) > 1
    ),
    "Learning rates follow the square root of the effective batch, so that cells differ in it.": lambda results: (
        len({result.batch_size * result.gradient_accumulation_steps for result in results}) > 1
    ),
    "`base`, and whatever has no corpus, is not ranked: it has no MRR.": lambda results: any(
        result.status == "ok" and not result.metrics for result in results
    ),
}


def caveats(results: Sequence[CellResult]) -> list[str]:
    """Those that apply to ``results``."""
    return [text for text, applies in _CAVEATS.items() if applies(results)]


def _seeds_by_cell(results: Sequence[CellResult]) -> dict[str, int]:
    seeds: dict[str, set[int]] = {}
    for result in results:
        seeds.setdefault(result.cell_id, set()).add(result.seed)
    return {cell_id: len(found) for cell_id, found in seeds.items()}

"""What a cell trains: model, texts and number of queries. One row per workload."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import Literal

from splade_bench.objective import Similarity
from splade_bench.starts import START_ACTIVE_DIMS, StartName

PageName = Literal["TRADEOFFS", "ABLATION", "PEERS", "COMPANY", "PLANNER", "INSTRUMENTS", "ACCELERATORS"]
"""Pages of the report that show cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What every cell of a sweep trains: the same model on the same number of queries."""

    model_name: str
    corpus: Literal["docstrings", "synthetic"]
    """The embedded corpus, or random token ids (which have no retrieval metrics)."""
    max_length: int
    queries: int
    """Training queries that each cell sees, unless --max-steps sets the number of optimizer steps."""
    learning_rate: float
    """For 8 queries per optimizer step; cells with more or fewer scale it by the square root of the ratio."""
    epochs: int = 1
    """How often each query is seen."""
    start: StartName = "as-is"
    """How the vectors of a pretrained model start."""
    start_active_dims: int = START_ACTIVE_DIMS
    """Active dims that its documents begin with."""
    similarity: Similarity = "dot"
    """The score of a query and a document."""
    page: PageName = "TRADEOFFS"
    """The page of the report that shows its cells."""
    compares_lengths: bool = False
    """On that page, its cells share one section with workloads that differ only in text length."""
    ranked: bool = True
    """Whether the held-out queries are ranked against the whole corpus before and after training."""
    lengths: Literal["full", "real"] = "full"
    """Lengths of synthetic texts: all at max_length, or queries of 4 to 20 tokens and documents of about 75."""
    dropout: float = 0.0
    """The model's dropout on hidden states; the cell sets dropout on attention."""
    memory_passes: Sequence[str] | None = None
    """Memory passes of each cell; None: those that the run's options choose."""
    regularized_documents: Literal["positives", "all"] = "positives"
    """Documents that the FLOPS regularizer sees: sentence-transformers includes negatives."""
    shared_weights: bool = False
    """Whether every trainer loads the same initial weights from one folder."""
    warm_up_batch: bool = False
    """Whether a first optimizer step on a few tokens creates AdamW's moments. Seconds per optimizer step are then the
    time to compare."""
    untimed_steps: int = 1
    """First optimizer steps that the seconds per optimizer step leave out, if there are more."""
    gemm_rate: bool = False
    """Whether a step's floating-point operations and the machine's rate for one large product are measured too."""


_TINY = Workload(model_name="tiny", corpus="docstrings", max_length=48, queries=1600, learning_rate=8e-4)
# BERT-tiny's size at 128 full tokens: where the head is most of the work.
_HEAD = Workload(
    model_name="bert-tiny", corpus="synthetic", max_length=128, queries=32, learning_rate=1e-4, ranked=False
)
# The largest of the workloads in which peers are compared.
_PEERS = Workload(
    model_name="base",
    corpus="synthetic",
    max_length=512,
    queries=1,
    learning_rate=2e-5,
    page="PEERS",
    ranked=False,
    dropout=0.1,
    memory_passes=(),
    regularized_documents="all",
    shared_weights=True,
    warm_up_batch=True,
    untimed_steps=2,  # also the first on a whole batch: it takes pages from the system that later ones use again
    gemm_rate=True,
)
_ACCELERATOR = replace(_PEERS, max_length=256, page="ACCELERATORS", memory_passes=("plan",), gemm_rate=False)
WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "tiny": _TINY,
        # The default profile's: the fewest queries after which retrieval is measurably better.
        "tiny-short": replace(_TINY, queries=256),
        "mini": Workload(model_name="mini", corpus="docstrings", max_length=128, queries=96, learning_rate=1e-4),
        "base": Workload(
            model_name="base", corpus="docstrings", max_length=256, queries=16, learning_rate=5e-5, ranked=False
        ),
        # Trained weights, of the extra [minilm]: its retrieval quality means something. All queries, twice.
        "minilm": Workload(
            model_name="minilm",
            corpus="docstrings",
            max_length=96,
            queries=4096,
            epochs=2,
            learning_rate=5e-5 / math.sqrt(8),  # 5e-5 for batches of 64
            start="lexical",
            start_active_dims=4000,
            similarity="cosine",
            dropout=0.1,
            memory_passes=(),
        ),
        "head": _HEAD,
        # Memory as texts grow.
        **{
            f"length-{length}": replace(
                _HEAD, max_length=length, queries=12, compares_lengths=True, memory_passes=("live",)
            )
            for length in (64, 128, 256, 512)
        },
        # For the gate: without corpus and vocabulary, which differ between interpreters.
        "gate": replace(_HEAD, max_length=64, queries=24, dropout=0.1),
        # One technique at a time, with dropout, which some techniques are about: memory and time on a model that is
        # large enough for them, retrieval quality on a small one.
        "ablation-mini": replace(
            _PEERS, model_name="mini", max_length=256, page="ABLATION", lengths="real", untimed_steps=1
        ),
        "ablation": replace(_TINY, max_length=64, queries=512, page="ABLATION", dropout=0.1, memory_passes=()),
        # Compares the retrieval quality of two modes, seed by seed.
        "quality": replace(_TINY, queries=800, page="ABLATION", memory_passes=()),
        # Equal cells measured many times, and cells under a memory limit.
        **{
            name: replace(
                _HEAD, model_name="mini", page="INSTRUMENTS", lengths="real", dropout=0.1, memory_passes=passes
            )
            for name, passes in (("repeatability", ("heap", "live", "pinned")), ("memory-limit", ()))
        },
        # Plans against measurements, for several model sizes and text lengths.
        **{
            f"plan-{model_name}-{length}": Workload(
                model_name=model_name,
                corpus="synthetic",
                max_length=length,
                queries=1,
                learning_rate=2e-5,
                page="PLANNER",
                ranked=False,
                lengths="full" if length < 256 else "real",
                dropout=0.1,
                memory_passes=("live", "plan"),
            )
            for model_name, length in product(("bert-tiny", "mini", "base"), (32, 128, 512))
        },
        "base-512": _PEERS,
        "base-256-real": replace(_PEERS, max_length=256, lengths="real"),
        "mini-256": replace(_PEERS, model_name="mini", max_length=256),
        "mini-256-real": replace(_PEERS, model_name="mini", max_length=256, lengths="real"),
        # mini-256-real beside busy processes.
        "company": replace(
            _PEERS,
            model_name="mini",
            max_length=256,
            lengths="real",
            page="COMPANY",
            untimed_steps=1,  # beside a busy process, a peer takes minutes for a step
            gemm_rate=False,
        ),
        "bert-tiny-128": replace(_PEERS, model_name="bert-tiny", max_length=128),
        # The full step of the accelerator suite, and its small one for a CPU.
        "accelerator": _ACCELERATOR,
        "accelerator-small": replace(_ACCELERATOR, model_name="tiny", max_length=32),
    }
)

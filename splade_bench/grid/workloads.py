"""What a cell trains: model, texts and how many of them. One row a workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What every cell of a sweep trains: the same model on the same number of queries."""

    model_name: str
    corpus: Literal["docstrings", "synthetic"]
    """The embedded corpus, or random token ids (which have no retrieval figures)."""
    max_length: int
    queries: int
    """Training queries that each cell sees, unless --max-steps says otherwise."""
    learning_rate: float
    """At 8 queries per optimizer step; other cells scale it by the square root of theirs."""
    ranked: bool = True
    """Whether the held-out queries are ranked against the whole corpus before and after training."""
    lengths: Literal["full", "real"] = "full"
    """Tokens of synthetic texts: all at max_length, or queries of 4 to 20 and documents of about 75."""
    dropout: float = 0.0
    """The model's dropout on hidden states; that on attention is the cell's."""
    memory_passes: Sequence[str] | None = None
    """Which peaks are taken too, each in a process of its own; None: as the run's options say."""
    compares_trainers: bool = False
    """Every trainer loads the same weights from the same folder, and an optimizer step on a few tokens comes first, so
    that AdamW's moments are there in those that are timed."""


def _compared(model_name: str, *, max_length: int, lengths: Literal["full", "real"] = "full") -> Workload:
    return Workload(
        model_name=model_name,
        corpus="synthetic",
        max_length=max_length,
        queries=1,
        learning_rate=2e-5,
        ranked=False,
        lengths=lengths,
        dropout=0.1,
        memory_passes=(),
        compares_trainers=True,
    )


WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "tiny": Workload(model_name="tiny", corpus="docstrings", max_length=48, queries=1600, learning_rate=8e-4),
        "mini": Workload(model_name="mini", corpus="docstrings", max_length=128, queries=96, learning_rate=1e-4),
        "base": Workload(
            model_name="base", corpus="docstrings", max_length=256, queries=16, learning_rate=5e-5, ranked=False
        ),
        # BERT-tiny's size at 128 full tokens: where the head is most of the work.
        "head": Workload(
            model_name="bert-tiny", corpus="synthetic", max_length=128, queries=32, learning_rate=1e-4, ranked=False
        ),
        # Where memory is followed as texts grow.
        **{
            f"length-{max_length}": Workload(
                model_name="bert-tiny",
                corpus="synthetic",
                max_length=max_length,
                queries=12,
                learning_rate=1e-4,
                ranked=False,
                memory_passes=("live",),
            )
            for max_length in (64, 128, 256, 512)
        },
        # Where memory is gated: no corpus and no vocabulary, which differ between interpreters.
        "gate": Workload(
            model_name="bert-tiny",
            corpus="synthetic",
            max_length=64,
            queries=24,
            learning_rate=1e-4,
            ranked=False,
            dropout=0.1,
        ),
        # Where each technique by itself is measured, with dropout so that those which are about it have work: what it
        # does to quality on a small model, and to memory and time on one that is large enough for them.
        "ablation-mini": _compared("mini", max_length=256, lengths="real"),
        "ablation": Workload(
            model_name="tiny",
            corpus="docstrings",
            max_length=64,
            queries=512,
            learning_rate=8e-4,
            dropout=0.1,
            memory_passes=(),
        ),
        # Where a mode's quality is held against another's, seed by seed.
        "quality": Workload(
            model_name="tiny", corpus="docstrings", max_length=48, queries=800, learning_rate=8e-4, memory_passes=()
        ),
        # Where the instruments are held to the same figure again and again, and cells to a memory limit.
        **{
            name: Workload(
                model_name="mini",
                corpus="synthetic",
                max_length=128,
                queries=32,
                learning_rate=1e-4,
                ranked=False,
                lengths="real",
                dropout=0.1,
                memory_passes=passes,
            )
            for name, passes in (("repeatability", ("heap", "live", "pinned")), ("memory-limit", ()))
        },
        # Where the planner is held against measurements: sizes and lengths, from few tokens to many.
        **{
            f"plan-{model_name}-{max_length}": Workload(
                model_name=model_name,
                corpus="synthetic",
                max_length=max_length,
                queries=1,
                learning_rate=2e-5,
                ranked=False,
                lengths="full" if max_length < 256 else "real",
                dropout=0.1,
                memory_passes=("live", "plan"),
            )
            for model_name, max_length in product(("bert-tiny", "mini", "base"), (32, 128, 512))
        },
        "base-512": _compared("base", max_length=512),
        "base-256-real": _compared("base", max_length=256, lengths="real"),
        "mini-256": _compared("mini", max_length=256),
        "mini-256-real": _compared("mini", max_length=256, lengths="real"),
        "bert-tiny-128": _compared("bert-tiny", max_length=128),
    }
)

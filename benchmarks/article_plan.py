"""Plans the source article's run that ran out of memory, in a process of its own.

The run: BERT-base at 8 x 512 tokens of a query, a positive and a negative, with hinge loss, L1 norms and the model's
own dropout of 0.1, on MPS with 27.20 GiB allowed. It ended with 26.77 GiB allocated, when it asked for 476.91 MiB. The
article's algorithm and this package's modes are planned with the same model of that device's allocator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import BertForMaskedLM

from splade_bench.config import MODEL_PRESETS, TrainConfig
from splade_bench.data.wordpiece import train_tokenizer
from splade_bench.device.planned import PlannedDevice
from splade_bench.device.storages import LivePeak, LiveStorages, StorageListener
from splade_bench.measure.machine import machine_info
from splade_bench.memory_modes import MEMORY_MODES
from splade_bench.model.presets import bert_config, build_preset
from splade_bench.planner.device_models import device_model
from splade_bench.planner.plan import MemoryPlan, plan, plan_rehearsal
from splade_bench.planner.rehearsal import REHEARSED_STEPS, FakeBatches, Lengths, on_fake_tensors
from splade_bench.worker.peers import ArticlePeer, PeerTrainer

DEVICE = "mps"
BUDGET_BYTES = round(27.2 * 2**30)
_PRESET = MODEL_PRESETS["base"]
_DROPOUT = 0.1
_CONFIG = TrainConfig(
    batch_size=8,
    max_length=512,
    max_steps=REHEARSED_STEPS,
    loss="margin",
    regularizer="l1",
    memory=MEMORY_MODES["standard"],
)


def plan_article(mask_dtype: torch.dtype) -> MemoryPlan:
    """The article's algorithm with a mask of this type."""

    def rehearsal(device: PlannedDevice, listener: StorageListener) -> LivePeak:
        with on_fake_tensors(device):
            model = BertForMaskedLM(bert_config(_PRESET, _DROPOUT, _DROPOUT))
            live = LiveStorages(vocab_size=_PRESET.vocab_size, listener=listener)
            batches = FakeBatches(Lengths.full(_CONFIG), _CONFIG)
            peer = ArticlePeer(model, _CONFIG, mask_dtype=mask_dtype)
            trainer = PeerTrainer(peer, batches, _CONFIG, observers=[live])
            live.add([*model.parameters(), *model.buffers()], "parameters")
            with live:
                trainer.train()
        return live.peak()

    model = device_model(DEVICE, threads=1, budget_bytes=BUDGET_BYTES)
    return plan_rehearsal(rehearsal, model, baseline_bytes=0, budget_bytes=BUDGET_BYTES)


def plan_mode(memory_mode: str) -> MemoryPlan:
    """The same batch in a mode of this package, with that mode's own dropout."""
    tokenizer = train_tokenizer((), vocab_size=_PRESET.vocab_size)
    return plan(
        lambda: build_preset("base", tokenizer, seed=0, dropout=_DROPOUT, attention_dropout=_DROPOUT),
        replace(_CONFIG, memory=MEMORY_MODES[memory_mode]),
        Lengths.full(_CONFIG),
        device_model(DEVICE, threads=1, budget_bytes=BUDGET_BYTES),
        baseline_bytes=0,
        budget_bytes=BUDGET_BYTES,
    )


# A row of the report's page -> its plan.
RUNS: Mapping[str, Callable[[], MemoryPlan]] = {
    "the article's algorithm, mask of integers": partial(plan_article, torch.int64),
    "the article's algorithm, mask of floats": partial(plan_article, torch.float32),
    **{mode: partial(plan_mode, mode) for mode in ("standard", "memory-efficient", "minimal-memory")},
}


def plan_run(name: str) -> dict[str, Any]:
    """The measured fields of a :class:`splade_bench.results.plan.PlanResult`; ``name`` is a key of :data:`RUNS`."""
    planned = RUNS[name]()
    failure = planned.first_failure
    return {
        "name": name,
        "device": planned.device,
        "batch_size": _CONFIG.batch_size,
        "max_length": _CONFIG.max_length,
        "budget_bytes": BUDGET_BYTES,
        "peak_bytes": planned.peak_bytes,
        "live_peak_bytes": planned.live_peak_bytes,
        "failed_operator": failure and failure.operator,
        "failed_phase": failure and failure.phase,
        "failed_allocation_bytes": failure and failure.size_bytes,
        "reserved_bytes": failure and failure.reserved_bytes,
        "machine": machine_info() | {"threads": torch.get_num_threads()},
    }

"""The settings of a training for the memory that is free.

:func:`fastest_config` is for programs. A command line that names no settings is fitted only if that takes a small share
of the training. Whether it can is first estimated from the least time that the training may take: that of its matrix
products at this machine's full rate.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from splade_bench.batching.sources import batches_per_epoch
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.device.devices import memory_limit_bytes
from splade_bench.errors import error_line
from splade_bench.measure.machine import free_memory_bytes
from splade_bench.measure.rss import known_rss_bytes
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.model.presets import TRAINED_ACTIVE_SHARE
from splade_bench.planner.fitting import TimeLimit
from splade_bench.planner.process import Fitted, fitted_training
from splade_bench.planner.rates import gemm_flops_per_s
from splade_bench.planner.rehearsal import Lengths
from splade_bench.planner.requests import PlanRequest
from splade_bench.training.feeding import source_of
from splade_bench.training.gradcache import sized_for
from splade_bench.training.schedules import steps_of_run
from splade_bench.units import format_bytes

logger = logging.getLogger(__name__)

# Planning without being asked may take this share of the training.
_SHARE = 0.03
_AT_MOST_S = 60.0
# It takes at least so long: the process starts, times this machine, and makes a few plans (two cores, a small model).
_LEAST_PLANNING_S = 12.0
_SAMPLED_TRIPLES = 32
_PRODUCT_SIZE = 512


def fastest_config(
    encoder: SpladeEncoder,
    triples: Sequence[Triple],
    config: TrainConfig,
    *,
    budget_bytes: int | None = None,
    allow_inexact: bool = False,
) -> TrainConfig:
    """``config`` with the memory settings that train ``encoder`` fastest within a budget.

    They are searched as by ``splade-bench train --budget``. The search takes seconds to minutes, in a process of its
    own. What is chosen is logged.

    Any text may be as long as ``max_length``; the time is that of a usual batch of ``triples``.

    Args:
        encoder: on the device of the training.
        triples: what it will be trained on.
        config: its batch, accumulation and learning rate are kept, and every setting that is not searched.
        budget_bytes: peak memory of this process, or of the accelerator. None: what is free now.
        allow_inexact: whether settings may change the gradient.

    Raises:
        ConfigError: the training cannot be planned, or the budget is below the memory that any batch takes.
        TrainingError: nothing fits.
    """
    source = source_of(triples, encoder, config)
    device_type, own_bytes = encoder.device.type, known_rss_bytes() or 0
    parameter_bytes = sum(parameter.nbytes for parameter in encoder.parameters())
    if budget_bytes is None:
        budget_bytes = _available_bytes(encoder.device)
    with tempfile.TemporaryDirectory() as folder:
        encoder.body.config.save_pretrained(folder)
        request = PlanRequest(
            model_name=folder,
            config=config,
            device_type=device_type,
            budget_bytes=budget_bytes,
            lengths=Lengths.full(config).with_usual(source),
            active_share=TRAINED_ACTIVE_SHARE,
            resident_bytes=max(0, own_bytes - parameter_bytes) if device_type == "cpu" else 0,
            allow_inexact=allow_inexact,
        )
        fitted = fitted_training(request)
    logger.info("settings: %s", fitted.settings)
    return fitted.config


def _available_bytes(device: torch.device) -> int | None:
    """What a training can take: what is free now, and what this process has already, as the weights."""
    if device.type == "cpu":
        return _available_host_bytes()
    limit_bytes = memory_limit_bytes(device.type)
    if limit_bytes is not None and device.type == "cuda":
        limit_bytes += torch.cuda.memory_reserved(device)
    return limit_bytes


def _available_host_bytes() -> int:
    """What is free now, and what this process has already: a plan counts it as a whole."""
    return free_memory_bytes() + (known_rss_bytes() or 0)


def optimizer_steps(config: TrainConfig, triples: Sequence[Triple]) -> int:
    """Of the whole training, as the trainer counts them."""
    return steps_of_run(config, batches_per_epoch(triples, config))


def why_not_to_fit(config: TrainConfig, triples: Sequence[Triple], encoder: SpladeEncoder) -> str | None:
    """Why a training on a CPU is not fitted without being asked; None if it should be."""
    least_s = optimizer_steps(config, triples) * _least_step_s(config, triples, encoder)
    if least_s * _SHARE < _LEAST_PLANNING_S:
        return f"the training may be too short for a search of {_LEAST_PLANNING_S:.0f} s; --auto-fit makes it"
    return None


def sized_for_free_memory(config: TrainConfig, encoder: SpladeEncoder) -> Fitted | None:
    """``config`` with mini-batches that suit the memory that is free on the accelerator; None if nothing changes.

    No search is made: ``--auto-fit`` asks for one.
    """
    free_bytes = _available_bytes(encoder.device)
    memory = config.memory if free_bytes is None else sized_for(config.memory, encoder, free_bytes)
    if free_bytes is None or memory == config.memory:
        return None
    chosen = f"mini-batches of {memory.mini_batch_tokens} tokens for the {format_bytes(free_bytes)} that are free"
    return Fitted(replace(config, memory=memory), chosen)


def fitted_within_free_memory(request: PlanRequest, steps: int) -> Fitted:
    """The fastest exact settings that fit the memory that is free now; the defaults if none is found in time.

    Args:
        request: its budget is not looked at.
        steps: optimizer steps of the training.
    """
    logger.info("settings: looking for the fastest that fit, for %.0f s at most", _AT_MOST_S)
    limit = TimeLimit(share=_SHARE, at_most_s=_AT_MOST_S, optimizer_steps=steps, started_at_s=time.time())
    try:
        budget_bytes = _available_host_bytes()
        fitted = fitted_training(replace(request, budget_bytes=budget_bytes, limit=limit))
    except Exception as error:  # nobody asked for this search: nothing in it may end the training
        return Fitted(request.config, f"no others were found: {error_line(error)}")
    chosen = f"{fitted.settings}, the fastest found for the {format_bytes(budget_bytes)} that are free"
    return Fitted(fitted.config, chosen)


def _least_step_s(config: TrainConfig, triples: Sequence[Triple], encoder: SpladeEncoder) -> float:
    """Seconds of an optimizer step's matrix products, if all ran at the rate of a large one."""
    sample = list(islice(iter(triples), _SAMPLED_TRIPLES))
    texts = [text for triple in sample for text in (triple.query, triple.positive, *triple.negatives[:1])]
    tokens = [len(ids) for ids in encoder.tokenizer(texts, max_length=config.max_length, truncation=True)["input_ids"]]
    body = sum(part.weight.numel() for part in encoder.body.modules() if isinstance(part, nn.Linear))
    # Body: forward, and a backward of twice the work. Head: forward; its backward has only the winners.
    flops_per_token = 6 * body + 2 * encoder.decoder.weight.numel()
    texts_per_step = config.batch_size * (2 + config.negatives_per_query) * config.gradient_accumulation_steps
    return texts_per_step * sum(tokens) / len(tokens) * flops_per_token / gemm_flops_per_s(_PRODUCT_SIZE)

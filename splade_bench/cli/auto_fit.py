"""The settings of a training that ``fit`` chooses, found in another process (``-m splade_bench.cli.auto_fit``).

Plans and timings leave memory behind. In the process of the training it would be part of the training's peak. The
request and the reply are one JSON object each, on standard input and output.

Without being asked, a training is fitted only if that takes a small share of it. Whether it can is first estimated from
the least time that the training may take: that of its matrix products at this machine's full rate.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import msgspec
import transformers
from torch import nn

from splade_bench.batching.sources import batches_per_epoch
from splade_bench.cli.planning import PlanRequest, make_fit, nothing_fits
from splade_bench.config import TrainConfig
from splade_bench.data.records import Triple
from splade_bench.errors import ConfigError, DataError, SpladeBenchError, TrainingError, error_line
from splade_bench.files import ascii_json
from splade_bench.measure.machine import free_memory_bytes
from splade_bench.measure.rss import known_rss_bytes
from splade_bench.model.encoder import SpladeEncoder
from splade_bench.planner.fit import SearchEnded
from splade_bench.planner.fitting import TimeLimit
from splade_bench.training.schedules import steps_of_run
from splade_bench.units import format_bytes, format_seconds
from splade_bench.worker.flops import gemm_flops_per_s

logger = logging.getLogger(__name__)

# Planning without being asked may take this share of the training.
_SHARE = 0.03
_AT_MOST_S = 60.0
# It takes at least so long: the process starts, times this machine, and makes a few plans (two cores, a small model).
_LEAST_PLANNING_S = 12.0
_SAMPLED_TRIPLES = 32
_PRODUCT_SIZE = 512
_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, TrainingError)}


class Fitted(msgspec.Struct, tag=True):
    """The chosen settings, also in words."""

    config: TrainConfig
    settings: str


class Failed(msgspec.Struct, tag=True):
    """The name of an error's class, and its message."""

    error: str
    message: str


def optimizer_steps(config: TrainConfig, triples: Sequence[Triple]) -> int:
    """Of the whole training, as the trainer counts them."""
    return steps_of_run(config, batches_per_epoch(triples, config))


def why_not_to_fit(config: TrainConfig, triples: Sequence[Triple], encoder: SpladeEncoder) -> str | None:
    """Why a training is not fitted without being asked; None if it should be."""
    if encoder.device.type != "cpu":
        return f"on {encoder.device.type}, --auto-fit looks for faster ones"
    least_s = optimizer_steps(config, triples) * _least_step_s(config, triples, encoder)
    if least_s * _SHARE < _LEAST_PLANNING_S:
        return f"the training may be too short for a search of {_LEAST_PLANNING_S:.0f} s; --auto-fit makes it"
    return None


def fitted_within_free_memory(request: PlanRequest, steps: int) -> Fitted:
    """The fastest exact settings that fit the memory that is free now; the defaults if none is found in time.

    Args:
        request: its budget is not looked at.
        steps: optimizer steps of the training.
    """
    logger.info("settings: looking for the fastest that fit, for %.0f s at most", _AT_MOST_S)
    limit = TimeLimit(share=_SHARE, at_most_s=_AT_MOST_S, optimizer_steps=steps, started_at_s=time.time())
    try:
        # A plan counts this process as a whole, so what it has already is free too.
        budget_bytes = free_memory_bytes() + (known_rss_bytes() or 0)
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


def fitted_training(request: PlanRequest) -> Fitted:
    """The fastest settings that fit.

    Raises:
        SpladeBenchError: nothing fits, or the request cannot be planned.
    """
    finished = subprocess.run(
        (sys.executable, "-m", "splade_bench.cli.auto_fit"), input=ascii_json(request).encode(), stdout=subprocess.PIPE
    )
    if not finished.stdout:
        ending = f"the planning process ended with exit code {finished.returncode}"
        raise TrainingError(f"no settings were found: {ending}; run splade-bench fit with the same flags to see why")
    reply: Fitted | Failed = msgspec.convert(json.loads(finished.stdout), Fitted | Failed)
    if isinstance(reply, Failed):
        raise _ERRORS.get(reply.error, TrainingError)(reply.message)
    return reply


def main() -> None:
    """Answer the request on standard input."""
    request = msgspec.convert(json.load(sys.stdin), PlanRequest)
    transformers.logging.set_verbosity_error()  # what it says of a plan is not about the training
    reply: Fitted | Failed
    try:
        found = make_fit(request, whole_frontier=False)
        chosen = found.chosen
        if chosen is None:
            raise TrainingError(nothing_fits(request, found))
        time_s = "" if chosen.step_time_s is None else f", {format_seconds(chosen.step_time_s)} an optimizer step"
        predicted = f"predicted: peak {format_bytes(chosen.peak_bytes)}{time_s}"
        reply = Fitted(chosen.config, f"{chosen.candidate.describe()} ({predicted})")
    except SearchEnded:
        reply = Failed(TrainingError.__name__, "there was no time for a plan")
    except (SpladeBenchError, OSError, MemoryError, RuntimeError) as error:
        reply = Failed(type(error).__name__, error_line(error))
    sys.stdout.buffer.write(ascii_json(reply).encode())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # the training's process gets it too
        raise SystemExit(130) from None

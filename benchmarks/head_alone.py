"""Measures the head by itself, in a process of its own.

A forward and backward pass over hidden states of full length: its time, beside that of the one product that every head
needs, and the memory it adds to the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from splade_bench.measure.machine import machine_info
from splade_bench.measure.rss import PeakRss
from splade_bench.measure.usage import usage_between, usage_now
from splade_bench.model.head import keeps_winners, splade_max, splade_max_eager
from splade_bench.model.presets import ALL_ACTIVE_BIAS, bias_for_active_share

TEXTS, LENGTH, VOCAB_SIZE = 2, 512, 30522
ROUNDS = 9


def measure_head(head: str, *, hidden_size: int, active_share: float) -> dict[str, Any]:
    """The measured fields of a :class:`splade_bench.results.head.HeadResult`."""
    hidden, weight, bias, mask = make_inputs(hidden_size, active_share)
    upstream = torch.randn(TEXTS, VOCAB_SIZE)
    # As in an encoder that knows the density of its vectors.
    keep_winners = keeps_winners(torch.device("cpu"), active_share)

    def forward_and_backward() -> Tensor:
        hidden.grad = None
        if head == "eager":
            reps = splade_max_eager(hidden, weight, bias, mask)
        else:
            reps = splade_max(hidden, weight, bias, mask, keep_winners=keep_winners, in_place_gradients=True)
        reps.backward(upstream)
        return reps.detach()

    peak_rss = PeakRss()
    peak_rss.start()
    reps = forward_and_backward()
    peak = peak_rss.read()
    if peak.peak_bytes is None or peak.start_bytes is None:
        raise RuntimeError(f"the memory of the head cannot be measured: {peak.source}")
    extra_bytes = peak.peak_bytes - peak.start_bytes
    # In the other layout, with 30,522 numbers a row, the product takes up to 1.5 times as long and would flatter the
    # head.
    product = torch.zeros(VOCAB_SIZE, TEXTS * LENGTH)
    rows, columns = weight.detach(), hidden.detach().reshape(-1, hidden_size).t()
    gemm_times_s, times_s = [], []
    before, start_s = usage_now(), time.perf_counter()
    for _ in range(ROUNDS + 1):
        gemm_times_s.append(_seconds(lambda: torch.mm(rows, columns, out=product)))
        times_s.append(_seconds(forward_and_backward))
    wall_time_s = time.perf_counter() - start_s
    return {
        "head": head,
        "hidden_size": hidden_size,
        "active_share": torch.count_nonzero(reps).item() / reps.numel(),
        "texts": TEXTS,
        "length": LENGTH,
        "vocab_size": VOCAB_SIZE,
        "gemm_times_s": gemm_times_s[1:],
        "times_s": times_s[1:],
        "extra_bytes": extra_bytes,
        "wall_time_s": wall_time_s,
        "others_cpu_time_s": usage_between(before, usage_now())["others_cpu_time_s"],
        "machine": machine_info() | {"threads": torch.get_num_threads(), "device": "cpu"},
    }


def make_inputs(hidden_size: int, active_share: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, bias and mask under which ``active_share`` of the entries are active.

    Weight and bias have their gradients already, as in training.
    """
    torch.manual_seed(0)
    hidden = torch.randn(TEXTS, LENGTH, hidden_size)
    weight = torch.randn(VOCAB_SIZE, hidden_size) / hidden_size**0.5
    mask = torch.ones(TEXTS, LENGTH, dtype=torch.int64)
    vectors = splade_max(hidden, weight, torch.full((VOCAB_SIZE,), ALL_ACTIVE_BIAS), mask)
    bias = torch.full((VOCAB_SIZE,), bias_for_active_share(vectors, active_share))
    for leaf in (hidden, weight, bias):
        leaf.requires_grad_()
    for parameter in (weight, bias):
        parameter.grad = torch.zeros_like(parameter)
    return hidden, weight, bias, mask


def _seconds(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s

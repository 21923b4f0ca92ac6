"""sentence-transformers' own trainer with its losses and with this package's, in turn, each run in a fresh process.

MiniLM's size (6 layers, hidden size 384), 8 queries with a positive and a negative each, 256 tokens a text. The time
of an optimizer step is the median without the first. The order alternates between rounds. LeanSpladeLoss is measured as
it comes, with the least memory, and with all activations kept, which takes the least time.

``--profile smoke`` trains a toy once with each loss, and checks neither memory nor time: it may run on busy machines.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Mapping
from typing import Any

import pytest

from splade_bench.bench.protocol import CallRequest
from splade_bench.bench.session import MeasuringSession
from splade_bench.pytest_plugin.sweep import ROUNDS

NEEDED = ("sentence_transformers", "accelerate", "datasets")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="needs sentence-transformers' trainer: pip install 'splade-bench[sentence-transformers]'",
)
PLAIN, LEAN, LEAN_KEEPING = "SpladeLoss", "LeanSpladeLoss", "LeanSpladeLoss, activation_memory all"
LOSSES: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"loss": "SpladeLoss"},
    "CachedSpladeLoss": {"loss": "CachedSpladeLoss"},
    LEAN: {"loss": "LeanSpladeLoss"},
    LEAN_KEEPING: {"loss": "LeanSpladeLoss", "activation_memory": "all"},
}
MOST_MEMORY, MOST_TIME = 0.35, 0.6
"""Of LeanSpladeLoss with all activations, as shares of those of SpladeLoss. Without, it takes less memory."""


@pytest.mark.takes_long
@pytest.mark.part(minutes=15)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("full", [True, False], ids=["full-texts", "real-lengths"])
def test_a_third_of_the_memory_and_less_time(
    dropout: float, full: bool, measuring: MeasuringSession, pytestconfig: pytest.Config
) -> None:
    smoke = pytestconfig.getoption("--profile") == "smoke"
    settings = {"model": "toy" if smoke else "mini", "dropout": dropout, "full": full, "steps": 2 if smoke else 4}
    rounds = 1 if smoke else pytestconfig.getoption("--rounds") or ROUNDS
    runs: dict[str, list[Mapping[str, Any]]] = {loss: [] for loss in LOSSES}
    for number in range(rounds):
        for loss in LOSSES if number % 2 == 0 else reversed(LOSSES):
            runs[loss].append(_measured(loss, settings, measuring))

    plain, lean, keeping = (runs[loss] for loss in (PLAIN, LEAN, LEAN_KEEPING))
    if dropout == 0:  # with dropout each loss draws other random numbers
        for ours in (lean, keeping):
            assert ours[0]["losses"] == pytest.approx(plain[0]["losses"], rel=1e-3)
    if smoke:
        return
    assert _added_bytes(lean) < _added_bytes(keeping) <= MOST_MEMORY * _added_bytes(plain)
    assert _median(keeping, "step_time_s") <= MOST_TIME * _median(plain, "step_time_s")


def _measured(loss: str, settings: Mapping[str, Any], measuring: MeasuringSession) -> Mapping[str, Any]:
    request = CallRequest(
        module="sentence_transformers_training", function="train", keywords={**LOSSES[loss], **settings}
    )
    name = f"{loss} in sentence-transformers' trainer, {settings}"
    result = measuring.measure_call(name, request, test_id=name)
    assert result.status == "ok", result.error
    value: Mapping[str, Any] = result.value
    print(f"{name}: {_added_bytes([value]) / 2**20:.0f} MiB, {value['step_time_s']:.2f} s a step, {value['losses']}")
    return value


def _added_bytes(runs: list[Mapping[str, Any]]) -> float:
    return statistics.median(run["peak_rss_bytes"] - run["baseline_rss_bytes"] for run in runs)


def _median(runs: list[Mapping[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)

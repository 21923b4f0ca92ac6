"""Samples of resident memory, and what they cost."""

from __future__ import annotations

import threading
import time

import pytest

from splade_bench.measure import timeline
from splade_bench.measure.timeline import MemorySampler, Sample, Timeline

MIB = 2**20


def test_a_touched_allocation_shows_in_the_samples_with_its_phase() -> None:
    phase = "before"
    with MemorySampler(phase=lambda: phase) as sampler:
        time.sleep(0.1)
        phase = "during"
        block = bytearray(128 * MIB)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(0.1)
    before = max(sample.rss_bytes for sample in sampler.timeline.samples if sample.phase == "before")

    assert sampler.timeline.peak_bytes - before == pytest.approx(128 * MIB, rel=0.05)
    assert sampler.timeline.samples[-1].phase == "during"
    assert len(block) == 128 * MIB


def test_the_sampler_stops_when_its_block_raises() -> None:
    with pytest.raises(RuntimeError, match="boom"), MemorySampler():
        raise RuntimeError("boom")

    assert "memory-sampler" not in {thread.name for thread in threading.enumerate()}


def test_the_sampler_knows_its_own_cost() -> None:
    with MemorySampler() as sampler:
        time.sleep(0.3)

    assert 0 < sampler.cpu_time_s < sampler.wall_time_s


def test_a_long_run_keeps_its_peak_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_SAMPLES", 16)
    samples = Timeline()
    for number in range(1000):
        samples.add(Sample(number * 0.01, 100 + (900 if number == 333 else 0), "forward"))

    assert len(samples.samples) < 16
    assert samples.peak_bytes == 1000
    assert samples.interval_s > timeline.INTERVAL_S

"""Random numbers are even, and the same again where they are asked for again."""

from __future__ import annotations

import pytest
import torch

from splade_bench.model.rng import capture_rng, random_int16, restored_rng

CPU = torch.device("cpu")
DRAWN = 400_001


@pytest.fixture(params=["cpu", "mps"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Paths for this device, on the CPU."""
    monkeypatch.setattr("splade_bench.model.rng.device_type", lambda _: request.param)
    return str(request.param)


@pytest.mark.usefixtures("device")
def test_each_of_their_range_is_as_likely() -> None:
    torch.manual_seed(0)
    numbers = random_int16(DRAWN, CPU)

    assert numbers.dtype == torch.int16
    assert numbers.shape == (DRAWN,)
    counts = torch.bincount((numbers.int() + 2**15) // 2**12, minlength=16).double()
    assert float(((counts - DRAWN / 16).square() / (DRAWN / 16)).sum()) < 37.7  # chi-squared, 15 degrees, 0.1 %
    assert int(numbers.min()) < -(2**15) + 10
    assert int(numbers.max()) > 2**15 - 11


@pytest.mark.usefixtures("device")
def test_a_generator_of_their_own_leaves_the_others_alone() -> None:
    before = torch.get_rng_state()
    first, second = (random_int16(99, CPU, torch.Generator().manual_seed(3)) for _ in range(2))

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("device")
def test_a_stretch_is_computed_again_with_the_same_numbers() -> None:
    torch.manual_seed(1)
    state = capture_rng(CPU)
    first = random_int16(99, CPU)
    after = torch.get_rng_state()

    with restored_rng(state):
        assert torch.equal(random_int16(99, CPU), first)

    assert torch.equal(torch.get_rng_state(), after)

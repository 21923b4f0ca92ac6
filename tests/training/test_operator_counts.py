"""A host needs time for each operator that it starts on a device: a step starts few more than the plain model."""

from __future__ import annotations

import torch
from operator_counts import PLAIN, STEPS, OperatorCount, count_operators
from waiting import Waits

LARGEST_RATIO = 1.3


def test_a_step_has_at_most_three_tenths_more_operators_than_the_plain_model() -> None:
    with Waits() as waits:
        rows = {row["step"]: row for row in count_operators()}

    assert rows.keys() == {PLAIN, *STEPS}
    assert rows[PLAIN]["operators"] > 400, "six layers, forward and backward"
    assert {name: row["ratio"] for name, row in rows.items() if row["ratio"] > LARGEST_RATIO} == {}
    assert "nonzero" not in waits.found


def test_what_starts_nothing_on_a_device_does_not_count() -> None:
    tensor = torch.ones(4, 4)
    with OperatorCount() as count:
        torch.empty(3)
        tensor.t().reshape(2, 8)[0]  # the copy of a transposed tensor counts
        tensor.view(16)[2:].detach()
        tensor @ tensor

    assert count.operators == 2

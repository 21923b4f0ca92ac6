"""Plans of the source article's run that ran out of memory, and of this package's modes on the same batch.

The page of the results is ``reports/ARTICLE.md``. Nothing is trained, and no Mac is needed.
"""

from __future__ import annotations

import pytest

from splade_bench.bench.protocol import CallRequest
from splade_bench.bench.session import MeasuringSession
from splade_bench.report.article import explains
from splade_bench.results.plan import PlanResult

INTEGER_MASK, FLOAT_MASK = (f"the article's algorithm, mask of {kind}" for kind in ("integers", "floats"))
MODES = ("standard", "memory-efficient", "minimal-memory")


@pytest.fixture(scope="module")
def plans(measuring: MeasuringSession) -> dict[str, PlanResult]:
    return {
        name: measuring.measure_as(
            PlanResult, CallRequest(module="article_plan", function="plan_run", arguments=[name])
        )
        for name in (INTEGER_MASK, FLOAT_MASK, *MODES)
    }


@pytest.mark.takes_long
def test_a_mask_of_floats_explains_the_reported_failure(plans: dict[str, PlanResult]) -> None:
    assert [name for name, plan in plans.items() if explains(plan)] == [FLOAT_MASK]


@pytest.mark.takes_long
@pytest.mark.parametrize("mode", ["memory-efficient", "minimal-memory"])
def test_the_same_batch_fits_in_a_tenth(plans: dict[str, PlanResult], mode: str) -> None:
    assert plans[mode].failed_allocation_bytes is None
    assert plans[mode].peak_bytes <= plans[INTEGER_MASK].peak_bytes / 10

"""The choice of a fit among candidates whose peak and cost are known. No model is planned here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from splade_bench.config import TrainConfig
from splade_bench.errors import ConfigError
from splade_bench.memory_modes import MemoryConfig, memory_mode
from splade_bench.planner.candidates import SEARCHED_FIELDS, SETTINGS_TO_TRY, Candidate, Candidates, Change
from splade_bench.planner.fit import fit
from splade_bench.planner.fitting import PlannedTraining
from splade_bench.planner.plan import MemoryPlan
from splade_bench.planner.trials import Fit, SearchEnded, Trial

ASKED = TrainConfig(batch_size=8, max_length=32, negatives_per_query=1)
MIB = 2**20
TEXTS = 24
# Change -> what it adds to the fixed part, and by what it multiplies the varying part and the time.
EFFECTS = {
    "without selective-recomputation": (0, 1.3, 0.95),
    "without heap-trimming": (15, 1.0, 0.96),
    "without mmap-threshold": (5, 1.0, 0.92),
    "activation-checkpointing": (0, 0.3, 1.3),
    "optimizer-states-disk": (-40, 1.0, 1.1),
    "optimizer-states-bfloat16": (-20, 1.0, 1.02),
    "no-attention-dropout": (0, 0.9, 0.8),
    "--mixed-precision bf16": (0, 0.7, 1.5),
}


def texts_of(candidate: Candidate) -> int:
    """Texts in a mini-batch; by default more of them if all graphs are kept."""
    return candidate.texts or (8 if candidate.activation_memory == "all" else 1)


def figures(candidate: Candidate) -> tuple[float, float, float]:
    """Fixed MiB, varying MiB and seconds. Kept graphs save up to a quarter of the time."""
    texts = texts_of(candidate)
    fixed, one, seconds = 60.0, 10.0 * texts, 10.0 + 8.0 / texts
    for change in candidate.changes:
        added, ratio, slower = EFFECTS[change.name]
        fixed, one, seconds = fixed + added, one * ratio, seconds * slower
    others = one * (TEXTS / texts - 1)
    named = {None: 0.0, "all": one + others}
    memory = candidate.activation_memory
    kept = named[memory] if memory in named else float(str(memory).removesuffix("MiB"))
    more = min(others, max(0.0, kept - one))
    saved = 0.25 * more / others if others else 0.0
    varying = (one + more) / candidate.splits
    return fixed, varying, seconds * (1 - saved) * (0.75 if candidate.splits > 1 else 1)


def one_graph(candidate: Candidate) -> float:
    """MiB that the graph of a mini-batch takes."""
    memory = 10.0 * texts_of(candidate)
    for change in candidate.changes:
        memory *= EFFECTS[change.name][1]
    return memory


def run(
    budget: float,
    *,
    allow_inexact: bool = False,
    given: Collection[str] = (),
    without: str = "",
    plans: int = 99,
    first: Candidate | None = None,
    whole_frontier: bool = True,
    **asked: Any,
) -> Fit:
    left = iter(range(plans))

    def plan_one(candidate: Candidate, config: TrainConfig) -> Trial:
        if next(left, None) is None:
            raise SearchEnded
        if without in (change.name for change in candidate.changes) or without == "your settings, unchanged":
            raise ConfigError("the model cannot have it")
        fixed, varying, seconds = figures(candidate)
        least = 0.8 * one_graph(candidate)
        if least > config.memory.activation_memory_bytes / MIB > 0:
            raise ConfigError("--activation-memory: less than a mini-batch keeps")
        made = MemoryPlan(
            device="cpu",
            allocator="",
            calibrated=True,
            peak_bytes=int((fixed + varying) * MIB),
            baseline_bytes=int(fixed * MIB),
            workspace_bytes=0,
            live_peak_bytes=int(varying * MIB),
            by_category={"activations": int(varying * MIB)},
            peak_phase="",
            peak_op="",
            timeline=[],
            budget_bytes=int(budget * MIB),
            fits=fixed + varying <= budget,
            first_failure=None,
            active_share=0.01,
            work=Counter(),
        )
        return Trial(candidate=candidate, config=config, plan=made, step_time_s=seconds)

    config = TrainConfig(**{"batch_size": 8, "max_length": 32} | asked)
    candidates = Candidates(config, given=given, device="cpu", allow_inexact=allow_inexact)
    return fit(candidates, plan_one, first=first, whole_frontier=whole_frontier)


def exhaustively(budget: float, *, allow_inexact: bool = False) -> float:
    """The least time of all candidates that fit and do not cut the batch."""
    candidates = Candidates(ASKED, given=(), device="cpu", allow_inexact=allow_inexact)
    memories = [None, "all", *(f"{size}MiB" for size in range(1, int(budget), 4))]
    every = [Candidate(*choice) for choice in product(candidates.sizes, candidates.combinations(), memories)]
    fitting = [seconds for fixed, varying, seconds in map(figures, every) if fixed + varying <= budget]
    return min(fitting)


@pytest.mark.parametrize("allow_inexact", [False, True])
@pytest.mark.parametrize("budget", [27, 35, 50, 68, 75, 90, 120, 200, 260, 400])
def test_the_choice_fits_and_is_nearly_the_fastest(budget: float, allow_inexact: bool) -> None:
    found = run(budget, allow_inexact=allow_inexact)

    assert found.chosen is not None
    assert found.chosen.fits
    assert found.chosen.plan.peak_bytes <= budget * MIB
    # Five changes have more combinations than a search can try.
    nearly = 1.15 if allow_inexact else 1.1
    assert found.chosen.cost <= nearly * exhaustively(budget, allow_inexact=allow_inexact)
    assert len(found.trials) <= (45 if allow_inexact else 37)


def test_nothing_that_fits_is_faster_and_the_frontier_only_falls() -> None:
    found = run(120)

    assert found.chosen is not None
    assert all(1.01 * trial.cost >= found.chosen.cost and trial.fits for trial in found.runner_ups)
    points = [(trial.cost, trial.plan.peak_bytes) for trial in found.frontier]
    assert points == sorted(points)
    assert [peak for _, peak in points] == sorted({peak for _, peak in points}, reverse=True)
    assert found.frontier[-1] is found.smallest or found.smallest.plan.peak_bytes == points[-1][1]


def test_where_nothing_fits_the_smallest_is_known() -> None:
    found = run(10)

    assert found.chosen is None
    assert found.smallest.plan.peak_bytes == 23 * MIB
    assert [change.name for change in found.smallest.candidate.changes] == [
        "activation-checkpointing",
        "optimizer-states-disk",
    ]


def test_what_changes_the_gradient_is_a_candidate_only_where_it_is_allowed() -> None:
    for budget in (10, 68, 120):
        assert all(not trial.candidate.inexact for trial in run(budget).trials)

    allowed = run(120, allow_inexact=True)
    assert allowed.chosen is not None
    assert "no-attention-dropout" in allowed.chosen.candidate.inexact
    assert allowed.chosen.config.memory.attention_dropout is False


def test_of_equally_fast_candidates_the_exact_one_that_saves_time_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFECTS, "no-attention-dropout", (0, 1.0, 1.0))
    monkeypatch.setitem(EFFECTS, "without mmap-threshold", (5, 1.0, 0.995))
    monkeypatch.setitem(EFFECTS, "without heap-trimming", (15, 1.0, 1.02))

    found = run(400, allow_inexact=True)

    assert found.chosen is not None
    changes = [change.name for change in found.chosen.candidate.changes]
    assert changes == ["without mmap-threshold", "without selective-recomputation"]


def test_settings_with_less_memory_are_planned_only_if_the_fastest_do_not_fit() -> None:
    for budget in (90, 400):
        whole, short = run(budget), run(budget, whole_frontier=False)

        assert whole.chosen is not None
        assert short.chosen is not None
        assert short.chosen.cost == whole.chosen.cost
        assert (len(short.trials) < len(whole.trials)) == (budget == 400)


def test_a_batch_is_cut_only_where_nothing_else_fits() -> None:
    assert all(trial.candidate.splits == 1 for trial in run(27, allow_inexact=True).trials)

    # Of the smallest, 20 are fixed and 1.9 vary.
    cut = run(21.5, allow_inexact=True)
    assert cut.chosen is not None
    assert cut.chosen.candidate.splits == 2
    assert cut.chosen.candidate.inexact[-1] == "accumulation of 2 batches in place of one"
    assert run(10, allow_inexact=True).chosen is None


def test_a_change_that_the_model_cannot_have_is_left_out() -> None:
    found = run(68, without="activation-checkpointing")

    assert found.chosen is not None
    assert all(
        change.name != "activation-checkpointing" for trial in found.trials for change in trial.candidate.changes
    )
    with pytest.raises(ConfigError, match="cannot have it"):
        run(68, without="your settings, unchanged")


@pytest.mark.parametrize(("negatives", "splits"), [(0, [2, 4]), (1, [2, 4, 8])])
def test_a_part_of_a_batch_has_a_negative_for_each_query(negatives: int, splits: list[int]) -> None:
    asked = TrainConfig(batch_size=8, max_length=32, negatives_per_query=negatives)

    assert list(Candidates(asked, given=(), device="cpu", allow_inexact=True).splits()) == splits


def test_the_batch_and_what_was_named_are_kept() -> None:
    found = run(
        65,
        given={"activation_checkpointing", "mini_batch_tokens", "optimizer_states"},
        gradient_accumulation_steps=4,
        seed=7,
        loss="margin",
        memory=MemoryConfig(activation_checkpointing=True, mini_batch_tokens=100),
    )

    for trial in found.trials:
        assert trial.config.memory.activation_checkpointing is True
        assert trial.config.memory.mini_batch_tokens == 100
        assert trial.config.memory.optimizer_states == "float32"
        assert (trial.config.batch_size, trial.config.gradient_accumulation_steps) == (8, 4)
        assert (trial.config.seed, trial.config.loss) == (7, "margin")


def test_without_gradient_caching_there_are_no_mini_batches() -> None:
    found = run(400, memory=memory_mode("standard"))

    assert {(trial.candidate.texts, trial.candidate.activation_memory) for trial in found.trials} == {(None, None)}


def test_as_many_graphs_are_kept_as_fit() -> None:
    roomy, tight = run(400).chosen, run(180).chosen

    assert roomy is not None
    assert roomy.candidate.activation_memory == "all"
    assert roomy.config.memory.activation_memory == "all"
    assert tight is not None
    assert tight.plan.peak_bytes > 170 * MIB
    assert tight.config.memory.activation_memory_bytes < 180 * MIB


def test_a_named_activation_memory_is_kept() -> None:
    memory = MemoryConfig(activation_memory="20MiB")
    found = run(400, given={"activation_memory"}, memory=memory)

    assert {trial.config.memory.activation_memory for trial in found.trials} == {"20MiB"}
    assert {trial.candidate.texts for trial in found.trials} == {1, 2}, "more texts keep more"


@pytest.mark.parametrize("budget", range(75, 300, 4))
def test_no_budget_makes_a_search_fail_on_a_setting_that_it_chose_itself(budget: int) -> None:
    found = run(budget)

    assert found.chosen is not None
    assert found.chosen.plan.peak_bytes <= budget * MIB


def test_the_configuration_itself_is_planned_first_where_that_is_asked_for() -> None:
    for plans in (1, 2, 3):
        found = run(400, plans=plans, first=Candidate(None))

        assert found.chosen is not None
        assert found.chosen.cost <= (1 + 0.01) * figures(Candidate(None))[2]


@pytest.mark.parametrize("plans", [1, 2, 5, 9])
def test_a_search_that_is_ended_early_gives_what_it_has(plans: int) -> None:
    found = run(400, plans=plans)

    assert len(found.trials) == plans
    assert found.chosen is not None
    assert found.chosen.cost == min(trial.cost for trial in found.trials)
    with pytest.raises(SearchEnded):
        run(400, plans=0)


def test_a_cut_batch_keeps_its_queries() -> None:
    candidates = Candidates(ASKED, given=(), device="cpu", allow_inexact=True)

    assert [*candidates.splits()] == [2, 4, 8]
    config = candidates.config(Candidate(1, splits=4))
    assert (config.batch_size, config.gradient_accumulation_steps) == (2, 4)


def test_changes_that_set_the_same_field_are_not_combined() -> None:
    candidates = Candidates(ASKED, given=(), device="cpu", allow_inexact=True)
    for chosen in candidates.combinations():
        fields = [name for change in chosen for name in change.fields]
        assert len(fields) == len(set(fields))


def test_the_changes_set_fields_that_exist() -> None:
    for change in SETTINGS_TO_TRY:
        assert set(change.memory) <= set(MemoryConfig.__dataclass_fields__)
        assert set(change.run) <= set(TrainConfig.__dataclass_fields__)
    assert "mini_batch_tokens" in SEARCHED_FIELDS


@pytest.mark.parametrize("change", [one for one in SETTINGS_TO_TRY if one.memory], ids=lambda change: change.name)
def test_a_memory_mode_takes_the_name_of_a_change(change: Change) -> None:
    left_out = change.name.startswith("without ")
    mode = "memory-efficient-" + change.name.replace(" ", "-") if left_out else f"memory-efficient+{change.name}"

    assert memory_mode(mode) == replace(memory_mode("memory-efficient"), **change.memory)


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1, 2]), (2, [1, 2, 4]), (3, [1, 2, 4, 6]), (4, [1, 2, 4, 8])])
def test_sizes_of_mini_batches_double_up_to_the_batch(batch_size: int, sizes: list[int]) -> None:
    asked = TrainConfig(batch_size=batch_size, max_length=32, negatives_per_query=0)

    assert Candidates(asked, given=(), device="cpu", allow_inexact=False).sizes == sizes


@pytest.mark.parametrize(
    ("device", "memory", "usable_bytes"),
    [
        ("cpu", MemoryConfig(), 1100),
        ("cpu", MemoryConfig(trim_heap=False), 900),
        ("cpu", MemoryConfig(trim_heap=False, gradient_caching=False), 1100),
        ("cuda", MemoryConfig(trim_heap=False), 1100),
    ],
)
def test_without_heap_trimming_a_plan_may_take_less_than_its_budget(
    device: str, memory: MemoryConfig, usable_bytes: int
) -> None:
    training = PlannedTraining(
        make_encoder=lambda: pytest.fail("nothing is planned"),
        device_type=device,
        baseline_bytes=100,
        budget_bytes=None,
    )

    assert training.usable_bytes(TrainConfig(memory=memory), 1100) == usable_bytes

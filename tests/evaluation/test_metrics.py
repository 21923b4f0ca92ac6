"""Retrieval metrics against ir-measures, with ties and without scores."""

from __future__ import annotations

import random

import pytest

from splade_bench.evaluation.metrics import evaluate_run


def random_case(seed: int) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Qrels with graded and negative judgements, and a run with different scores and unjudged documents."""
    rng = random.Random(seed)
    documents = [f"d{number}" for number in range(150)]
    qrels = {f"q{number}": {name: rng.choice([0, 1, 2]) for name in rng.sample(documents, 8)} for number in range(12)}
    for judged in qrels.values():
        judged[rng.choice(documents)] = 1
    run = {
        query_id: {name: rng.random() + 0.001 for name in rng.sample(documents, rng.choice([5, 40, 130]))}
        for query_id in list(qrels)[:-1]  # the last query returned nothing
    }
    return qrels, run


@pytest.mark.parametrize("seed", range(20))
def test_metrics_agree_with_ir_measures(seed: int) -> None:
    ir_measures = pytest.importorskip("ir_measures", reason="the oracle is in the test extra")
    qrels, run = random_case(seed)
    names = {
        "RR@10": "mrr@10",
        "P@1": "p@1",
        "P@3": "p@3",
        "P@5": "p@5",
        "P@10": "p@10",
        "nDCG@10": "ndcg@10",
        "R@100": "recall@100",
    }

    expected = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in names], qrels, run)

    ours = evaluate_run(run.items(), qrels)
    for measure, value in expected.items():
        assert ours[names[str(measure)]] == pytest.approx(value, abs=1e-12), measure


@pytest.mark.parametrize("relevant", ["d0", "d5", "d9"])
@pytest.mark.parametrize("score", [0.0, -1.0])
def test_a_model_that_scores_everything_alike_at_zero_scores_zero(relevant: str, score: float) -> None:
    run = {"q": {f"d{number}": score for number in range(10)}}

    assert set(evaluate_run(run.items(), {"q": {relevant: 1}}).values()) == {0.0}


@pytest.mark.parametrize("relevant", ["d0", "d3", "d7"])
def test_ties_count_against_the_system_whatever_the_document_ids(relevant: str) -> None:
    run = {"q": {f"d{number}": 1.0 for number in range(8)}}

    figures = evaluate_run(run.items(), {"q": {relevant: 1}})

    assert figures["mrr@10"] == 1 / 8
    assert figures["p@1"] == 0.0


def test_no_queries_give_zeros() -> None:
    assert set(evaluate_run([], {}).values()) == {0.0}

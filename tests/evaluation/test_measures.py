"""Measures by ir_measures' names have the library's own figures for the run file that is written, ties included."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from splade_bench.errors import ConfigError
from splade_bench.evaluation.metrics import evaluate_run, parse_measures
from splade_bench.evaluation.run_file import run_file

ir_measures = pytest.importorskip("ir_measures", reason="the oracle is in the test extra")

NAMES = ("RR", "RR@10", "P@1", "P@7", "nDCG", "nDCG@10", "R@100", "AP", "AP@20", "Success@1", "Success@5")
Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


def random_case(seed: int) -> tuple[Qrels, Run]:
    """Graded judgements and a run with many equal scores; queries without judgements of relevance, or without a run."""
    rng = random.Random(seed)
    documents = [f"d{number}" for number in range(150)]
    qrels = {
        f"q{number}": {name: rng.choice([0, 1, 2, 3]) for name in rng.sample(documents, 12)} for number in range(15)
    }
    qrels["q0"] = {name: 0 for name in qrels["q0"]}
    run = {
        query_id: {name: rng.randint(1, 12) / 4 for name in rng.sample(documents, rng.choice([0, 5, 40, 150]))}
        for query_id in list(qrels)[:-1]
    }
    return qrels, run


@pytest.mark.parametrize("seed", range(10))
def test_figures_are_those_of_the_library_for_our_run_file(seed: int, tmp_path: Path) -> None:
    qrels, run = random_case(seed)

    with run_file(tmp_path / "run.trec") as write:
        ours = evaluate_run(run.items(), qrels, metrics=parse_measures(NAMES), on_ranking=write)

    written = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    expected = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in NAMES], qrels, written)
    assert ours == pytest.approx({str(measure): value for measure, value in expected.items()}, abs=1e-12)
    assert 0 < ours["AP"] < 1


def test_the_usual_metrics_are_measures_of_other_names() -> None:
    names = {
        "mrr@10": "RR@10",
        **{f"p@{k}": f"P@{k}" for k in (1, 3, 5, 10)},
        "ndcg@10": "nDCG@10",
        "recall@100": "R@100",
    }
    qrels, run = random_case(0)

    measures = evaluate_run(run.items(), qrels, metrics=parse_measures(list(names.values())))

    assert evaluate_run(run.items(), qrels) == {name: measures[theirs] for name, theirs in names.items()}


@pytest.mark.parametrize("name", ["nDGC@10", "nDCG@x", "nDCG@0", "nDCG@", "P", "mrr@10", "", "AP(rel=2)@10"])
def test_an_unknown_measure_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^--measures .*there is no such measure; choose from nDCG, RR") as raised:
        parse_measures(["nDCG@10", name])
    assert "\n" not in str(raised.value)

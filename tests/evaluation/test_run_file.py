"""TREC runs: their lines, their order for every reader, and files that are complete or absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from splade_bench.errors import ConfigError
from splade_bench.evaluation.metrics import Ranking
from splade_bench.evaluation.run_file import distinct_scores, run_file, run_lines


def test_a_line_has_query_document_rank_score_and_run() -> None:
    assert list(run_lines(("q1", {"d7": 2.5, "d3": 0.1}))) == [
        "q1 Q0 d7 1 2.5 splade_bench\n",
        "q1 Q0 d3 2 0.100000001 splade_bench\n",
    ]
    assert list(run_lines(("q1", {}))) == []


@pytest.mark.parametrize("scores", [[3.0, 3.0, 3.0], [3.0, 3.0, 2.9999998, 1.0], [1e-30, 1e-30], [2.0, 1.0], [5.0]])
def test_equal_scores_fall_by_as_little_as_possible(scores: list[float]) -> None:
    documents = {f"d{9 - place}": score for place, score in enumerate(scores)}

    distinct = distinct_scores(documents)

    falling = list(distinct.values())
    assert list(distinct) == list(documents)
    assert falling == sorted(set(falling), reverse=True)
    assert falling == pytest.approx(scores, rel=1e-6)
    assert [float(line.split()[4]) for line in run_lines(("q", documents))] == pytest.approx(falling, rel=1e-8)


@pytest.mark.parametrize("text_id", ["two words", "", "tab\there"])
def test_an_id_that_would_break_the_line_is_refused(text_id: str) -> None:
    for ranking in ((text_id, {"d": 1.0}), ("q", {text_id: 1.0})):
        with pytest.raises(ConfigError, match="a TREC run cannot have the id"):
            list(run_lines(ranking))


def test_a_run_that_does_not_end_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("before\n")

    def stop(write: Callable[[Ranking], None]) -> None:
        write(("q", {"d": 1.0}))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), run_file(path) as write:
        stop(write)
    assert path.read_text() == "before\n"

    with run_file(path) as write:
        write(("q", {"d": 1.0}))
    assert path.read_text() == "q Q0 d 1 1 splade_bench\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"--run-file .*nowhere.run.trec: cannot be written"),
        run_file(tmp_path / "nowhere" / "run.trec"),
    ):
        pass

"""The card of a trained model says what it was trained on, at which cost, and how well it searches."""

from __future__ import annotations

from pathlib import Path

from splade_bench.model.model_card import model_card

RECORD = {
    "model_name": "bert-base-uncased",
    "corpus_sha256": "ab12",
    "optimizer_steps": 40,
    "queries_seen": 320,
    "final_loss": 0.25,
    "wall_time_s": 83.0,
    "baseline_rss_bytes": 300 * 2**20,
    "peak_rss_bytes": 800 * 2**20,
    "device": "cpu",
    "config": {"batch_size": 8},
}


def test_it_has_the_facts_of_the_run() -> None:
    card = model_card(RECORD)

    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "| started from | `bert-base-uncased` |" in card
    assert "| training data, sha256 | `ab12` |" in card
    assert "| peak memory | 800 MiB, of which 500 MiB for the training |" in card
    assert "| time | 1 min 23 s |" in card
    assert '"batch_size": 8' in card
    assert "Quality" not in card


def test_an_evaluation_adds_its_metrics() -> None:
    card = model_card({**RECORD, "metrics": {"mrr@10": 0.5, "ndcg@10": None}, "bm25": {"mrr@10": 0.25}})

    assert "| mrr@10 | 0.500 | 0.250 |" in card
    assert "| ndcg@10 |  |  |" in card


def test_what_is_not_known_is_left_out() -> None:
    card = model_card({"config": {}, "peak_rss_bytes": None})

    assert "peak memory" not in card
    assert "None" not in card


def test_a_folder_of_this_machine_is_named_without_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()

    assert "| started from | `my-model` |" in model_card({**RECORD, "model_name": str(folder)})

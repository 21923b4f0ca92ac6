"""Queries that are documents too."""

from __future__ import annotations

from splade_bench.data.records import RetrievalDataset
from splade_bench.evaluation.own_texts import own_documents, without


def test_a_documents_text_or_its_id_and_text_make_it_a_querys_own() -> None:
    dataset = RetrievalDataset(
        queries={
            "1": "How do I learn Go?",
            "argument-7": "Taxes are fair because all pay them.",
            "3": "What is a cat?",
            "4": "answered by itself",
        },
        corpus={
            "1": "What is a dog?",  # the same number, as in many collections
            "2": "how do I  learn go?",
            "9": "How do I learn Go?",
            "argument-7": "On taxes Taxes are fair because all pay them.",
            "8": "A note: taxes are fair because all pay them.",
            "4": "answered by itself",
        },
        qrels={"4": {"4": 1}, "1": {"9": 0}},
    )

    assert own_documents(dataset) == {"1": ["2", "9"], "argument-7": ["argument-7"]}


def test_a_ranking_keeps_its_order_without_them() -> None:
    assert list(without({"c": 3.0, "a": 2.0, "b": 1.0}, ["a", "x"]).items()) == [("c", 3.0), ("b", 1.0)]

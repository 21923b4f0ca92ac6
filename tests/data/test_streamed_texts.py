"""Texts that stay in a file."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

from splade_bench.data.formats import retrieval_dataset
from splade_bench.data.records import Triple
from splade_bench.data.streamed_texts import SpooledTexts


def test_spooled_texts_make_the_same_dataset(triples: Sequence[Triple]) -> None:
    odd = Triple(query="how?", positive='a "quoted"\nline \u00e9', negatives=(triples[0].positive,))
    in_memory = retrieval_dataset([*triples, odd])

    spooled = retrieval_dataset([*triples, odd], spooled=SpooledTexts())

    assert list(spooled.corpus.items()) == list(in_memory.corpus.items())
    assert replace(spooled, corpus={}) == replace(in_memory, corpus={})


def test_readers_take_turns() -> None:
    spooled = SpooledTexts()
    for text in "abc":
        spooled.id_of(text)
    texts = spooled.texts()

    assert list(zip(texts.values(), texts.items(), strict=True))[2] == ("c", ("d2", "c"))


def test_texts_on_the_disk_are_not_in_memory() -> None:
    tracemalloc.start()
    try:
        spooled = SpooledTexts()
        for number in range(500):
            spooled.id_of(f"{number} " * 2000)
        texts = spooled.texts()
        size_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(texts) == 500
    assert size_bytes / 500 < 1000 < len(texts["d7"])
